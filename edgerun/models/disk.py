"""Changes of the file system in an order that a kill or a power cut cannot spoil.

What is written is complete on the medium before a rename makes it visible, and the rename before it is built upon
(rename(2) replaces atomically; fsync(2): the folder needs one of its own).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from edgerun.errors import DeviceError
from edgerun.models.archive import Archive
from edgerun.turns import lock

_FILE_MODE, _FOLDER_MODE = 0o644, 0o755


class Disk:
    """Every change the store makes; `step` is called with a name before and after each of them."""

    def __init__(self, step: Callable[[str], None] = lambda name: None) -> None:
        self._step = step

    @contextmanager
    def stepping(self, name: str) -> Iterator[None]:
        """Around one change."""
        self._step(f"before {name}")
        yield
        self._step(f"after {name}")

    def make_folder(self, path: Path) -> None:
        """The folder and those around it that are missing, each made durable."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with self.stepping(f"mkdir {path.name}"):
            path.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        self.sync(path.parent)

    def sync(self, path: Path) -> None:
        """fsync of a file or folder."""
        with self.stepping(f"fsync {path.name}"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    @contextmanager
    def new_file(self, path: Path) -> Iterator[IO[bytes]]:
        """A file to write, there when the block ends without an error; on the medium then."""
        with self.stepping(f"create {path.name}"):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            with self.stepping(f"fsync {path.name}"):
                os.fsync(fd)

    def replace(self, path: Path, content: bytes) -> None:
        """`path` holds `content`, or what it held before: nothing else is ever seen."""
        part = path.with_name(f".{path.name}.new")
        with suppress(FileNotFoundError):
            part.unlink()
        try:
            with self.new_file(part) as file:
                file.write(content)
            self.move(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def move(self, source: Path, target: Path) -> None:
        """Rename within one file system, durably."""
        with self.stepping(f"rename {target.name}"):
            source.rename(target)
        self.sync(target.parent)

    def remove(self, path: Path) -> None:
        """A file, link or whole folder; nothing is followed."""
        with self.stepping(f"remove {path.name}"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def copy_out(self, archive: Archive, name: str, folder: Path, limit: int) -> tuple[str, int]:
        """One file of a bundle into `folder`, at its place below it; returns SHA-256 and size. Raises `ModelError`."""
        self.make_folder((folder / name).parent)
        with self.new_file(folder / name) as file:
            return archive.copy(name, file, limit)

    def sync_tree(self, folder: Path) -> None:
        """fsync of everything in `folder`, and of itself."""
        for path, _, names in os.walk(folder, topdown=False):
            for name in names:
                self.sync(Path(path) / name)
            self.sync(Path(path))


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Alone with this lock file. Raises `DeviceError` when another process keeps it for longer."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    try:
        try:
            lock(fd, timeout_s)
        except BlockingIOError:
            raise DeviceError(
                "another process is changing the model store",
                where=path.parent,
                expected=f"it to finish within {timeout_s:g} s",
                remedy="try again",
            ) from None
        yield
    finally:
        os.close(fd)


def tree_bytes(folder: Path) -> int:
    """What the files below `folder` take, links and what vanishes meanwhile left out."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found = os.lstat(os.path.join(path, name))
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def disk_error(error: OSError, where: Path) -> DeviceError:
    """What the operator is told when the file system refuses."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DeviceError(
        "no room for the model" if full else "the model store cannot be written",
        where=where,
        got=error.strerror or str(error),
        remedy="run edgerun models prune, or make room"
        if full
        else "make it writable for edgerun's user, or name another place with --store",
    )
