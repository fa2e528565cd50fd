"""Processes, and threads, that take turns: flock(2), waited for no longer than one cares to."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.01


@contextmanager
def turn_at(folder: Path, limit_s: float = 30.0) -> Iterator[None]:
    """Alone among those who take turns at `folder`, which is there. Raises `OSError`, a `BlockingIOError` of them when
    another keeps it for longer than `limit_s`.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(fd, limit_s)
        yield
    finally:
        os.close(fd)


def lock(fd: int, limit_s: float) -> None:
    """Lock an open file for this descriptor, until it is closed. Raises as `turn_at` does: who may read a file may lock
    it, so nobody waits for ever.
    """
    until_s = time.monotonic() + limit_s
    while not try_lock(fd):
        if time.monotonic() > until_s:
            raise BlockingIOError(errno.EWOULDBLOCK, f"another process has kept it for {limit_s:g} s")
        time.sleep(_POLL_S)


def try_lock(fd: int) -> bool:
    """Whether the open file is locked for this descriptor now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
