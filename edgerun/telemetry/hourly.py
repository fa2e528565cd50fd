"""Counting what happened in the last hour, in constant memory."""

from __future__ import annotations

from edgerun.clock import Clock

_MINUTES = 60
_NS_A_MINUTE = 60_000_000_000


class LastHour:
    """A count of the last hour, to the minute: what is 59 to 60 minutes old goes. Not for two threads at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts = [0] * _MINUTES
        self._minute = self._now()

    def add(self, count: int = 1) -> None:
        """It happened now."""
        self._forget()
        self._counts[self._minute % _MINUTES] += count

    @property
    def count(self) -> int:
        """How often in the last hour."""
        self._forget()
        return sum(self._counts)

    def _forget(self) -> None:
        now = self._now()
        for minute in range(self._minute + 1, min(now, self._minute + _MINUTES) + 1):
            self._counts[minute % _MINUTES] = 0
        self._minute = max(self._minute, now)

    def _now(self) -> int:
        return self._clock.mono_ns() // _NS_A_MINUTE
