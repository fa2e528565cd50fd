"""Where a conversion is written: a folder beside the target, which takes its place at the end, or vanishes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from edgerun.errors import ConfigError, DeviceError
from edgerun.models.bundle import MANIFEST

_SPARE_BYTES = 64 << 20
_COPIES = 6
"""Of the source: the float network, candidates, the result, and what converters keep beside them."""


class Place:
    """A temporary folder on the target's file system; leaving it removes everything that was not delivered.

    Folders of processes that are gone are removed too (a kill -9 leaves one). Raises `ConfigError` when the target is
    there already (with `force`: when it is neither a bundle nor empty) or cannot be made, `DeviceError` without room.
    """

    def __init__(self, target: Path, *, force: bool, source_bytes: int) -> None:
        self._target = target.absolute()
        _check_target(self._target, force)
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(self._target)
            _check_room(self._target.parent, source_bytes)
            name = f"{_prefix(self._target)}{os.getpid()}-"
            self._folder = Path(tempfile.mkdtemp(prefix=name, dir=self._target.parent))
            for part in ("work", "bundle", "original"):
                (self._folder / part).mkdir()
            self._folder.chmod(0o755)
        except OSError as error:
            if isinstance(error, DeviceError):
                raise
            kind = DeviceError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else ConfigError
            raise kind(
                "the target's folder cannot be written to",
                where=self._target.parent,
                got=error.strerror or str(error),
                remedy="choose another place with -o",
            ) from error

    @property
    def work(self) -> Path:
        """For whatever is made on the way."""
        return self._folder / "work"

    @property
    def bundle(self) -> Path:
        """For what is to be delivered."""
        return self._folder / "bundle"

    @property
    def original(self) -> Path:
        """For the original as a bundle, to be looked at beside the result."""
        return self._folder / "original"

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def deliver(self, target: Path | None = None) -> Path:
        """Put `bundle` in the target's place, or in another one beside it, at once. Raises `DeviceError`."""
        where = (target or self._target).absolute()
        try:
            if where.exists():
                where.rename(self._folder / "before")
            self.bundle.rename(where)
        except OSError as error:
            raise DeviceError("the result cannot be put in place", where=where, got=error.strerror) from error
        return where


def report_folder(target: Path) -> Path:
    """Where the report of a conversion goes whose gate was missed: there is no bundle to hold it."""
    return target.with_name(f"{target.name}-report")


def _prefix(target: Path) -> str:
    return f".{target.name}.convert-"


def _check_target(target: Path, force: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise ConfigError(
            "the target is there already",
            where=target,
            expected="a folder that does not exist yet",
            remedy="choose another with -o, or let it be replaced with --force",
        )
    if not target.is_dir() or target.is_symlink() or not ((target / MANIFEST).is_file() or not any(target.iterdir())):
        raise ConfigError(
            "the target is no bundle, so it is not replaced",
            where=target,
            expected="a folder with a manifest.json, or an empty one",
        )


def _check_room(folder: Path, source_bytes: int) -> None:
    needed, free = _COPIES * source_bytes + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise DeviceError(
            "there is no room on the disk for the work",
            where=folder,
            expected=f"{needed / 1e6:.0f} MB free",
            got=f"{free / 1e6:.0f} MB",
            remedy="make room, or choose another place with -o",
        )


def _remove_stale(target: Path) -> None:
    """Folders of this target whose process is gone."""
    for path in target.parent.glob(f"{_prefix(target)}*-*"):
        found = re.fullmatch(r"(\d+)-.*", path.name.removeprefix(_prefix(target)))
        if found is None or not path.is_dir():
            continue
        try:
            os.kill(int(found[1]), 0)
        except (ProcessLookupError, OverflowError):
            with suppress(OSError):
                shutil.rmtree(path)
        except OSError:
            continue
