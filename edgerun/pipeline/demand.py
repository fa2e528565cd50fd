"""Demand: the one thing that flows upstream, and the pure rules made of it.

The worker publishes when each stream's next turn is expected (`Demand.wanted_at_ns`); the stream's capture thread
decides with it whether the frame it has just grabbed is worth decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

_SMOOTHING = 0.125  # weight of a new sample, as in TCP's round-trip estimator (RFC 6298 §2)


class Demand:
    """When a lane's next turn starts, as the worker sees it; 0 = the worker is waiting for a frame.

    One writer (the worker), one reader (the capture thread): a single attribute, no lock.
    """

    __slots__ = ("wanted_at_ns",)

    def __init__(self) -> None:
        self.wanted_at_ns = 0


class Estimate:
    """A smoothed duration in ns: the mean of what was seen, forgetting by 1/8 a sample. 0 until the first sample."""

    __slots__ = ("value_ns",)

    def __init__(self) -> None:
        self.value_ns = 0

    def add(self, sample_ns: int) -> None:
        """Take in one sample; negative ones (a clock that stepped) are ignored."""
        if sample_ns < 0:
            return
        self.value_ns = (
            sample_ns if not self.value_ns else int(self.value_ns + _SMOOTHING * (sample_ns - self.value_ns))
        )


def worth_decoding(now_ns: int, next_arrival_ns: int, wanted_at_ns: int, decode_ns: int) -> bool:
    """Whether the frame in hand should be decoded, or the next one will still come in time.

    `next_arrival_ns` is when the frame after this one is expected, `wanted_at_ns` when the worker's next turn starts
    (0: it waits already), `decode_ns` how long decoding takes. The frame in hand is dropped only when its successor
    would be decoded before the turn starts: then its own result could only have been older.
    """
    if wanted_at_ns <= now_ns + decode_ns:
        return True
    return next_arrival_ns + decode_ns > wanted_at_ns


def next_turns(now_ns: int, current: int | None, services_ns: Sequence[int], waiting: Sequence[bool]) -> list[int]:
    """When each lane's next turn starts: the lane being served ends first, then every other waiting lane goes once.

    `services_ns[i]` is lane i's service time, `current` the lane being served from `now_ns` on (None: nobody).
    Returns absolute ns per lane; 0 where the worker would take a frame at once.
    """
    if current is None and not any(waiting):
        return [0] * len(services_ns)
    free_ns = now_ns + (services_ns[current] if current is not None else 0)
    ahead = sum(service for i, service in enumerate(services_ns) if waiting[i] and i != current)
    turns = []
    for i, service in enumerate(services_ns):
        others = ahead - (service if waiting[i] and i != current else 0)
        turns.append(free_ns + others)
    return turns


def pick(waiting: Sequence[int], weights: Sequence[float], served_ns: Sequence[int], now_ns: int) -> int:
    """The waiting lane with the largest `weight × age since it was last served`; ties go to the first."""
    return max(waiting, key=lambda i: weights[i] * (now_ns - served_ns[i]))


class RateCap:
    """An fps cap that keeps the stated mean rate whatever the camera's.

    Credit grows with time and a frame costs one period of it. Credit above 1.5 periods is forgotten, so that a pause
    is not followed by a burst.
    """

    def __init__(self, max_fps: float) -> None:
        self._period_ns = round(1e9 / max_fps)
        self._credit_ns = self._period_ns
        self._last_ns: int | None = None

    def admits(self, captured_ns: int) -> bool:
        """Whether the frame captured at `captured_ns` may go on; takes its credit if so."""
        if self._last_ns is not None:
            grown = self._credit_ns + max(0, captured_ns - self._last_ns)
            self._credit_ns = min(grown, self._period_ns * 3 // 2)
        self._last_ns = captured_ns
        if self._credit_ns < self._period_ns:
            return False
        self._credit_ns -= self._period_ns
        return True
