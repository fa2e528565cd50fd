"""ONNX models: every type, open sides, and quantisation read from the graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgerun.errors import ModelError
from edgerun.infer.onnx import OnnxEngine, Options
from edgerun.infer.onnx_graph import read_quantisation
from edgerun.ports import EngineContext
from edgerun.types import TensorSpec
from tests.infer import onnx_models
from tests.real_models import model_file


def open_bytes(model: bytes, **more: int) -> OnnxEngine:
    return OnnxEngine(Options(), EngineContext(model, "a model", **more))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT8, "int8"),
        (TensorProto.INT32, "int32"),
        (TensorProto.INT64, "int64"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.BOOL, "bool"),
    ],
)
def test_every_type_passes_through_unchanged(kind: int, dtype: str) -> None:
    engine = open_bytes(onnx_models.identity(kind, (1, 3, 4, 5)))
    assert engine.inputs == (TensorSpec("x", (1, 3, 4, 5), dtype),)
    assert engine.outputs == (TensorSpec("y", (1, 3, 4, 5), dtype),)
    values = np.arange(60).reshape(1, 3, 4, 5).astype(dtype)
    (got,) = engine.infer((values,))
    assert got.dtype == values.dtype
    assert (got == values).all()


def test_open_sides_are_minus_one() -> None:
    engine = open_bytes(onnx_models.identity(TensorProto.FLOAT, ("batch", 3, "h", "w")))
    assert engine.inputs[0].shape == (-1, 3, -1, -1)
    assert engine.infer((np.zeros((1, 3, 2, 6), np.float32),))[0].shape == (1, 3, 2, 6)


def test_state_and_scalar_inputs_of_a_real_model() -> None:
    engine = OnnxEngine(Options(), EngineContext(model_file("silero_vad.onnx"), "vad"))
    assert [(spec.name, spec.shape, spec.dtype) for spec in engine.inputs] == [
        ("input", (-1, -1), "float32"),
        ("state", (2, -1, 128), "float32"),
        ("sr", (), "int64"),
    ]


def test_quantisation_of_a_picture_and_the_numbers_it_means() -> None:
    engine = open_bytes(onnx_models.quantised_convolution())
    (picture,), (answer,) = engine.inputs, engine.outputs
    assert (picture.dtype, picture.scale, picture.zero_point, picture.shape) == ("uint8", (0.5,), (10,), (1, 3, 8, 8))
    assert (answer.dtype, answer.scale, answer.zero_point) == ("uint8", (4.0,), (3,))
    values = np.full((1, 3, 8, 8), 18, np.uint8)  # real 4.0 in each of 3 channels
    real = (engine.infer((values,))[0].astype(int) - 3) * 4.0
    assert [real[0, c].tolist() for c in range(4)] == [[[12.0 * (c + 1)] * 8] * 8 for c in range(4)]


def test_quantisation_per_channel_and_axes_that_count_from_the_end() -> None:
    engine = open_bytes(onnx_models.per_channel_edges())
    assert engine.inputs[0].scale == pytest.approx((0.1, 0.2, 0.4))
    assert engine.inputs[0].zero_point == (1, -2, 3)
    assert engine.outputs[0].zero_point == (0, 0, -128)
    assert engine.inputs[0].quantized_axis == engine.outputs[0].quantized_axis == 1


def test_scales_that_are_constant_nodes_or_packed_are_read_too() -> None:
    packed = helper.make_tensor("zero", TensorProto.INT8, [1], [-5])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [1], [0.25])
    nodes = [
        helper.make_node("Constant", [], ["z"], value=packed),
        helper.make_node("Constant", [], ["s"], value=scale),
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"]),
    ]
    model = onnx_models.build(nodes, [("x", TensorProto.INT8, (1,))], [("y", TensorProto.FLOAT, (1,))])
    edge = read_quantisation(model)["x"]
    assert (edge.scale, edge.zero_point) == ((0.25,), (-5,))


def test_a_graph_cut_short_is_an_error_not_an_endless_loop() -> None:
    model = onnx_models.quantised_convolution()
    for size in range(1, len(model), 7):
        try:
            read_quantisation(model[:size])
        except ModelError as error:
            assert "cannot be read" in str(error)  # noqa: PT017


def test_a_custom_op_is_named() -> None:
    node = helper.make_node("Sparkle", ["x"], ["y"], domain="com.example")
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1,))],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, ir_version=9, opset_imports=opsets)
    with pytest.raises(ModelError, match=r"the custom op com\.example:Sparkle"):
        open_bytes(model.SerializeToString())


def test_a_text_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match=r"expected a tensor of numbers; got tensor\(string\)"):
        open_bytes(onnx_models.identity(TensorProto.STRING, (1,)))


def test_an_opset_from_the_future_says_what_to_do() -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1,))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1,))],
        ),
        ir_version=9,
        opset_imports=[helper.make_opsetid("", 99)],
    )
    with pytest.raises(ModelError, match="newer than this ONNX Runtime"):
        open_bytes(model.SerializeToString())
