"""The search for the smallest set of layers, against a quantiser and a judge that behave as real ones do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.convert.judge import Gate
from edgerun.convert.parts import Layer, Progress, Quality, Sample, Samples
from edgerun.convert.search import Found, find_layers, rank

GATE = Gate(min_quality=0.99)


class NoSamples:
    source = "none"

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Sample:
        raise IndexError(index)


class Net:
    """A network of layers that each cost so much quality in int8; files name the layers kept. Costs add up.

    `misjudged`: how far the sensitivity that it reports lies from the truth, layer by layer (dB).
    """

    def __init__(self, losses: Sequence[float], macs: Sequence[int], misjudged: Sequence[float] = ()) -> None:
        self.losses = dict(zip(self.names(len(losses)), losses, strict=True))
        self._layers = [Layer(name, "CONV", cost, 1) for name, cost in zip(self.losses, macs, strict=True)]
        self._misjudged = dict(zip(self.losses, misjudged or [0.0] * len(losses), strict=True))
        self.built: list[frozenset[str]] = []
        self.tools: Mapping[str, str] = {}
        self.notes: Sequence[str] = ()
        self.clock = FakeClock()

    @staticmethod
    def names(count: int) -> list[str]:
        return [f"layer {at}" for at in range(count)]

    @property
    def layers(self) -> Sequence[Layer]:
        return self._layers

    def sensitivity(self, samples: Samples, progress: Progress) -> Mapping[str, float]:
        return {name: -10 * math.log10(loss + 1e-9) + self._misjudged[name] for name, loss in self.losses.items()}

    def ranked(self, sensitivity: Mapping[str, float]) -> list[str]:
        return rank(self._layers, sensitivity)

    def precisions(self, kept: frozenset[str]) -> Mapping[str, str]:
        return {name: "float" if name in kept else "int8" for name in self.losses}

    def build(self, kept: frozenset[str]) -> bytes:
        self.built.append(kept)
        self.clock.advance(10)
        return json.dumps(sorted(kept)).encode()

    def judge(self, model: bytes) -> Quality:
        return quality(1 - sum(loss for name, loss in self.losses.items() if name not in json.loads(model)))


def quality(kept: float, **more: float) -> Quality:
    return Quality("recall", kept, 1.0, kept, 100, more)


def search(net: Net, judge: object = None, *, budget_s: float = math.inf, mixed: bool = True) -> Found:
    chosen = judge or net.judge
    return find_layers(
        net, chosen, GATE, NoSamples(), lambda *_: None, budget_s=budget_s, mixed=mixed, clock=net.clock  # type: ignore[arg-type]
    )  # fmt: skip


LAYERS = st.lists(
    st.tuples(st.floats(0, 0.03), st.integers(0, 1000), st.floats(-6, 6)), min_size=1, max_size=24
)  # fmt: skip


def test_int8_throughout_where_that_is_good_enough() -> None:
    net = Net([0.001] * 5, [10] * 5)
    found = search(net)
    assert found.passed
    assert found.kept == frozenset()
    assert net.built == [frozenset()]
    assert found.sensitivity == {}
    assert found.text(net.layers) == "all 5 layers int8"


def test_the_one_layer_that_breaks_it_stays() -> None:
    net = Net([0.0005] * 9 + [0.2] + [0.0005] * 9, [10] * 19)
    found = search(net)
    assert found.passed
    assert found.kept == {"layer 9"}
    assert found.macs_share == pytest.approx(1 / 19)
    assert found.naive.kept < 0.8
    assert len(found.trials) == len(net.built) <= 4
    assert "1 of 19 layers in higher precision, 5.3% of the MACs" in found.text(net.layers)


@settings(deadline=None)
@given(LAYERS)
def test_with_a_monotonic_judge_one_layer_less_misses_the_gate(rows: list[tuple[float, int, float]]) -> None:
    net = Net(*([row[at] for row in rows] for at in range(3)))  # type: ignore[arg-type]
    found = search(net)
    assert found.passed, "everything in higher precision loses nothing"
    assert found.complete
    assert GATE.passes(net.judge(found.model))
    assert sorted(found.kept) == json.loads(found.model)
    order = net.ranked(net.sensitivity(NoSamples(), lambda *_: None))
    assert found.kept == set(order[: len(found.kept)])
    if found.kept:
        assert not GATE.passes(net.judge(json.dumps(sorted(order[: len(found.kept) - 1])).encode()))


@settings(deadline=None)
@given(LAYERS, st.integers(0, 1000))
def test_what_a_noisy_judge_lets_through_was_itself_judged(rows: list[tuple[float, int, float]], seed: int) -> None:
    net = Net(*([row[at] for row in rows] for at in range(3)))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    noise: dict[bytes, float] = {}

    def judge(model: bytes) -> Quality:
        clean = net.judge(model)
        return quality(clean.kept + noise.setdefault(model, float(rng.normal(0, 0.004))))

    found = search(net, judge)
    assert len(net.built) == len(set(net.built)), "nothing is built twice"
    assert found.passed == GATE.passes(judge(found.model))
    passing = [trial for trial in found.trials if trial.passed]
    assert found.passed == bool(passing)
    macs = {layer.name: layer.macs for layer in net.layers}
    if passing:
        assert sum(macs[name] for name in found.kept) == min(sum(macs[n] for n in one.kept) for one in passing)


@settings(deadline=None)
@given(LAYERS, st.floats(0, 400))
def test_a_budget_bounds_the_tries_and_never_costs_the_gate(
    rows: list[tuple[float, int, float]], budget_s: float
) -> None:
    net = Net(*([row[at] for row in rows] for at in range(3)))  # type: ignore[arg-type]
    found = search(net, budget_s=budget_s)
    assert found.passed, "with the time over everything in higher precision is still tried"
    assert len(net.built) <= 4 + budget_s / 10
    if not found.complete:
        assert len(net.built) >= budget_s / 10


def test_int8_alone_is_not_searched_further() -> None:
    net = Net([0.5, 0.001], [10, 10])
    found = search(net, mixed=False)
    assert not found.passed
    assert net.built == [frozenset()]


def test_where_nothing_meets_the_gate_the_nearest_is_given() -> None:
    net = Net([0.3, 0.2, 0.1], [5, 5, 5])

    def judge(model: bytes) -> Quality:
        return quality(min(net.judge(model).kept, 0.98))

    found = search(net, judge)
    assert not found.passed
    assert found.quality.kept == 0.98
    assert found.kept == set(net.losses)


def test_rank_puts_what_is_not_a_number_first_and_what_was_not_measured_last() -> None:
    layers = [Layer(name, "CONV", 1, 1) for name in "abcd"]
    assert rank(layers, {"a": 30.0, "b": math.nan, "d": 10.0}) == ["b", "d", "a", "c"]


def test_progress_ends_the_search() -> None:
    net = Net([0.5, 0.001], [10, 10])

    def stop(step: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_layers(net, net.judge, GATE, NoSamples(), stop)
    assert net.built == []


@pytest.mark.parametrize(
    ("gate", "given_quality", "passes"),
    [
        (Gate(), quality(0.99), True),
        (Gate(), quality(0.9899), False),
        (Gate(), quality(math.nan), False),
        (Gate(), quality(1.0, extra=0.02), True),
        (Gate(), quality(1.0, extra=0.021), False),
        (Gate(max_drop=0.05), quality(0.95), True),
        (Gate(max_drop=0.05), quality(0.94), False),
        (Gate(max_drop=0.0), quality(1.0), True),
    ],
)
def test_the_gate(gate: Gate, given_quality: Quality, passes: bool) -> None:
    assert gate.passes(given_quality) is passes
    assert (gate.shortfall(given_quality) < 1e-6) is passes


def test_the_gate_in_words() -> None:
    assert Gate().text(quality(1.0, extra=0.0)) == "recall: at least 99.0% of the original's; at most 2.0% extra boxes"
    assert Gate(max_drop=0.01).text(quality(1.0)) == "recall: at most 0.01 below the original's"
