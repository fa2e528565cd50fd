"""A text that a command was asked to write into a file: whole, or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from edgerun.errors import ConfigError, EdgerunError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_text(target: Path, text: str) -> None:
    """`text` as the file `target`, replacing what is there, which stays as it was when that fails.

    A link is followed; a device or a pipe is written to. Raises `ConfigError` for a place that cannot be written to,
    `EdgerunError` for a disk that has no room.
    """
    here = Path(os.path.realpath(target))
    try:
        if here.exists() and not here.is_file() and not here.is_dir():
            here.write_text(text, encoding="utf-8")
        else:
            _replace(here, text)
    except OSError as error:
        got = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            raise EdgerunError("cannot be written", where=target, got=got, remedy="make room on the disk") from error
        remedy = "name a file in a folder that exists and that this user may write to"
        raise ConfigError("cannot be written", where=target, got=got, remedy=remedy) from error


def _replace(here: Path, text: str) -> None:
    if here.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    fd, name = tempfile.mkstemp(dir=here.parent, prefix=f".{here.name[:64]}.", suffix=".new")
    new = Path(name)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
            _as_before(fd, here)
        new.replace(here)
    finally:
        new.unlink(missing_ok=True)  # it has the other name by now, unless something went wrong


def _as_before(fd: int, here: Path) -> None:
    """The mode and the owner of the file that is replaced; of a new one, what the umask leaves."""
    try:
        old = here.stat()
    except FileNotFoundError:
        os.umask(mask := os.umask(0o077))
        os.fchmod(fd, 0o666 & ~mask)
        return
    with suppress(PermissionError):
        os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, old.st_mode & 0o777)
