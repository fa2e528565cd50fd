"""The disk, as far as the spool needs it: every call that changes a file goes through here.

A seam for tests: one records what was written and what was synced, and makes of it every disk that a power cut could
have left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Files:
    """The machine's own. Every method raises `OSError`."""

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lock(self, path: Path) -> int:
        """The lock file's descriptor; the lock ends with it, however the process does. `BlockingIOError` if taken."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def create(self, path: Path) -> int:
        """A new file to append to. `FileExistsError` if there is one."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes) -> None:
        """All of it, at the end; after an error any part of it may be there."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_folder(self, folder: Path) -> None:
        """New names and removed ones last from here on."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rename(self, path: Path, to: Path) -> None:
        path.rename(to)

    def overwrite(self, path: Path, data: bytes, *, sync: bool) -> None:
        """The beginning of a small file, in its place: within one page, hence whole or not at all."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, data, 0)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def names(self, folder: Path) -> list[str]:
        return sorted(os.listdir(folder))

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def free_bytes(self, folder: Path) -> int:
        """What this user may still write there."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

    def give_back(self, fd: int) -> None:
        """Close, whatever it says."""
        with contextlib.suppress(OSError):
            os.close(fd)


def is_full(error: OSError) -> bool:
    """Whether it is only room that is missing."""
    return error.errno in _FULL
