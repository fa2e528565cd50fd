"""What the steps of the ONNX route ask of a graph: its constants, shapes, neighbours, and the layers it is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgerun.convert.parts import Layer
from edgerun.errors import MissingError, ModelError
from edgerun.models.structure import shown

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Ops that multiply by constants and have 8-bit kernels in ONNX Runtime's CPU provider. MatMul may also multiply two
activations. ConvTranspose has none: with 8-bit weights it would widen them in every inference."""
ARITHMETIC = ("Add", "Mul", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Concat", "Softmax", "Where")
"""Further ops for which ONNX Runtime's CPU provider has kernels on 8-bit tensors: docs/ContribOperators.md of its
repository, com.microsoft.QLinear* and the standard's own Where and Concat."""
ACTIVATIONS = ("Relu", "Clip")
"""Ops that a quantised producer absorbs: its 8-bit output cannot hold what they cut off."""
PASSING = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Resize", "Pad",
)  # fmt: skip
"""Ops that move values or choose among them: 8-bit where their input is, with its scale."""
QUANTISABLE = (*WEIGHTED, *ARITHMETIC, *ACTIVATIONS, *PASSING)


def tools() -> Any:
    """The `onnx` package. Raises `MissingError` with the pip command."""
    try:
        import onnx
        import onnx.version_converter
    except ImportError as error:
        raise MissingError(
            "the ONNX tools are not installed",
            expected="the package onnx",
            got=error,
            remedy="pip install 'edgerun[convert]'",
        ) from error
    return onnx


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The attribute's value, `default` where the node leaves it out."""
    found = next((one for one in node.attribute if one.name == name), None)
    return default if found is None else tools().helper.get_attribute_value(found)


def constants(graph: Any) -> dict[str, Any]:
    """Initialiser name → TensorProto."""
    return {one.name: one for one in graph.initializer}


def array(tensor: Any) -> np.ndarray:
    """The values of a TensorProto, in its own shape and dtype."""
    return np.asarray(tools().numpy_helper.to_array(tensor))


def consumers(graph: Any) -> dict[str, list[Any]]:
    """Tensor name → the nodes that read it, in the order of execution."""
    found: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def producers(graph: Any) -> dict[str, Any]:
    """Tensor name → the node that makes it."""
    return {name: node for node in graph.node for name in node.output if name}


def float_shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the graph's float32 inputs, outputs and inferred tensors; a side that is not known is -1."""
    onnx = tools()
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type == onnx.TensorProto.FLOAT:
            sides = (one.dim_value if one.HasField("dim_value") else -1 for one in tensor.shape.dim)
            shapes[value.name] = tuple(sides)
    return shapes


def tail(graph: Any) -> frozenset[str]:
    """Names of the nodes that stay float: all behind the last weighted operators, but for what those absorb.

    They cost next to nothing, and their values need more than 8 bits: a softmax over a thousand classes leaves most
    scores two or three steps, and a detector that joins boxes of 0..640 with scores of 0..1 leaves the scores none.
    """
    readers, makers = consumers(graph), producers(graph)
    leading: set[str] = set()
    for node in reversed(graph.node):
        after = [one for name in node.output for one in readers.get(name, [])]
        if any(one.op_type in WEIGHTED or one.name in leading for one in after):
            leading.add(node.name)
    last = [node for node in graph.node if node.name not in leading and node.op_type not in WEIGHTED]
    return frozenset(
        node.name
        for node in last
        if not (node.op_type in ACTIVATIONS and getattr(makers.get(node.input[0]), "op_type", "") == "Conv")
    )


def layers(graph: Any) -> dict[str, Layer]:
    """The graph's layers by name, in the order of execution.

    A layer is one operator for which there are 8-bit kernels and whose result is float; what is in the graph's `tail`
    is none. The Relu or Clip that alone reads a layer goes with it: it is absorbed, or stays float with it.
    """
    shapes, weights, behind = float_shapes(graph), constants(graph), tail(graph)
    found = {}
    for node in graph.node:
        if node.op_type not in (*WEIGHTED, *ARITHMETIC) or node.output[0] not in shapes or node.name in behind:
            continue
        if node.op_type in ("Conv", "Gemm") and node.input[1] not in weights:
            continue
        held = sum(math.prod(weights[name].dims) for name in node.input if name in weights)
        found[node.name] = Layer(node.name, node.op_type, _macs(node, shapes, weights), held)
    return found


def weight_axis(node: Any) -> int:
    """The dimension of the second input that counts the node's output channels."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def check_finite(name: str, values: np.ndarray, origin: str) -> None:
    """Raises `ModelError` naming the tensor where a value is infinite or not a number."""
    if not np.isfinite(values).all():
        raise ModelError(
            "the float model gives values that are not finite",
            where=origin,
            expected="finite values in every tensor",
            got=f"{int((~np.isfinite(values)).sum())} others in {shown(name)}",
            remedy="run the float model on this sample: its weights, or the preprocessing, are wrong",
        )


def _macs(node: Any, shapes: Mapping[str, Sequence[int]], weights: Mapping[str, Any]) -> int:
    """Multiply-accumulates of the node for the shapes given; 0 for ops that do not multiply by weights."""
    made = math.prod(max(side, 1) for side in shapes[node.output[0]])
    if node.op_type == "Conv":
        return made * int(math.prod(weights[node.input[1]].dims[1:]))
    if node.op_type in ("Gemm", "MatMul"):
        read_shape = shapes.get(node.input[0], (1,))
        inner = read_shape[0] if attribute(node, "transA", 0) else read_shape[-1]
        return made * max(inner, 1)
    return 0
