"""How a model does while it serves: from the meters of its lanes and the device's temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgerun.clock import Clock
from edgerun.meter import Histogram, StreamMeter
from edgerun.models.rollout import FEWEST, Health
from edgerun.pipeline.pipeline import Pipeline
from edgerun.types import Reading

_LATE = ("failed", "expired")
_WINDOW_NS = 600_000_000_000
"""What is judged is no older than this: a fault that comes late is not outvoted by a good beginning."""


class Window:
    """The results of one model since a moment. `before` is what was known of it in earlier runs of the same state."""

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        readings: Callable[[], Sequence[Reading]],
        clock: Clock,
        before: Health | None = None,
    ) -> None:
        self._name, self._pipeline, self._readings, self._clock = name, pipeline, readings, clock
        self._before = before or Health()
        self._begun_ns = clock.mono_ns()
        self._temp_c = hottest_c(readings())
        self._results = 0
        self._bases: dict[StreamMeter, tuple[Histogram, int, int]] = {}
        self._rebased_ns = self._begun_ns
        for meter in self._meters():
            self._bases[meter] = _state_of(meter)

    def look(self) -> Health:
        """How it does now."""
        infer, published, late = Histogram(), 0, 0
        for meter in self._meters():
            base = self._bases.setdefault(meter, _state_of(meter))
            now = _state_of(meter)
            infer.merge(now[0].since(base[0]))
            published += now[1] - base[1]
            late += now[2] - base[2]
        now_ns = self._clock.mono_ns()
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
        if now_ns - self._rebased_ns > _WINDOW_NS and published + late >= FEWEST:
            self._rebased_ns, self._results = now_ns, self._results + published
            self._bases = {meter: _state_of(meter) for meter in self._meters()}
        return health

    def _meters(self) -> list[StreamMeter]:
        return [lane.meter for lane in self._pipeline.lanes if lane.plan.model == self._name]


def baseline(name: str, pipeline: Pipeline) -> tuple[float | None, float]:
    """p95 of the inference (ms) and share of failures of what has served so far; None where too little is known."""
    infer, ended, late = Histogram(), 0, 0
    for lane in pipeline.lanes:
        if lane.plan.model == name:
            histogram, published, failures = _state_of(lane.meter)
            infer.merge(histogram)
            ended += published + failures
            late += failures
    return infer.percentile(95) if infer.count >= FEWEST else None, late / ended if ended >= FEWEST else 0.0


def hottest_c(readings: Sequence[Reading]) -> float | None:
    """The highest temperature among these; None where there is none."""
    return max((one.value for one in readings if one.name.endswith("/temp_c")), default=None)


def _state_of(meter: StreamMeter) -> tuple[Histogram, int, int]:
    fates = meter.account.view().fates
    return meter.stages["infer"].since(None), fates["published"], sum(fates[one] for one in _LATE)
