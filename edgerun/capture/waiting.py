"""Waiting for a descriptor and for a wake at once, to the microsecond."""

from __future__ import annotations

import select

from edgerun.wake import Wake

_SELECTABLE = 1024  # FD_SETSIZE


def wait_readable(fd: int, timeout_s: float, wake: Wake | None) -> tuple[bool, bool]:
    """Wait until `fd` can be read, `wake` is set or the time has passed; returns (readable, woken)."""
    waiting = (fd,) if wake is None else (fd, wake.fileno())
    if max(waiting) < _SELECTABLE:  # `poll` rounds up to whole milliseconds, by which a result would be older
        ready, _, _ = select.select(waiting, (), (), max(0.0, timeout_s))
    else:
        poll = select.poll()
        for each in waiting:
            poll.register(each, select.POLLIN)
        ready = [each for each, _ in poll.poll(max(0.0, timeout_s) * 1000)]
    return fd in ready, len(waiting) == 2 and waiting[1] in ready
