"""Whether this process stood still: stopped by a signal, frozen with its container, or starved of its CPU."""

from __future__ import annotations

from edgerun.clock import Clock

BEAT_S = 0.5
_STANDSTILL_NS = 1_000_000_000


class Pulse:
    """One thread beats at least every `BEAT_S`; a second without a beat is a standstill.

    What a socket or driver took in meanwhile looks new to whoever reads it afterwards: no clock says when it came.
    One writer, any readers, no lock: `beat` tells of the standstill before it counts as a beat again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beat_ns = clock.mono_ns()
        self._resumed_ns = -1

    def beat(self) -> None:
        """Say that the process runs."""
        now_ns = self._clock.mono_ns()
        if now_ns - self._beat_ns > _STANDSTILL_NS:
            self._resumed_ns = now_ns
        self._beat_ns = now_ns

    def stood_still(self, since_ns: int) -> bool:
        """Whether the process stood still at some time after `since_ns`, or does not beat now."""
        return self._resumed_ns > since_ns or self._clock.mono_ns() - self._beat_ns > _STANDSTILL_NS
