"""Small ONNX models, built for one question each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

IR_VERSION, OPSET = 9, 19


def build(
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
    metadata: dict[str, str] | None = None,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    if metadata:
        helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


def identity(dtype: int, shape: Sequence[int | str], metadata: dict[str, str] | None = None) -> bytes:
    return build(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", dtype, shape)], [("y", dtype, shape)], metadata=metadata
    )


def quantised_convolution() -> bytes:
    """uint8 NCHW picture → QDQ convolution with int8 weights per channel → uint8: shape 1×3×8×8 → 1×4×8×8.

    Weights are 1×1 and all 2 for output channel c scaled by 0.5·(c + 1), so real output = (c + 1) · Σ input channels.
    """
    constants = {
        "in_scale": np.array(0.5, np.float32),
        "in_zero": np.array(10, np.uint8),
        "w": np.full((4, 3, 1, 1), 2, np.int8),
        "w_scale": np.array([0.5, 1.0, 1.5, 2.0], np.float32),
        "w_zero": np.zeros(4, np.int8),
        "out_scale": np.array(4.0, np.float32),
        "out_zero": np.array(3, np.uint8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "in_scale", "in_zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        helper.make_node("Conv", ["xf", "wf"], ["yf"]),
        helper.make_node("QuantizeLinear", ["yf", "out_scale", "out_zero"], ["y"]),
    ]
    picture, answer = ("x", TensorProto.UINT8, (1, 3, 8, 8)), ("y", TensorProto.UINT8, (1, 4, 8, 8))
    return build(nodes, [picture], [answer], constants)


def per_channel_edges() -> bytes:
    """int8 in and out, each quantised per channel along axis 1; out = in, requantised with other scales."""
    constants = {
        "in_scale": np.array([0.1, 0.2, 0.4], np.float32),
        "in_zero": np.array([1, -2, 3], np.int8),
        "out_scale": np.array([0.2, 0.2, 0.2], np.float32),
        "out_zero": np.array([0, 0, -128], np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "in_scale", "in_zero"], ["f"], axis=1),
        helper.make_node("QuantizeLinear", ["f", "out_scale", "out_zero"], ["y"], axis=-1),
    ]
    shape = (1, 3)
    return build(nodes, [("x", TensorProto.INT8, shape)], [("y", TensorProto.INT8, shape)], constants)
