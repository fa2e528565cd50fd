"""Which layers stay in higher precision: as few as meet the gate, found by building and judging. Pure but for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from edgerun.clock import Clock, SystemClock
from edgerun.convert.judge.gate import Gate
from edgerun.convert.parts import Layer, Progress, Quality, Quantizer, Samples

Judging = Callable[[bytes], Quality]


class Trial(msgspec.Struct, frozen=True):
    """One choice of layers that was built and judged."""

    kept: frozenset[str]
    quality: Quality
    passed: bool
    size_bytes: int
    seconds: float


class Found(msgspec.Struct, frozen=True):
    """The choice that was made: where none met the gate, the one that came nearest to it.

    `naive` is everything int8; `sensitivity` is empty where it was not needed. `macs_share` (0..1) is how much of the
    network's multiply-accumulates is left in higher precision. `complete` False: the time was over before every layer
    had been tried.
    """

    model: bytes
    kept: frozenset[str]
    quality: Quality
    passed: bool
    naive: Quality
    sensitivity: Mapping[str, float]
    trials: tuple[Trial, ...]
    macs_share: float
    complete: bool

    def text(self, layers: Sequence[Layer]) -> str:
        """The choice in words."""
        if not self.kept:
            return f"all {len(layers)} layers int8"
        share = f"{self.macs_share:.1%} of the MACs"
        return f"{len(self.kept)} of {len(layers)} layers in higher precision, {share}, after {len(self.trials)} tries"

    def tries(self) -> str:
        """What each try kept, by how many layers were in higher precision: the account of the search."""
        return ", ".join(f"{len(one.kept)}: {one.quality.kept:.2%}" for one in self.trials)


def find_layers(
    quantizer: Quantizer,
    judge: Judging,
    gate: Gate,
    samples: Samples,
    progress: Progress,
    *,
    budget_s: float = math.inf,
    mixed: bool = True,
    clock: Clock | None = None,
) -> Found:
    """Everything int8 first. Where that misses the gate and `mixed` allows, the smallest set of layers that meets it.

    Layers come in the quantiser's order (`ranked`, from `sensitivity` over `samples`). The number that must stay is
    doubled until the gate is met, then bisected; whatever meets it was itself built and judged, so a judge that is
    not quite monotonic costs layers but never the gate. `budget_s` ends the search with what it has, but never before
    the first passing choice could have been tried: everything in higher precision.

    Layers of that prefix are not tried one by one whether each could be spared: so many questions to one evaluation set
    fit the choice to it (measured on the bundled detector: recall .995 on the half that was asked, .968 on the other).
    """
    return _Search(quantizer, judge, gate, progress, budget_s, clock or SystemClock()).run(samples, mixed)


def rank(layers: Sequence[Layer], sensitivity: Mapping[str, float]) -> list[str]:
    """Names, the most sensitive first; NaN counts as most sensitive, layers that were not measured come last."""

    def place(at: int) -> tuple[bool, float, int]:
        value = sensitivity.get(layers[at].name)
        if value is None:
            return True, 0.0, at
        return False, (-math.inf if math.isnan(value) else value), at

    return [layers[at].name for at in sorted(range(len(layers)), key=place)]


def operators(layers: Sequence[Layer], named: Mapping[str, str]) -> list[Layer]:
    """Those of `layers` that are operators (`named`), with the weights that a quantiser lists as a choice of their own,
    called as the operator with a word in brackets behind it.
    """
    beside: dict[str, int] = {}
    for one in layers:
        if one.name not in named:
            owner = one.name.rpartition(" (")[0]
            beside[owner] = beside.get(owner, 0) + one.weights
    found = [one for one in layers if one.name in named]
    return [msgspec.structs.replace(one, weights=one.weights + beside.get(one.name, 0)) for one in found]


class _Search:
    def __init__(
        self, quantizer: Quantizer, judge: Judging, gate: Gate, progress: Progress, budget_s: float, clock: Clock
    ) -> None:
        self._quantizer, self._judge, self._gate, self._progress = quantizer, judge, gate, progress
        self._clock = clock
        self._ends_ns = clock.mono_ns() + budget_s * 1e9
        self._layers = {layer.name: layer for layer in quantizer.layers}
        self._trials: dict[frozenset[str], Trial] = {}
        self._best: tuple[Trial, bytes] | None = None
        self._complete = True

    def run(self, samples: Samples, mixed: bool) -> Found:
        naive = self._try(frozenset(), "quantising every layer")
        sensitivity: Mapping[str, float] = {}
        if not naive.passed and mixed and self._layers:
            sensitivity = self._quantizer.sensitivity(samples, self._progress)
            self._find_smallest(list(self._quantizer.ranked(sensitivity)))
        assert self._best is not None, "everything int8 was tried"
        best, model = self._best
        total = sum(layer.macs for layer in self._layers.values())
        macs = sum(self._layers[name].macs for name in best.kept)
        return Found(
            model=model,
            kept=best.kept,
            quality=best.quality,
            passed=best.passed,
            naive=naive.quality,
            sensitivity=sensitivity,
            trials=tuple(self._trials.values()),
            macs_share=macs / total if total else 0.0,
            complete=self._complete,
        )

    def _find_smallest(self, ranked: list[str]) -> None:
        """Try how many of the first must stay; where not even all of them are enough, all were tried."""
        low, high = 0, 0  # low misses the gate, high meets it
        while True:
            low, high = high, min(len(ranked), max(1, 2 * high))
            if low and self._over():
                high = len(ranked)
            if self._try(frozenset(ranked[:high]), f"{high} layers in higher precision").passed:
                break
            if high == len(ranked):
                return
        while high - low > 1 and not self._over():
            middle = (low + high) // 2
            if self._try(frozenset(ranked[:middle]), f"{middle} layers in higher precision").passed:
                high = middle
            else:
                low = middle
        self._complete = high - low <= 1

    def _try(self, kept: frozenset[str], text: str) -> Trial:
        known = self._trials.get(kept)
        if known is not None:
            return known
        began_ns = self._clock.mono_ns()
        self._progress(text, 0, 0)
        model = self._quantizer.build(kept)
        quality = self._judge(model)
        seconds = (self._clock.mono_ns() - began_ns) / 1e9
        trial = Trial(kept, quality, self._gate.passes(quality), len(model), seconds)
        self._trials[kept] = trial
        if self._best is None or self._better(trial, self._best[0]):
            self._best = (trial, model)
        return trial

    def _better(self, one: Trial, other: Trial) -> bool:
        """Of two that pass the one with fewer MACs, then layers, in higher precision; else what passes, or nearly."""
        if one.passed != other.passed:
            return one.passed
        if not one.passed:
            return self._gate.shortfall(one.quality) < self._gate.shortfall(other.quality)
        return self._cost(one) < self._cost(other)

    def _cost(self, trial: Trial) -> tuple[int, int]:
        return sum(self._layers[name].macs for name in trial.kept), len(trial.kept)

    def _over(self) -> bool:
        return self._clock.mono_ns() >= self._ends_ns
