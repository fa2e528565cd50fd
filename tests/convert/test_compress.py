"""Zeros and clusters among the weights: exactly as many as asked for, and told without a claim of speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")

from edgerun.convert.compress import analyse, cluster_weights, prune_weights, rewrite, steps  # noqa: E402
from edgerun.convert.parts import Network  # noqa: E402
from edgerun.errors import ConfigError  # noqa: E402
from tests.convert import fashion  # noqa: E402

FLOATS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 60)), elements=st.floats(-4, 4, width=32)
)


def quiet(step: str, done: int, total: int) -> None:
    """Nobody watches."""


@given(FLOATS, st.floats(0.01, 0.99))
@settings(deadline=None)
def test_the_smallest_go_and_no_others(weights: np.ndarray, share: float) -> None:
    made = prune_weights(weights, share)
    changed = made != weights
    assert np.count_nonzero(made == 0) >= round(share * weights.size)
    assert np.all(made[changed] == 0)
    if changed.any() and not changed.all():
        assert np.abs(weights[changed]).max() <= np.abs(weights[~changed & (made != 0)]).min(initial=np.inf)


@given(FLOATS, st.integers(2, 20))
@settings(deadline=None)
def test_clusters_are_few_and_no_weight_is_moved_further_than_the_range_in_steps(
    weights: np.ndarray, count: int
) -> None:
    made = cluster_weights(weights, count)
    assert np.unique(made).size <= count
    assert made.dtype == weights.dtype
    assert made.min() >= weights.min() - 1e-5
    assert made.max() <= weights.max() + 1e-5
    few = np.unique(weights).size <= count
    assert np.array_equal(made, weights) if few else True
    assert np.array_equal(made, cluster_weights(weights, count))


def test_eight_bit_weights_stay_eight_bit() -> None:
    weights = np.arange(-120, 120, dtype=np.int8).reshape(8, 30)
    made = cluster_weights(weights, 16)
    assert made.dtype == np.int8
    assert np.unique(made).size <= 16
    assert np.abs(made.astype(int) - weights).max() <= 10


def test_an_onnx_network_packs_better_and_answers_worse_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "fashion.onnx"
    path.write_bytes(fashion.build().SerializeToString())
    network = Network(path, "onnx")
    trials = analyse(network, fashion.Fashion("t10k", 40), quiet, shares=(0.3, 0.7), clusters=(64,))
    whole, some, most, clustered = trials
    assert whole.top1 == 1.0
    assert most.packed_bytes < some.packed_bytes < whole.packed_bytes
    assert clustered.packed_bytes < whole.packed_bytes / 2
    assert some.sqnr_db is not None
    assert most.sqnr_db is not None
    assert some.sqnr_db > most.sqnr_db
    told = steps(trials)
    assert all("no faster" in step.text for step in told[1:])
    with pytest.raises(ConfigError, match="no such pruning"):
        analyse(network, None, quiet, shares=(1.0,))


def test_a_tflite_file_keeps_its_size_and_runs(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    models = sorted(Path("models").glob("*/*.tflite"))
    content = models[0].read_bytes()
    made = rewrite(content, "tflite", lambda weights: prune_weights(weights, 0.5))
    assert len(made) == len(content)
    assert made != content
    interpreter = Interpreter(model_content=made, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.invoke()
    network = Network(tmp_path / "m.tflite", "tflite")
    network.path.write_bytes(content)
    (whole, half) = analyse(network, None, quiet, shares=(0.5,), clusters=())
    assert half.size_bytes == whole.size_bytes
    assert half.packed_bytes < whole.packed_bytes
    assert half.sqnr_db is None
