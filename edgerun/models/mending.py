"""What an interrupted change left in the store is removed, and a model whose state is damaged put together again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgerun.errors import ModelError
from edgerun.models import record as records
from edgerun.models.disk import Disk
from edgerun.models.record import STATE, Installed, Record
from edgerun.models.verify import check_store_folder
from edgerun.models.versions import NAME, check_version
from edgerun.turns import try_lock

_log = logging.getLogger(__name__)

Say = Callable[..., None]
"""(what happened, model, version, **details)."""


def clean(store: Path, staging: Path, disk: Disk, say: Say) -> None:
    """Remove what no state lists and nobody is working on. Its caller holds the store's lock. Raises `OSError`."""
    for path in staging.glob("*"):
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if try_lock(fd):
                    disk.remove(path)
            finally:
                os.close(fd)
    for home in store.iterdir():
        if NAME.fullmatch(home.name) and home.is_dir() and not home.is_symlink():
            with suppress(OSError):
                _clean_model(home, disk, say)


def _clean_model(home: Path, disk: Disk, say: Say) -> None:
    try:
        found = records.read(home)
    except ModelError as error:
        found = _rebuild(home, error, disk, say)
    listed = {one.place for one in found.versions.values()} if found is not None else set()
    for path in home.iterdir():
        if path.name not in listed and not path.name.startswith(STATE):
            disk.remove(path)
    if found is None:
        home.rmdir()


def _rebuild(home: Path, error: ModelError, disk: Disk, say: Say) -> Record | None:
    """A record of the versions that are whole, the newest active; None when none is."""
    found = Record(name=home.name)
    for path in sorted(home.iterdir()):
        with suppress(ModelError):
            one = _whole(home, path)
            found = found if one is None else found.with_version(one)
    latest = found.latest()
    disk.move(home / STATE, home / f"{STATE}.damaged")
    if latest is not None:
        found = found.activated(latest, time.time())
        records.write(home, found, disk)
    _log.error("%s. What is whole was put together again: %s is active", error, latest or "nothing")
    say("rebuilt", home.name, latest or "", error=str(error))
    return found if latest is not None else None


def _whole(home: Path, path: Path) -> Installed | None:
    """The version that lies at `path`; None when it is another's. Raises `ModelError` for what is none."""
    version = check_version(path.name.partition("~")[0], path)
    manifest, digest, size = check_store_folder(path, None)
    if (manifest.name, manifest.version) != (home.name, version):
        return None
    return Installed(
        name=home.name,
        version=version,
        manifest_sha256=digest,
        bytes=size,
        installed_at=time.time(),
        folder=None if path.name == version else path.name,
    )
