"""The device's models: `<store>/<name>/<version>/`, each a bundle, and `<name>/state.json`, which says what counts.

A version is there when the state lists it, and the state changes by one rename: whatever a kill or a power cut
interrupts, one version stays active and nothing half-installed is seen. What the state does not list is garbage, and
removed when the store is opened by somebody who may.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from edgerun.errors import DeviceError, ModelError
from edgerun.models import mending
from edgerun.models import record as records
from edgerun.models.disk import Disk, disk_error, locked, tree_bytes
from edgerun.models.https import broken_off
from edgerun.models.record import Installed, Record
from edgerun.models.shelf import Shelf, unreadable
from edgerun.models.verify import check_store_folder
from edgerun.models.versions import check_name, check_version, order
from edgerun.spool.options import state_folder
from edgerun.turns import try_lock

_log = logging.getLogger(__name__)

MARK = ".edgerun-store"
_STAGING = ".staging"
_PARTIAL = ".partial"
_LOCK_TIMEOUT_S = 60.0

Audit = Callable[[str, Mapping[str, Any]], None]
"""(what happened, details): `installed`, `activated`, `rolled_back`, `removed`, `downgrade`, `unsigned`, `rebuilt`."""


class Limits(msgspec.Struct, frozen=True):
    """`keep`: how many versions of a model stay, the newest; the active and the previous one always do. `max_bytes` of
    the whole store; `min_free` is left on the file system.
    """

    keep: int = 3
    max_bytes: int = 4 << 30
    min_free: int = 64 << 20


class Staged(msgspec.Struct, frozen=True):
    """A version whose files lie verified in a staging folder, ready to be committed."""

    name: str
    folder: Path
    installed: Installed


class Store(Shelf):
    """The models of one device, and how they change. Any number of processes may have it open; they take turns."""

    def __init__(self, folder: Path, limits: Limits, disk: Disk, audit: Audit | None) -> None:
        super().__init__(folder)
        self.limits = limits
        self.disk = disk
        self.audit = audit or _tell

    @classmethod
    def open(
        cls,
        folder: Path | None = None,
        *,
        limits: Limits | None = None,
        audit: Audit | None = None,
        step: Callable[[str], None] | None = None,
    ) -> Store:
        """The store at `folder`, by default `<state>/models`; it need not be there yet.

        Leftovers of interrupted work are removed where this process may and no other is at work. `audit` is told of
        every change. `step` is called before and after each change of the file system, by name. Raises `DeviceError`
        for a folder that holds something else.
        """
        folder = (folder if folder is not None else state_folder() / "models").absolute()
        store = cls(folder, limits or Limits(), Disk(step) if step is not None else Disk(), audit)
        try:
            # In this order: another process may be making the store, and its mark is there before anything else.
            strange = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
            strange = strange and not (folder / MARK).exists()
        except OSError as error:
            raise unreadable(error, folder) from error
        if strange:
            raise DeviceError(
                "not a model store",
                where=folder,
                expected="a folder that edgerun made, an empty one, or none yet",
                got="a folder with something else in it" if folder.is_dir() else "a file",
                remedy="name another place with --store",
            )
        if (folder / MARK).exists() and os.access(folder, os.W_OK):
            with suppress(OSError), locked(folder / MARK, 0):
                mending.clean(folder, folder / _STAGING, store.disk, store._say)
        return store

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder to prepare a version in; gone at the end unless it was committed. Raises `DeviceError`."""
        try:
            with self._changing():
                self.disk.make_folder(self.folder / _STAGING)
                folder = Path(tempfile.mkdtemp(prefix="new-", dir=self.folder / _STAGING))
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try_lock(fd)  # who cleans leaves it alone
        except OSError as error:
            raise _as_device_error(error, self.folder) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(fd)

    def partial(self) -> Path:
        """The folder for downloads that may be taken up again. Raises `DeviceError`."""
        try:
            self._make()
            self.disk.make_folder(self.folder / _PARTIAL)
        except OSError as error:
            raise _as_device_error(error, self.folder) from error
        return self.folder / _PARTIAL

    def make_room(self, name: str, need_bytes: int) -> None:
        """Raises `DeviceError` unless that much may be written; old versions of the model go first where they must."""
        with self._changing():
            used = tree_bytes(self.folder)
            over = used + need_bytes - self.limits.max_bytes
            if over > 0 and self._has(name):
                over -= self._prune(name, 0)
            if over > 0:
                raise DeviceError(
                    "the model store would outgrow its budget",
                    where=self.folder,
                    expected=f"≤ {self.limits.max_bytes} bytes",
                    got=f"{used} and {need_bytes} more",
                    remedy="run edgerun models prune, or raise [store] max_bytes",
                )
            free = shutil.disk_usage(self.folder).free
            if free - need_bytes < self.limits.min_free:
                raise DeviceError(
                    "no room for the model",
                    where=self.folder,
                    expected=f"{need_bytes} bytes, and {self.limits.min_free} left free after that",
                    got=f"{free} free",
                    remedy="run edgerun models prune, or make room",
                )

    def check_upgrade(self, name: str, version: str, manifest_sha256: str, *, force: bool = False) -> bool:
        """Whether there is something to install: False when this very version is there, undamaged.

        Raises `ModelError` for an older version than was ever installed, and for another model of the same version,
        unless `force`.
        """
        check_name(name, self.folder)
        check_version(version, self.folder / name)
        found = self._read(name)
        if found is None:
            return True
        same = found.versions.get(version)
        if same is not None and same.manifest_sha256 == manifest_sha256:
            with suppress(ModelError):
                check_store_folder(self.folder / name / same.place, same.manifest_sha256)
                return False
            return True
        if found.highest is None or order(version) > order(found.highest) or force:
            return True
        older = order(version) < order(found.highest)
        raise ModelError(
            "an older version than was installed before" if older else "another model of the same version",
            where=f"{name}@{version}",
            expected=f"a version after {found.highest}",
            got=version,
            remedy="give it a higher version; --force installs it all the same, and the audit log says so",
        )

    def commit(self, staged: Staged, *, force: bool = False, activate: bool = True) -> Installed:
        """Make a staged version one of the store, and the active one where `activate` says so, in one step.

        Raises `ModelError` as `check_upgrade` does, and `DeviceError`.
        """
        one, name = staged.installed, staged.name
        with self._changing():
            if not self.check_upgrade(name, one.version, one.manifest_sha256, force=force):
                if activate:
                    self._activate(name, one.version, force=force, back=False)
                self._prune(name, self.limits.keep)
                return self.installed(name, one.version)
            found = self._read(name) or Record(name=name)
            same = found.versions.get(one.version)
            repaired = same is not None and same.manifest_sha256 == one.manifest_sha256
            if found.highest is not None and order(one.version) <= order(found.highest) and not repaired:
                self._say("downgrade", name, one.version, highest=found.highest, source=one.source)
            home = self.folder / name
            one = msgspec.structs.replace(one, folder=_free_place(home, one.version))
            self.disk.make_folder(home)
            self.disk.move(staged.folder, home / one.place)
            found = found.with_version(one)
            if activate:
                found = found.activated(one.version, time.time())
            try:
                self._write(found)
            except OSError:
                shutil.rmtree(home / one.place, ignore_errors=True)
                raise
            details = {
                "source": one.source,
                "trusted": one.trusted,
                "signer": one.signer,
                "sha256": one.manifest_sha256,
            }
            self._say("installed", name, one.version, active=activate, **details)
            if one.trusted == "unsigned":
                self._say("unsigned", name, one.version, source=one.source)
            self._prune(name, self.limits.keep)
        return found.versions[one.version]

    def activate(self, name: str, version: str, *, force: bool = False) -> Installed:
        """Make an installed version the active one, after a look at its files. Raises `ModelError`.

        An older one than the active, other than the previous, needs `force`.
        """
        with self._changing():
            return self._activate(name, version, force=force)

    def rollback(self, name: str) -> Installed:
        """Make the previous version the active one, and the active one the previous. Raises `ModelError`."""
        with self._changing():
            found = self.record(name)
            if found.previous is None:
                raise ModelError(
                    "there is no version to go back to",
                    where=self.folder / name,
                    expected="a previous version",
                    remedy=f"run edgerun models list {name}, and activate one",
                )
            one = self.installed(name, found.previous)
            check_store_folder(self.folder / name / one.place, one.manifest_sha256)
            self._write(found.activated(one.version, time.time()))
            self._say("rolled_back", name, one.version, was=found.active)
        return one

    def annotate(self, name: str, version: str, **notes: Any) -> Installed:
        """Keep notes of a version (JSON values); None takes one away. Raises `ModelError`."""
        with self._changing():
            self.installed(name, version)
            found = self.record(name).noted(version, notes)
            self._write(found)
        return found.versions[version]

    def remove(self, name: str, version: str) -> None:
        """Remove a version that is not active. Raises `ModelError`."""
        with self._changing():
            one, found = self.installed(name, version), self.record(name)
            if version == found.active:
                raise ModelError("the active version stays", where=f"{name}@{version}", remedy="activate another first")
            self._drop(found, [one])

    def prune(self, name: str | None = None, keep: int | None = None) -> int:
        """Remove versions beyond the `keep` newest, of one model or of all; returns the bytes. Raises `ModelError`."""
        with self._changing():
            for path in broken_off(self.folder / _PARTIAL):
                self.disk.remove(path)
            names = [name] if name is not None else self.names()
            return sum(self._prune(one, self.limits.keep if keep is None else keep) for one in names)

    def _activate(self, name: str, version: str, *, force: bool, back: bool = True) -> Installed:
        """`back`: the previous version is also taken, being what was asked for and not what somebody sent again."""
        one, found = self.installed(name, version), self.record(name)
        older = found.active is not None and order(version) < order(found.active)
        older = older and not (back and version == found.previous)
        if older and not force:
            raise ModelError(
                "an older version than the active one",
                where=f"{name}@{version}",
                expected=f"{found.active} or newer",
                got=version,
                remedy=f"run edgerun models rollback {name}"
                if version == found.previous
                else "--force activates it all the same, and the audit log says so",
            )
        check_store_folder(self.folder / name / one.place, one.manifest_sha256)
        if version != found.active:
            if older:
                self._say("downgrade", name, version, was=found.active)
            self._write(found.activated(version, time.time()))
            self._say("activated", name, version, was=found.active)
        return one

    def _prune(self, name: str, keep: int) -> int:
        found = self.record(name)
        stay = {one.version for one in found.ordered()[:keep]} | {found.active, found.previous}
        return self._drop(found, [one for one in found.ordered() if one.version not in stay])

    def _drop(self, found: Record, gone: list[Installed]) -> int:
        if not gone:
            return 0
        for one in gone:
            found = found.without(one.version)
        self._write(found)
        for one in gone:
            self.disk.remove(self.folder / found.name / one.place)
            self._say("removed", found.name, one.version)
        return sum(one.bytes for one in gone)

    def _write(self, found: Record) -> None:
        records.write(self.folder / found.name, found, self.disk)

    def _make(self) -> None:
        if not (self.folder / MARK).exists():
            self.disk.make_folder(self.folder)
            with suppress(FileExistsError), self.disk.new_file(self.folder / MARK):
                pass
            self.disk.sync(self.folder)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            self._make()
            with locked(self.folder / MARK, _LOCK_TIMEOUT_S):
                yield
        except OSError as error:
            raise _as_device_error(error, self.folder) from error

    def _say(self, what: str, name: str, version: str, **details: Any) -> None:
        self.audit(what, {"model": name, "version": version, **details})


def find_stored(text: str) -> Path | None:
    """`Store.find` in the device's own store; None where there is no such model, or no usable store."""
    try:
        return Store.open().find(text)
    except DeviceError as error:
        _log.warning("%s", error)
        return None


def stored_names() -> tuple[str, ...]:
    """The models in the device's own store; none where there is no usable one."""
    try:
        return tuple(Store.open().names())
    except DeviceError as error:
        _log.warning("%s", error)
        return ()


def _free_place(home: Path, version: str) -> str | None:
    """Where a version goes in the model's folder; None: under its own name."""
    if not (home / version).exists():
        return None
    number = 2
    while (home / f"{version}~{number}").exists():
        number += 1
    return f"{version}~{number}"


def _as_device_error(error: OSError, where: Path) -> OSError:
    return error if isinstance(error, DeviceError) else disk_error(error, where)


def _tell(what: str, details: Mapping[str, Any]) -> None:
    level = logging.WARNING if what in ("downgrade", "unsigned", "rebuilt") else logging.INFO
    _log.log(level, "%s: %s", what, ", ".join(f"{key} {value}" for key, value in details.items() if value is not None))
