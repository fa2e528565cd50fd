"""Playing recorded or drawn frames at their real rate."""

from __future__ import annotations

import threading

from edgerun.clock import Clock

CATCH_UP_NS = 500_000_000
"""A player further behind than this has been paused (a stopped process, a codec slower than the file): it goes on from
where it is, as a player does, instead of delivering ever older frames or racing through what it missed."""


class Pace:
    """Deals out due times. A frame is due one interval after its predecessor was *due*: lateness does not add up.

    A frame's due time is the moment a camera would have delivered it, and that is its `captured_ns`: never in the
    future, and the age of a frame that was taken late shows by how much.
    """

    def __init__(self, clock: Clock, stop: threading.Event) -> None:
        self._clock = clock
        self._stop = stop
        self._due_ns: int | None = None

    def next(self, interval_ns: int) -> int | None:
        """Wait until the next frame is due and return when that was; at once when it is late. None: stopped."""
        now_ns = self._clock.mono_ns()
        due_ns = now_ns if self._due_ns is None else self._due_ns + interval_ns
        if due_ns > now_ns:
            if self._clock.wait(self._stop, (due_ns - now_ns) / 1e9):
                return None
        elif self._stop.is_set():
            return None
        elif now_ns - due_ns > CATCH_UP_NS:
            due_ns = now_ns
        self._due_ns = due_ns
        return due_ns
