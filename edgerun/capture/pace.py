"""Frames and time: playing recorded or drawn ones at their real rate, noticing that a camera gives none."""

from __future__ import annotations

import threading

from edgerun.clock import Clock, SystemClock
from edgerun.wake import Wake

CATCH_UP_NS = 500_000_000
"""A player further behind than this has been paused (a stopped process, a codec slower than the file): it goes on from
where it is, as a player does, instead of delivering ever older frames or racing through what it missed."""

NOT_DUE = -1


class Pace:
    """Deals out due times. A frame is due one interval after its predecessor was *due*: lateness does not add up.

    A frame's due time is the moment a camera would have delivered it, and that is its `captured_ns`: never in the
    future, and the age of a frame that was taken late shows by how much.
    """

    def __init__(self, clock: Clock, stop: threading.Event) -> None:
        self._clock = clock
        self._stop = stop
        self._due_ns: int | None = None

    def next(self, interval_ns: int, until_ns: int | None = None, wake: Wake | None = None) -> int | None:
        """Wait until the next frame is due and return when that was; at once when it is late. None: stopped.

        `NOT_DUE` when it is not by `until_ns`, or `wake` was set before.
        """
        now_ns = self._clock.mono_ns()
        due_ns = now_ns if self._due_ns is None else self._due_ns + interval_ns
        if due_ns > now_ns:
            end_ns = due_ns if until_ns is None else min(due_ns, until_ns)
            woken = self._wait((end_ns - now_ns) / 1e9, wake)
            if self._stop.is_set():
                return None
            if woken or end_ns < due_ns:
                return NOT_DUE
        elif self._stop.is_set():
            return None
        elif now_ns - due_ns > CATCH_UP_NS:
            due_ns = now_ns
        self._due_ns = due_ns
        return due_ns

    def _wait(self, timeout_s: float, wake: Wake | None) -> bool:
        """Whether `wake` ended it. A clock that is not the machine's moves by its own `wait` only."""
        if wake is None:
            self._clock.wait(self._stop, timeout_s)
            return False
        if isinstance(self._clock, SystemClock):
            return wake.wait(timeout_s)
        if not wake.wait(0):
            self._clock.wait(self._stop, timeout_s)
        return wake.wait(0)


class Silence:
    """How long a live source has given no frame. While nobody looked, nobody was silent."""

    def __init__(self, clock: Clock, longest_ns: int) -> None:
        self._clock = clock
        self._longest_ns = longest_ns
        self._left_ns = self._heard_ns = clock.mono_ns()

    def watch(self) -> None:
        """A frame is waited for from now on, until `leave()`."""
        self._heard_ns += self._clock.mono_ns() - self._left_ns

    def leave(self) -> None:
        self._left_ns = self._clock.mono_ns()

    def heard(self) -> None:
        """A frame has come."""
        self._heard_ns = self._clock.mono_ns()

    def left_s(self) -> float:
        """How much longer to wait for one; 0 or less: it has been silent for too long."""
        return (self._heard_ns + self._longest_ns - self._clock.mono_ns()) / 1e9
