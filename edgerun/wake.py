"""Waking a thread that waits in `poll`: a file descriptor that another thread makes readable."""

from __future__ import annotations

import contextlib
import os
import select
import threading


class Wake:
    """An eventfd (Linux): `set` makes it readable until `clear`. Thread-safe; whoever makes it closes it."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._using = threading.Lock()  # a number that `close` gives back may be another file's at once

    def fileno(self) -> int:
        """For `select.poll`."""
        return self._fd

    def set(self) -> None:
        """Wake whoever waits, now or next. After `close` it does nothing."""
        with self._using:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Forget the calls of `set` so far."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def wait(self, timeout_s: float) -> bool:
        """Wait until set, at most `timeout_s`; returns whether it is. It stays set."""
        return bool(select.select((self._fd,), (), (), max(0.0, timeout_s))[0])  # poll rounds up to milliseconds

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        with self._using:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
