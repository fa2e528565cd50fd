"""Levels put into effect: what a share of a stream's rate is in frames a second, and who is told what."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from edgerun.config.governing import GovernedConfig
from edgerun.device.ladder import Climber, Rung
from edgerun.meter import Histogram
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.lane import Lane
from edgerun.types import Publication

_WORK = ("preprocess", "infer", "decode")
_GAIN = 0.3
"""Weight of the last look in a lane's mean service time."""
_WHOLE = Rung()


class Orders(msgspec.Struct, frozen=True):
    """What one stream is to do: its rung, the most results a second in quiet hours, and why it rests, by whom."""

    rung: Rung = _WHOLE
    max_fps: float | None = None
    paused: Mapping[str, str] = {}


class Work(msgspec.Struct, frozen=True):
    """What a stream's lanes did between two looks: time that engines worked for it (ns), inferences."""

    engine_ns: int = 0
    inferences: int = 0


class AgeWatch:
    """A sink that keeps the ages and service times of some streams' results from one look to the next."""

    wants_picture = False
    broken = False

    def __init__(self, streams: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._seen = {name: (Histogram(), Histogram()) for name in streams}

    def publish(self, publication: Publication) -> None:
        """See `ports.Sink`; what was not inferred from its own frame says nothing."""
        result = publication.result
        seen = self._seen.get(result.stamp.stream)
        if seen is None or result.reused is not None or result.crop is not None:
            return
        seen[0].record(publication.age_ms)
        seen[1].record(sum(result.latency_ns.get(stage, 0) for stage in _WORK) / 1e6)

    def take(self, stream: str, fewest: int) -> tuple[float, float] | None:
        """The p95 of ages and of service times (ms) since the last time; None as long as there are too few."""
        ages, services = self._seen[stream]
        if ages.count < fewest:
            return None
        age_ms, service_ms = ages.take().percentile(95), services.take().percentile(95)
        return None if age_ms is None or service_ms is None else (age_ms, service_ms)

    def flush(self, timeout_s: float) -> None:
        """Nothing is on its way here."""

    def close(self) -> None:
        """Nothing is held."""


class HasCaptures(Protocol):
    """A pipeline, or the streams that it is to have."""

    @property
    def captures(self) -> Sequence[Capture]: ...


class Levels:
    """The streams of a pipeline as the governor moves them. Used by the thread "sensors"."""

    def __init__(self, config: GovernedConfig, pipeline: HasCaptures) -> None:
        self._streams = config.streams
        self._captures: dict[str, Capture] = {capture.stream: capture for capture in pipeline.captures}
        self._service_s: dict[Lane, float] = {}
        self._base_fps: dict[Lane, float] = {}
        self._sums: dict[Lane, tuple[float, int]] = {}
        self._orders: dict[str, Orders] = {}

    def inherit(self, before: Levels) -> None:
        """Go on where `before` stood, with the streams that are still the same."""
        same = {name for name, capture in self._captures.items() if before._captures.get(name) is capture}
        lanes = {lane for name in same for lane in self._captures[name].lanes}
        self._orders = {name: orders for name, orders in before._orders.items() if name in same}
        self._service_s = {lane: one for lane, one in before._service_s.items() if lane in lanes}
        self._base_fps = {lane: one for lane, one in before._base_fps.items() if lane in lanes}
        self._sums = {lane: one for lane, one in before._sums.items() if lane in lanes}

    def climbers(self) -> list[Climber]:
        """The streams, and what can be done about each."""
        found = []
        for name, capture in self._captures.items():
            stream = self._streams[name]
            found.append(
                Climber(
                    name,
                    stream.weight,
                    variants=max(len(lane.stand_ins) for lane in capture.lanes),
                    gated=stream.gate is not None,
                    rated=not any(lane.plan.ordered for lane in capture.lanes),
                    pausable=stream.may_pause,
                )
            )
        return found

    def work(self) -> dict[str, Work]:
        """What each stream's engines did since the last call; keeps the mean service times on the way."""
        done: dict[str, Work] = {}
        for name, capture in self._captures.items():
            engine_ns = inferences = 0
            crops = [lane.cascade for lane in capture.lanes if lane.cascade is not None]
            for lane in (*capture.lanes, *crops):
                spent_ms, count = self._since(lane)
                engine_ns += round(spent_ms * 1e6)
                inferences += count
                if count > 0:
                    mean_s = spent_ms / 1000.0 / count
                    self._service_s[lane] = (1 - _GAIN) * self._service_s.get(lane, mean_s) + _GAIN * mean_s
            done[name] = Work(engine_ns, inferences)
        self._note_rates()
        return done

    def give(self, orders: Mapping[str, Orders]) -> None:
        """Have every stream do as it is told from now on; to be called at each look, since rates become known late."""
        for name, capture in self._captures.items():
            wanted = orders.get(name, Orders())
            before = self._orders.get(name, Orders())
            capture.limit(self._caps(name, capture, wanted))
            if wanted.rung.variant != before.rung.variant:
                capture.stand_in(wanted.rung.variant)
            if wanted.rung.gate_factor != before.rung.gate_factor:
                capture.sharpen(wanted.rung.gate_factor)
            for by in before.paused.keys() - wanted.paused.keys():
                capture.resume(by)
            for by, reason in wanted.paused.items():
                if by not in before.paused:
                    capture.pause(reason, by)
            self._orders[name] = wanted

    def shown(self, name: str) -> dict[str, object]:
        """What a stream is held to now, for telemetry; empty where that is nothing."""
        orders, out = self._orders.get(name, Orders()), dict[str, object]()
        caps = [lane.slowed_to_fps for lane in self._captures[name].lanes if lane.slowed_to_fps is not None]
        if caps:
            out["max_fps"] = round(min(caps), 3)
        if orders.rung.variant:
            lanes = self._captures[name].lanes
            out["model"] = ", ".join(_in_place(lane, orders.rung.variant).plan.model for lane in lanes)
        if orders.rung.gate_factor > 1.0:
            out["gate_factor"] = orders.rung.gate_factor
        if orders.paused:
            out["paused"] = True
        return out

    def _caps(self, name: str, capture: Capture, orders: Orders) -> dict[str, float]:
        """Frames a second by model; no entry where there is no cap."""
        caps: dict[str, float] = {}
        for lane in capture.lanes:
            known = [] if orders.max_fps is None else [orders.max_fps]
            base_fps = self._base_fps.get(lane)
            if orders.rung.fps_share < 1.0 and base_fps is not None:
                known.append(max(orders.rung.fps_share * base_fps, self._streams[name].least_fps or 0.0))
            if known:
                caps |= dict.fromkeys([one.plan.model for one in (lane, *lane.stand_ins)], float(f"{min(known):.3g}"))
        return caps

    def _since(self, lane: Lane) -> tuple[float, int]:
        """Milliseconds of work and inferences since the last look; whoever takes the histograms hides a little."""
        stages = lane.meter.stages
        spent_ms, count = sum(stages[stage].sum_ms for stage in _WORK), stages["infer"].count
        before_ms, before = self._sums.get(lane, (0.0, 0))
        self._sums[lane] = (spent_ms, count)
        return (spent_ms, count) if count < before else (max(0.0, spent_ms - before_ms), count - before)

    def _note_rates(self) -> None:
        """What each stream does when nothing is taken from it: while something is, the last such rate counts."""
        by_model: dict[str, list[Lane]] = {}
        for capture in self._captures.values():
            for lane in capture.lanes:
                by_model.setdefault(lane.plan.model, []).append(lane)
        for lanes in by_model.values():
            for lane, fps in zip(lanes, _share_out(lanes, self._service_s), strict=True):
                free = self._orders.get(lane.plan.stream, Orders()) == Orders()
                if fps is not None and (free or lane not in self._base_fps):
                    self._base_fps[lane] = fps


def _share_out(lanes: Sequence[Lane], service_s: Mapping[Lane, float]) -> list[float | None]:
    """The rate of each lane of one engine with all of them at work: what its camera gives and its config allows, or its
    share by weight of what the engine can do, where that is less. None: not known yet.
    """
    asked: list[float | None] = []
    for lane in lanes:
        known = [lane.plan.max_fps or 0.0, 1e9 / lane.demand.interval_ns if lane.demand.interval_ns else 0.0]
        asked.append(min((fps for fps in known if fps > 0), default=None))
    times = [service_s[lane] for lane in lanes if service_s.get(lane)]
    if not times:
        return asked
    weights = [lane.plan.weight for lane in lanes]
    return list(share_out(asked, weights, len(times) / sum(times)))


def share_out(asked: Sequence[float | None], weights: Sequence[float], capacity: float) -> list[float | None]:
    """What each gets of `capacity`: what it asks for, else its share by weight of what the others leave.

    Water filling. One that asks for nothing known (None) gets nothing known; it is not counted.
    """
    got: list[float | None] = [None] * len(asked)
    left, open_ = capacity, [i for i, one in enumerate(asked) if one is not None]
    while open_:
        per_weight = left / sum(weights[i] for i in open_)
        content = [i for i in open_ if (asked[i] or 0.0) <= per_weight * weights[i]]
        for i in content or open_:
            got[i] = asked[i] if content else per_weight * weights[i]
            left -= got[i] or 0.0
        open_ = [i for i in open_ if got[i] is None]
    return got


def _in_place(lane: Lane, place: int) -> Lane:
    return lane.stand_ins[min(place, len(lane.stand_ins)) - 1] if lane.stand_ins else lane
