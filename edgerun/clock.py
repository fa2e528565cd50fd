"""Monotonic and wall time as an object, so that tests can turn the hands themselves.

Monotonic time (CLOCK_MONOTONIC, nanoseconds) measures ages and latencies; wall time (Unix seconds) is only ever written
into messages, because it may jump.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What everything that measures time is given."""

    def mono_ns(self) -> int: ...

    def unix_s(self) -> float: ...

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until `event` is set or `timeout_s` has passed; returns whether the event is set."""
        ...


class SystemClock:
    """The machine's clocks."""

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def unix_s(self) -> float:
        return time.time()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(timeout_s) if timeout_s > 0 else event.is_set()


class FakeClock:
    """A clock that moves only when told to: `advance()`, or a `wait()`, which jumps to its own deadline at once."""

    def __init__(self, mono_ns: int = 1_000_000_000, unix_s: float = 1_795_230_000.0) -> None:
        self._lock = threading.Lock()
        self._mono_ns = mono_ns
        self._unix_s = unix_s

    def mono_ns(self) -> int:
        with self._lock:
            return self._mono_ns

    def unix_s(self) -> float:
        with self._lock:
            return self._unix_s

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._mono_ns += round(seconds * 1e9)
            self._unix_s += seconds

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        if not event.is_set():
            self.advance(max(0.0, timeout_s))
        return event.is_set()
