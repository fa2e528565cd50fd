"""What is installed in a model store, for those who only look."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from edgerun.errors import DeviceError, ModelError, did_you_mean
from edgerun.models import record as records
from edgerun.models.record import STATE, Installed, Record
from edgerun.models.versions import NAME

_log = logging.getLogger(__name__)


class Shelf:
    """The models below `folder` as they stand there now; nothing is changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The models that are installed. Raises `DeviceError`."""
        try:
            return sorted(p.name for p in self.folder.iterdir() if NAME.fullmatch(p.name) and (p / STATE).is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(error, self.folder) from error

    def record(self, name: str) -> Record:
        """What is known of a model. Raises `ModelError` when it is not installed or its file is damaged."""
        found = self._read(name) if NAME.fullmatch(name) else None
        if found is None:
            raise ModelError(
                "no such model in the store",
                where=self.folder,
                expected=", ".join(self.names()) or "a model: the store is empty",
                got=repr(name),
                remedy=did_you_mean(name, self.names()) or "see edgerun models list, or edgerun models fetch",
            )
        return found

    def versions(self, name: str) -> list[Installed]:
        """A model's versions, the newest first. Raises `ModelError`."""
        return self.record(name).ordered()

    def installed(self, name: str, version: str | None = None) -> Installed:
        """One version, by default the active one. Raises `ModelError`."""
        found = self.record(name)
        wanted = version if version is not None else found.active
        if wanted is None or wanted not in found.versions:
            raise ModelError(
                "no such version of the model in the store" if wanted else "no version of the model is active",
                where=self.folder / name,
                expected=", ".join(one.version for one in found.ordered()) or "a version",
                got=wanted,
                remedy=f"run edgerun models activate {name}@VERSION" if wanted is None else None,
            )
        return found.versions[wanted]

    def path(self, name: str, version: str | None = None) -> Path:
        """The bundle's folder, of the active version or of a named one. Raises `ModelError`."""
        return self.folder / name / self.installed(name, version).place

    def find(self, text: str) -> Path | None:
        """The bundle called `name` (its active version) or `name@version`; None when the store has none."""
        name, _, version = text.partition("@")
        try:
            return self.path(name, version or None)
        except ModelError as error:
            if NAME.fullmatch(name) and self._has(name):
                _log.error("%s", error)
            return None

    def now(self) -> float:
        """Unix seconds, but never before the last change of any model: a clock without a battery starts in the past,
        and what has expired or was revoked must not come back with it.
        """
        seen = [time.time()]
        for name in self.names():
            with suppress(ModelError):
                found = self._read(name)
                seen.append(found.seen_at if found is not None else 0.0)
        return max(seen)

    def _has(self, name: str) -> bool:
        return (self.folder / name / STATE).is_file()

    def _read(self, name: str) -> Record | None:
        return records.read(self.folder / name)


def unreadable(error: OSError, where: Path) -> DeviceError:
    """For a folder of a store that cannot be looked into."""
    return DeviceError("the model store cannot be read", where=where, got=error.strerror or str(error))
