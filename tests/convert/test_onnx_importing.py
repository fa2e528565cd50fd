"""However a model is written, it ends as one float32 file of fixed shapes or in a message that names the fault."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgerun.convert.onnx.importing import ImportOptions, _compare, read  # noqa: E402
from edgerun.convert.onnx.sessions import open_session  # noqa: E402
from edgerun.errors import ConfigError, ModelError  # noqa: E402


def small(opset: int = 13, batch: object = 1, side: object = 8, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Conv, BatchNormalization and Relu over 1×2×8×8, with nodes that have no names."""
    chance = np.random.default_rng(1)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    shapes = {"w": (3, 2, 3, 3), "scale": (3,), "shift": (3,), "mean": (3,), "var": (3,)}
    held = [
        numpy_helper.from_array(chance.uniform(0.1, 1, shape).astype(dtype), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, [batch, 2, side, side])],
        [helper.make_tensor_value_info("y", kind, [batch, 3, side, side])],
        held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def given(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "given.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def outputs(path: Path) -> np.ndarray:
    values = np.random.default_rng(2).uniform(-1, 1, (1, 2, 8, 8)).astype(np.float32)
    return open_session(path.read_bytes(), path).run(None, {"x": values})[0]


def test_the_batch_is_one_and_batch_normalisation_is_folded(tmp_path: Path) -> None:
    path = given(tmp_path, small(batch="N"))
    network = read(path, tmp_path)
    model = onnx.load_model(str(network.path))
    assert [one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim] == [1, 2, 8, 8]
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu"]
    np.testing.assert_allclose(outputs(network.path), outputs(path), rtol=1e-4, atol=1e-5)
    assert any("?×2×8×8 and is 1×2×8×8" in note for note in network.notes)
    assert network.tools["onnx"] == onnx.__version__


def test_every_node_has_a_name_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    path = given(tmp_path, small())
    contents = [read(path, tmp_path).path.read_bytes() for _ in range(2)]
    names = [node.name for node in onnx.load_model_from_string(contents[0]).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert contents[0] == contents[1]


def test_open_sides_are_refused_by_name_or_set(tmp_path: Path) -> None:
    path = given(tmp_path, small(batch="N", side="height"))
    with pytest.raises(ModelError, match=r"'x' has sides that are left open: height.*--shape x=1,2,\?,\?"):
        read(path, tmp_path)
    network = read(path, tmp_path, ImportOptions(shapes={"x": (1, 2, 8, 8)}))
    assert outputs(network.path).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("shape", [(1, 2, 8), (1, 3, 8, 8), (1, 2, 0, 8)])
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = given(tmp_path, small(side="height"))
    with pytest.raises(ConfigError, match="does not fit the model"):
        read(path, tmp_path, ImportOptions(shapes={"x": shape}))


def test_a_shape_for_no_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such input; expected x; got z"):
        read(given(tmp_path, small()), tmp_path, ImportOptions(shapes={"z": (1,)}))


def test_constants_listed_as_inputs_are_constants(tmp_path: Path) -> None:
    model = small()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    network = read(given(tmp_path, model), tmp_path)
    assert [one.name for one in onnx.load_model(str(network.path)).graph.input] == ["x"]
    assert any("5 constants were listed as inputs" in note for note in network.notes)


def test_float16_is_widened(tmp_path: Path) -> None:
    network = read(given(tmp_path, small(kind=TensorProto.FLOAT16)), tmp_path)
    model = onnx.load_model(str(network.path))
    kinds = {one.data_type for one in model.graph.initializer} | {model.graph.input[0].type.tensor_type.elem_type}
    assert kinds == {TensorProto.FLOAT}
    wide = tmp_path / "wide"
    wide.mkdir()
    np.testing.assert_allclose(outputs(network.path), outputs(given(wide, small())), rtol=1e-2, atol=1e-2)


def test_an_old_opset_is_raised(tmp_path: Path) -> None:
    path = given(tmp_path, small(opset=9))
    network = read(path, tmp_path)
    assert onnx.load_model(str(network.path)).opset_import[0].version == 13
    np.testing.assert_allclose(outputs(network.path), outputs(path), rtol=1e-4, atol=1e-5)


def test_weights_in_another_file_are_joined(tmp_path: Path) -> None:
    whole = given(tmp_path, small())
    split = tmp_path / "split.onnx"
    onnx.save_model(small(), str(split), save_as_external_data=True, location="split.data", size_threshold=0)
    network = read(split, tmp_path)
    np.testing.assert_allclose(outputs(network.path), outputs(whole), rtol=1e-4, atol=1e-5)
    (tmp_path / "split.data").unlink()
    with pytest.raises(ModelError, match="keeps weights in another file"):
        read(split, tmp_path)


def test_metadata_stays(tmp_path: Path) -> None:
    model = small()
    helper.set_model_props(model, {"names": "cat,dog"})
    made = onnx.load_model(str(read(given(tmp_path, model), tmp_path).path))
    assert {one.key: one.value for one in made.metadata_props} == {"names": "cat,dog"}


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    model = small()
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x2"]),
    ]
    model.graph.node[0].input[0] = "x2"
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "s"))
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(128), "z"))
    with pytest.raises(ModelError, match=r"quantised already.*got 1 DequantizeLinear, 1 QuantizeLinear"):
        read(given(tmp_path, model), tmp_path)


def test_unknown_operators_are_named(tmp_path: Path) -> None:
    model = small()
    model.graph.node[2].domain = "acme"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(ModelError, match="acme:Relu"):
        read(given(tmp_path, model), tmp_path)


def test_a_tflite_file_is_told_its_own_way(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--format tflite"):
        read(tmp_path / "model.tflite", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a model at all"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "given.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read(path, tmp_path)


def test_outputs_need_no_shape(tmp_path: Path) -> None:
    model = small()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert outputs(read(given(tmp_path, model), tmp_path).path).shape == (1, 3, 8, 8)


def test_a_graph_that_breaks_the_standard_is_refused(tmp_path: Path) -> None:
    model = small()
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot run the model.*nowhere"):
        read(given(tmp_path, model), tmp_path)


def test_more_than_two_gigabytes_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "given.onnx"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 31)
    with pytest.raises(ModelError, match="larger than one ONNX file can be"):
        read(path, tmp_path)


def test_no_number_is_a_difference_too() -> None:
    """`max` of a number and of none gives the number: such a model once passed for equal."""

    def one(node: onnx.NodeProto) -> onnx.ModelProto:
        faces = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
        graph = helper.make_graph([node], "g", faces[:1], faces[1:])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    first = open_session(one(helper.make_node("Identity", ["x"], ["y"])).SerializeToString(), "test")
    with pytest.raises(ModelError, match="does not give what the original gives"):
        _compare(first, one(helper.make_node("Sqrt", ["x"], ["y"])), Path("given.onnx"))
