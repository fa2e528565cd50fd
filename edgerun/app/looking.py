"""How a model does while it serves: from the account of its lanes and the device's temperature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgerun.clock import Clock
from edgerun.meter import Histogram
from edgerun.models.rollout import FEWEST, Health
from edgerun.telemetry.ledger import StreamTotals
from edgerun.types import Reading

_LATE = ("failed", "expired")
_WINDOW_NS = 600_000_000_000
"""What is judged is no older than this: a fault that comes late is not outvoted by a good beginning."""

Totals = Callable[[], Mapping[str, StreamTotals]]
"""What was measured since the start of each account of one model."""


class Window:
    """The results of one model since a moment. `before` is what was known of it in earlier runs of the same state."""

    def __init__(
        self,
        totals: Totals,
        readings: Callable[[], Sequence[Reading]],
        clock: Clock,
        before: Health | None = None,
    ) -> None:
        self._totals, self._readings, self._clock = totals, readings, clock
        self._before = before or Health()
        self._begun_ns = self._based_ns = clock.mono_ns()
        self._temp_c = hottest_c(readings())
        self._bases = dict(totals())
        self._results = 0
        """Before the bases."""

    def look(self) -> Health:
        """How it does now."""
        now_ns, totals = self._clock.mono_ns(), self._totals()
        infer, published, late = Histogram(), 0, 0
        for name, total in totals.items():
            base = self._bases.setdefault(name, total)
            infer.merge(total.stages["infer"].since(base.stages["infer"]))
            published += total.account.fates["published"] - base.account.fates["published"]
            late += _late(total) - _late(base)
        temp_c = hottest_c(self._readings())
        if self._temp_c is None:
            self._temp_c = temp_c
        health = Health(
            minutes=self._before.minutes + (now_ns - self._begun_ns) / 60e9,
            results=self._before.results + self._results + published,
            frames=published + late,
            failures=late,
            p95_ms=infer.percentile(95),
            temp_rise_c=None if temp_c is None or self._temp_c is None else max(0.0, temp_c - self._temp_c),
        )
        if now_ns - self._based_ns > _WINDOW_NS and published + late >= FEWEST:
            self._based_ns, self._results, self._bases = now_ns, self._results + published, dict(totals)
        return health


def baseline(totals: Mapping[str, StreamTotals]) -> tuple[float | None, float]:
    """p95 of the inference (ms) and share of failures of what has served so far; None where too little is known."""
    infer, ended, late = Histogram(), 0, 0
    for total in totals.values():
        infer.merge(total.stages["infer"])
        ended += total.account.fates["published"] + _late(total)
        late += _late(total)
    return infer.percentile(95) if infer.count >= FEWEST else None, late / ended if ended >= FEWEST else 0.0


def hottest_c(readings: Sequence[Reading]) -> float | None:
    """The highest temperature among these; None where there is none."""
    return max((one.value for one in readings if one.name.endswith("/temp_c")), default=None)


def _late(total: StreamTotals) -> int:
    return sum(total.account.fates[one] for one in _LATE)
