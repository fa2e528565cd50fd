"""How much memory the process takes, and whether that grows: a slope that a burst or a step does not fool."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

KEPT = 60
"""Samples, one a minute at most: the slope is that of the last hour."""
_LEAST_APART_NS = 60_000_000_000
_FEWEST = 10
_WARM_UP_NS = 300_000_000_000
"""Models, codecs and allocators take what they need in the first minutes; that is no leak."""
_NS_AN_HOUR = 3.6e12


class MemoryTrend:
    """The slope of resident memory, MiB an hour: the median of the slopes of all pairs of samples.

    H. Theil (1950), P. K. Sen (1968): up to 29 % of the samples may be anything. Known from ten samples on, ten minutes
    after the first five. Used by one thread.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self._first_ns: int | None = None

    def add(self, at_ns: int, rss_mib: float) -> None:
        """A sample of this moment (monotonic ns); those that come too soon after the last are not needed."""
        if self._first_ns is None:
            self._first_ns = at_ns
        if at_ns - self._first_ns < _WARM_UP_NS:
            return
        if not self._samples or at_ns - self._samples[-1][0] >= _LEAST_APART_NS:
            self._samples.append((at_ns, rss_mib))

    @property
    def slope_mib_h(self) -> float | None:
        """None as long as too little is known."""
        if len(self._samples) < _FEWEST:
            return None
        at_h = np.array([(at_ns - self._samples[0][0]) / _NS_AN_HOUR for at_ns, _ in self._samples])
        mib = np.array([rss_mib for _, rss_mib in self._samples])
        later, earlier = np.triu_indices(len(mib), 1)[::-1]
        return float(np.median((mib[later] - mib[earlier]) / (at_h[later] - at_h[earlier])))

    def group(self, rss_mib: float | None) -> dict[str, Any]:
        """The `memory` group of telemetry, as far as it is known."""
        if rss_mib is None:
            return {}
        slope = self.slope_mib_h
        return {"rss_mib": round(rss_mib, 1)} | ({} if slope is None else {"slope_mib_h": round(slope, 2)})
