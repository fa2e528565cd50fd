"""Range methods on values whose best range is known, the observer against the interpreter, and the repairs."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgerun.convert.tflite.graph import Graph
from edgerun.convert.tflite.ranges import BINS, Histogram, by_entropy, by_error, by_percentile, observe
from edgerun.convert.tflite.repair import back_from_rows, correct_biases, equalise, keep_dead_biases, rounded, rows_of
from tests.convert.tflite_nets import INPUT, Writer, pictures, run, saved, small_net


def _histogram(values: np.ndarray) -> Histogram:
    counts, edges = np.histogram(values, BINS)
    return counts.astype(float), edges


def _mean_squared_error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    held = np.clip(np.rint((values - low) / step), 0, 255) * step + low
    return float(np.square(values - held).mean())


def test_mse_is_as_good_as_the_best_range_that_can_be_tried() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.exponential(1, 50_000), random.uniform(16, 17, 2)])
    low, high = by_error(_histogram(values))
    assert low == 0
    tried = min(_mean_squared_error(values, 0, end) for end in np.linspace(1, 17, 200))
    assert _mean_squared_error(values, low, high) < tried * 1.05
    assert _mean_squared_error(values, low, high) < _mean_squared_error(values, 0, values.max())


def test_percentile_cuts_both_ends() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 100_000)
    low, high = by_percentile(_histogram(values), 99)
    assert low == pytest.approx(-0.98, abs=0.01)
    assert high == pytest.approx(0.98, abs=0.01)


def test_entropy_ignores_a_rectifiers_zeros_and_cuts_a_thin_tail() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([np.zeros(300_000), np.abs(random.standard_normal(100_000)), random.uniform(4, 40, 20)])
    low, high = by_entropy(_histogram(values))
    assert low == 0
    assert 2 < high < 30


@settings(deadline=None, max_examples=30)  # each tries a few hundred ranges
@given(hnp.arrays(np.float64, st.integers(50, 400), elements=st.floats(-100, 100)).filter(lambda v: np.ptp(v) > 1e-3))
def test_ranges_hold_zero_and_lie_within_what_was_seen(values: np.ndarray) -> None:
    histogram = _histogram(values)
    for low, high in (by_error(histogram), by_percentile(histogram, 99.9)):
        assert min(values.min(), 0) - 1e-9 <= low <= 0 <= high <= max(values.max(), 0) + 1e-9


def test_observed_values_are_those_of_the_plain_kernels(tmp_path: Path) -> None:
    network, samples = saved(small_net(), tmp_path), pictures(3)
    graph = Graph(network.path.read_bytes(), "test")
    told: list[tuple[int, int]] = []
    seen = observe(graph, samples, True, lambda done, of: told.append((done, of)))
    assert told[-1] == (6, 6)
    interpreter = Interpreter(
        model_path=str(network.path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    found: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample.inputs[INPUT])
        interpreter.invoke()
        for number in graph.float_activations():
            found.setdefault(graph.name(number), []).append(interpreter.get_tensor(number).copy())
    assert set(found) == set(seen)
    for name, values in found.items():
        assert seen[name].low == pytest.approx(min(v.min() for v in values), abs=1e-4)
        assert seen[name].high == pytest.approx(max(v.max() for v in values), abs=1e-4)
        histogram = seen[name].histogram
        assert histogram is not None
        assert histogram[0].sum() == sum(v.size for v in values)


@given(st.sampled_from([0, 3]), st.integers(0, 2**31))
def test_rows_and_back_is_the_identity(axis: int, seed: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((2, 3, 4, 5)).astype(np.float32)
    rows = rows_of(weights, axis)
    assert rows.shape[0] == weights.shape[axis]
    np.testing.assert_array_equal(back_from_rows(rows, weights, axis), weights)


def test_only_dead_channels_are_lifted_and_hardly(tmp_path: Path) -> None:
    graph = Graph(saved(small_net(dead=3), tmp_path).path.read_bytes(), "test")
    before = {graph.layer(op): graph.constant(int(op.inputs[1])) for op, _ in graph.weighted()}
    ranges = {graph.name(t): (-1.0, 1.0) for t in graph.float_activations()}
    assert keep_dead_biases(graph, ranges) == 3
    after = {graph.layer(op): graph.constant(int(op.inputs[1])) for op, _ in graph.weighted()}
    for name, weights in before.items():
        assert weights is not None
        changed = np.nonzero(weights != after[name])
        assert len(changed[0]) == (3 if name == "conv" else 0)
    lifted = after["conv"]
    assert lifted is not None
    assert 0 < np.abs(lifted[:3]).max() < 2e-4
    # int32 holds the bias now: bias / (input scale · weight scale)
    assert 1.0 / ((2 / 255) * np.abs(lifted[:3]).max() / 127) < 2**31


def test_bias_correction_takes_the_mean_error_out(tmp_path: Path) -> None:
    network, samples = saved(small_net(), tmp_path), pictures(12)
    graph = Graph(network.path.read_bytes(), "test")
    seen = observe(graph, samples, False, lambda done, of: None)
    changed = Graph(network.path.read_bytes(), "test")
    assert correct_biases(changed, seen, frozenset({"left"})) == 1
    for model in (graph, changed):
        op, axis = next((op, axis) for op, axis in model.weighted() if model.layer(op) == "left")
        weights = model.constant(int(op.inputs[1]))
        assert weights is not None
        model.set_constant(int(op.inputs[1]), rounded(weights, axis))
    wanted = seen["left"].mean
    naive = np.abs(observe(graph, samples, False, lambda done, of: None)["left"].mean - wanted).max()
    better = np.abs(observe(changed, samples, False, lambda done, of: None)["left"].mean - wanted).max()
    assert better < naive / 20


def _pair() -> Writer:
    """Two 1×1 convolutions with nothing in between, the channels of very different size."""
    random = np.random.default_rng(5)
    w = Writer()
    options = {"strideH": 1, "strideW": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    picture, middle, out = (
        w.tensor(INPUT, (1, 16, 16, 3)),
        w.tensor("mid", (1, 16, 16, 8)),
        w.tensor("out", (1, 16, 16, 4)),
    )
    first = random.standard_normal((8, 1, 1, 3)) * np.logspace(-2, 2, 8).reshape(8, 1, 1, 1)
    second = random.standard_normal((4, 1, 1, 8)) / np.logspace(-2, 2, 8)
    for source, weights, target in ((picture, first, middle), (middle, second, out)):
        constants = [
            w.constant(f"w{target}", weights.astype(np.float32)),
            w.constant(f"b{target}", random.standard_normal(len(weights)).astype(np.float32)),
        ]
        w.op("CONV_2D", [source, *constants], [target], "Conv2DOptions", **options)
    w.graph.inputs, w.graph.outputs = [picture], [out]
    return w


def test_equalisation_keeps_the_answer_and_evens_the_channels_out(tmp_path: Path) -> None:
    network, samples = saved(_pair(), tmp_path), pictures(4)
    graph = Graph(network.path.read_bytes(), "test")
    before = observe(graph, samples, False, lambda done, of: None)
    assert equalise(graph, before) == 1
    np.testing.assert_allclose(
        run(graph.to_bytes(), samples), run(network.path.read_bytes(), samples), rtol=1e-3, atol=1e-3
    )
    after = observe(graph, samples, False, lambda done, of: None)

    def spread(high: np.ndarray) -> float:
        return float(np.abs(high).max() / np.abs(high).min())

    assert spread(after["mid"].channel_high) < spread(before["mid"].channel_high) / 20
    saturating = Graph(saved(small_net(), tmp_path).path.read_bytes(), "test")
    assert equalise(saturating, observe(saturating, samples, False, lambda done, of: None)) == 0
