"""fp16, float and ORT files of a float network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgerun.convert.onnx.export import as_float, as_fp16, as_ort  # noqa: E402
from edgerun.convert.onnx.sessions import open_session  # noqa: E402
from edgerun.convert.parts import Network, Target  # noqa: E402
from edgerun.errors import EngineError, ModelError  # noqa: E402


def network(folder: Path, largest: float = 1.0) -> Network:
    chance = np.random.default_rng(1)
    weights = chance.uniform(-1, 1, (64, 8, 3, 3)).astype(np.float32)
    weights[0, 0, 0, 0] = largest
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv"),
            helper.make_node("Clip", ["a", "zero", "six"], ["y"], "clip"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 6, 6])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(chance.uniform(-1, 1, 64).astype(np.float32), "b"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(6), "six"),
        ],
    )
    path = folder / "network.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return Network(path, "onnx")


def run(model: bytes) -> np.ndarray:
    session = open_session(model, "test")
    (given,) = session.get_inputs()
    assert given.type == "tensor(float)"
    values = np.random.default_rng(2).uniform(-1, 1, tuple(given.shape)).astype(np.float32)
    (made,) = session.run(None, {given.name: values})
    assert made.dtype == np.float32
    return made


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_fp16_halves_the_file_and_keeps_float_edges(tmp_path: Path, target: Target) -> None:
    given = network(tmp_path)
    made = as_fp16(given, target)
    assert len(made) < 0.6 * given.path.stat().st_size
    np.testing.assert_allclose(run(made), run(given.path.read_bytes()), atol=0.02)


def test_on_a_cpu_only_the_weights_are_rounded(tmp_path: Path) -> None:
    """It gives exactly what the float network gives with its weights rounded to float16."""
    given = network(tmp_path)
    rounded = onnx.load_model(str(given.path))
    for tensor in rounded.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    np.testing.assert_array_equal(run(as_fp16(given, "cpu")), run(rounded.SerializeToString()))


def test_weights_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not fit float16.*7e\+04 in w"):
        as_fp16(network(tmp_path, largest=70_000.0), "cpu")


def test_float_is_the_network_itself(tmp_path: Path) -> None:
    given = network(tmp_path)
    assert as_float(given) == given.path.read_bytes()


def test_the_runtime_runs_its_own_format(tmp_path: Path) -> None:
    given = network(tmp_path)
    made = as_ort(given.path.read_bytes(), given.path)
    assert made[4:8] == b"ORTM"
    np.testing.assert_allclose(run(made), run(given.path.read_bytes()), rtol=1e-5, atol=1e-5)


def test_what_is_no_model_is_an_error_with_its_name() -> None:
    with pytest.raises(EngineError, match="spoilt: ONNX Runtime cannot open the model"):
        as_ort(b"spoilt", "spoilt")
