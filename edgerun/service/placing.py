"""Putting files in their place: atomically, again and again, and never over what somebody edited.

The first line of a file says who wrote it and the SHA-256 of all that follows: whether it was edited can be told from
the file alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from edgerun.errors import ConfigError, DeviceError
from edgerun.service.units import File

_MARK = re.compile(rb"# Written by edgerun service install; sha256 ([0-9a-f]{64}) of what follows\.\n")
_FROM_US = b"# Written by edgerun service install;"
_TEMPORARY = ".edgerun-new"

Did = Literal["written", "updated", "unchanged", "removed", "kept"]


class Deed(msgspec.Struct, frozen=True):
    """What became, or would become, of one file."""

    path: str
    did: Did


def marked(text: str) -> bytes:
    """The bytes of a file as it is written."""
    body = text.encode("utf-8")
    digest = hashlib.sha256(body).hexdigest()
    return f"# Written by edgerun service install; sha256 {digest} of what follows.\n".encode() + body


def edited(content: bytes) -> bool:
    """Whether it is not, byte for byte, what some version of `edgerun service install` wrote."""
    mark = _MARK.match(content)
    return mark is None or hashlib.sha256(content[mark.end() :]).hexdigest().encode() != mark[1]


class Place:
    """The files below `root`; with `dry` everything is only told. Raises `DeviceError` where the disk refuses."""

    def __init__(self, root: Path, *, dry: bool = False, force: bool = False) -> None:
        self._root, self._dry, self._force = root, dry, force

    def put(self, files: Sequence[File]) -> list[Deed]:
        """Write all of them, or none: raises `ConfigError` naming each that somebody edited, unless `force`."""
        foreign = [file.path for file in files if self._is_foreign(file)]
        if foreign and not self._force:
            raise ConfigError(
                "not overwritten: edited by hand, or not written by edgerun",
                where=", ".join(f"/{path}" for path in foreign),
                remedy="keep your changes in a drop-in (systemctl edit) and give --force to replace the file",
            )
        deeds = [self._put_one(file) for file in files]
        self._sync(self._root / file.path for file, deed in zip(files, deeds, strict=True) if deed.did != "unchanged")
        return deeds

    def remove(self, paths: Iterable[str]) -> list[Deed]:
        """Remove those that are there; what was edited is kept, unless `force`."""
        return [self._remove_one(path) for path in paths if os.path.lexists(self._root / path)]

    def written_in(self, folders: Iterable[str]) -> list[str]:
        """What an earlier install wrote into these folders, edited since or not."""
        found = []
        for folder in folders:
            here = self._root / folder
            if here.is_dir():
                with _refused(here):
                    each = sorted(path for path in here.iterdir() if path.is_file() and not path.is_symlink())
                found += [f"{folder}/{path.name}" for path in each if path.read_bytes().startswith(_FROM_US)]
        return found

    def _is_foreign(self, file: File) -> bool:
        here = self._root / file.path
        if file.target is not None or not os.path.lexists(here):
            return False
        with _refused(here):
            return here.is_symlink() or edited(here.read_bytes())

    def _put_one(self, file: File) -> Deed:
        here = self._root / file.path
        with _refused(here):
            there = os.path.lexists(here)
            if there and self._is_as_wanted(file, here):
                return Deed(file.path, "unchanged")
            if not self._dry:
                _make_folders(here.parent)
                new = here.with_name(here.name + _TEMPORARY)
                new.unlink(missing_ok=True)
                if file.target is not None:
                    new.symlink_to(file.target)
                else:
                    with new.open("xb") as out:
                        out.write(marked(file.text))
                        os.fchmod(out.fileno(), 0o644)
                        out.flush()
                        os.fsync(out.fileno())
                new.replace(here)
        return Deed(file.path, "updated" if there else "written")

    def _is_as_wanted(self, file: File, here: Path) -> bool:
        if file.target is not None:
            return here.is_symlink() and str(here.readlink()) == file.target
        return not here.is_symlink() and here.read_bytes() == marked(file.text)

    def _remove_one(self, path: str) -> Deed:
        here = self._root / path
        with _refused(here):
            if not here.is_symlink() and edited(here.read_bytes()) and not self._force:
                return Deed(path, "kept")
            if not self._dry:
                here.unlink()
                if here.parent.name.endswith(".d") and not any(here.parent.iterdir()):
                    here.parent.rmdir()
        return Deed(path, "removed")

    def _sync(self, paths: Iterable[Path]) -> None:
        """The renames themselves onto the disk: a box may lose its power the moment after."""
        for folder in {path.parent for path in paths} if not self._dry else ():
            with _refused(folder):
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


def _make_folders(folder: Path) -> None:
    """As `mkdir -p`, each 0755 whatever the umask: systemd reads them as root, people as themselves."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


@contextmanager
def _refused(where: Path) -> Iterator[None]:
    """What the disk refuses as one `DeviceError`."""
    try:
        yield
    except DeviceError:
        raise
    except OSError as error:
        remedy = None
        if isinstance(error, PermissionError):
            remedy = "run it as root: `sudo edgerun service …`"
        elif error.errno == errno.EROFS:
            remedy = "mount it writable first, or install into an image with --root DIR"
        raise DeviceError(
            "cannot be written or read", where=where, got=error.strerror or error, remedy=remedy
        ) from error
