"""Convolutions, transposed convolutions and matrix products: the layers that carry weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgerun.convert.bridge import windows
from edgerun.convert.bridge.emitter import Emitter, Handler, Refusal
from edgerun.convert.bridge.graph import Array, Node
from edgerun.convert.bridge.layout import channels_last, identity, last, stored

SPLIT_GROUPS = 4
"""Grouped transposed convolutions of at most so many groups are written one by one, others as one, zeros between."""


def conv(emitter: Emitter, node: Node) -> None:
    """CONV_2D, grouped or not, or DEPTHWISE_CONV_2D; a PAD before it where its padding is neither SAME nor VALID."""
    weights = _weights(emitter, node)
    found = windows.flat(windows.axes(emitter, node, weights.shape[2:]))
    if weights.ndim == 3:
        weights = weights[:, :, None, :]
    groups = node.attribute("group", 1)
    x = windows.as_picture(emitter, node.inputs[0])
    kind = windows.kind(found)
    if kind is None:
        x, kind = windows.padded(emitter, node, x, found), "VALID"
    writer = emitter.writer
    function, out = emitter.follow(node)
    depthwise = groups > 1 and weights.shape[1] == 1
    filters = weights.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    options = {
        "padding": getattr(writer.schema.Padding, kind),
        "strideH": found[0].stride,
        "strideW": found[1].stride,
        "dilationHFactor": found[0].dilation,
        "dilationWFactor": found[1].dilation,
        "fusedActivationFunction": function,
    }
    if depthwise:
        options["depthMultiplier"] = weights.shape[0] // groups
    inputs = [x, writer.constant(node.inputs[1], filters, own=True), _bias(emitter, node, weights.shape[0])]
    shape = (writer.shapes[x][0], found[0].out, found[1].out, weights.shape[0])
    dilated = any(axis.dilation > 1 for axis in found)
    op, table, version = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", 2 if dilated else 1)
    if not depthwise:
        op, table, version = "CONV_2D", "Conv2DOptions", 6 if groups > 1 else 1
    y = writer.emit(op, inputs, shape, node.name, options=options, table=table, version=version)
    _put_picture(emitter, out, y)


def _put_picture(emitter: Emitter, name: str, tensor: int) -> None:
    order = channels_last(emitter.rank(name))
    emitter.put(name, emitter.writer.reshape(tensor, stored(emitter.shape(name), order)), order)


def _weights(emitter: Emitter, node: Node) -> Array:
    weights = emitter.constant(node.inputs[1])
    if weights is None:
        raise Refusal("takes its weights from another layer", "TFLite's kernels need constant weights here")
    return weights


def _bias(emitter: Emitter, node: Node, channels: int) -> int:
    """The bias; zeros where there is none, which every kernel and quantiser knows to handle."""
    name = node.input(2)
    value = emitter.graph.constants[name] if name else np.zeros(channels, np.float32)
    return emitter.writer.constant(name or f"{node.name}/bias", value.reshape(-1).astype(np.float32), own=True)


def conv_transpose(emitter: Emitter, node: Node) -> None:
    """In TFLite a convolution run backwards from an output of stated size (transpose_conv.h): pads crop that output."""
    weights = _weights(emitter, node)
    rank = weights.ndim - 2
    if rank > 2:
        raise Refusal(f"slides over {rank} dimensions", "TFLite's kernels know one and two")
    groups = node.attribute("group", 1)
    dilations = node.attribute("dilations", [1] * rank)
    strides = list(node.attribute("strides", [1] * rank))
    outs = list(emitter.shape(node.outputs[0])[2:])
    befores = _crops(emitter, node, weights, outs)
    weights = _dilate(weights, dilations)
    if rank == 1:
        weights, strides, outs, befores = weights[:, :, None, :], [1, *strides], [1, *outs], [0, *befores]
    x = windows.as_picture(emitter, node.inputs[0])
    writer = emitter.writer
    if 1 < groups <= SPLIT_GROUPS:
        y = _by_groups(emitter, node, x, weights, (strides, outs, befores))
        function, out = 0, node.outputs[0]
    else:
        dense = _block_diagonal(weights, groups) if groups > 1 else weights
        cropped = _same(writer.shapes[x][1:3], dense.shape[2:], strides, outs, befores) is None
        function, out = (0, node.outputs[0]) if cropped else emitter.follow(node)
        bias = _bias(emitter, node, dense.shape[1])
        y = _backwards(emitter, node, x, dense, (strides, outs, befores), bias, function)
    _put_picture(emitter, out, y)


def _crops(emitter: Emitter, node: Node, weights: Array, outs: list[int]) -> list[int]:
    """Elements of the whole output that are cut off at the beginning of each axis (ONNX operators, ConvTranspose)."""
    rank = weights.ndim - 2
    pads = node.attribute("pads", [0] * 2 * rank)
    automatic = node.attribute("auto_pad", "NOTSET")
    if automatic not in ("SAME_UPPER", "SAME_LOWER") and "output_shape" not in node.attributes:
        return list(pads[:rank]) if automatic == "NOTSET" else [0] * rank
    sizes = emitter.shape(node.inputs[0])[2:]
    strides, dilations = node.attribute("strides", [1] * rank), node.attribute("dilations", [1] * rank)
    extra = node.attribute("output_padding", [0] * rank)
    befores = []
    for index in range(rank):
        reach = (weights.shape[2 + index] - 1) * dilations[index] + 1
        total = max((sizes[index] - 1) * strides[index] + extra[index] + reach - outs[index], 0)
        befores.append(total // 2 if automatic == "SAME_UPPER" else total - total // 2)
    return befores


def _dilate(weights: Array, dilations: list[int]) -> Array:
    """Weights with zeros between them: TFLite's transposed convolution has no dilation."""
    if all(step == 1 for step in dilations):
        return weights
    sizes = [(size - 1) * step + 1 for size, step in zip(weights.shape[2:], dilations, strict=True)]
    spread = np.zeros((*weights.shape[:2], *sizes), weights.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in dilations))] = weights
    return spread


def _block_diagonal(weights: Array, groups: int) -> Array:
    """Weights (in × out/groups × …) of a grouped layer as those of an ordinary one, zero between the groups."""
    inputs, outputs = weights.shape[0], weights.shape[1]
    dense = np.zeros((inputs, outputs * groups, *weights.shape[2:]), weights.dtype)
    each = inputs // groups
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        dense[rows, group * outputs : (group + 1) * outputs] = weights[rows]
    return dense


def _same(sizes: Any, kernel: Any, strides: list[int], outs: list[int], befores: list[int]) -> str | None:
    """`VALID` or `SAME` where TFLite's own cropping is ONNX's; None where it has to be a SLICE."""
    if all(
        before == 0 and out == (size - 1) * stride + width
        for size, width, stride, out, before in zip(sizes, kernel, strides, outs, befores, strict=True)
    ):
        return "VALID"
    for size, width, stride, out, before in zip(sizes, kernel, strides, outs, befores, strict=True):
        total = (size - 1) * stride + width - out
        if -(-out // stride) != size or total < 0 or before != total // 2:
            return None
    return "SAME"


def _backwards(
    emitter: Emitter, node: Node, x: int, weights: Array, geometry: Any, bias: int, function: int = 0
) -> int:
    """TRANSPOSE_CONV of the N×H×W×C tensor, cropped or completed to the output's size."""
    strides, outs, befores = geometry
    writer = emitter.writer
    sizes, kernel = writer.shapes[x][1:3], weights.shape[2:]
    kind = _same(sizes, kernel, strides, outs, befores)
    whole = [(size - 1) * stride + width for size, stride, width in zip(sizes, strides, kernel, strict=True)]
    made = outs if kind else whole
    shape = (writer.shapes[x][0], *made, weights.shape[1])
    options = {
        "padding": getattr(writer.schema.Padding, kind or "VALID"),
        "strideH": strides[0],
        "strideW": strides[1],
        "fusedActivationFunction": function,
    }
    filters = writer.constant(node.inputs[1], weights.transpose(1, 2, 3, 0), own=True)
    inputs = [writer.integers(shape), filters, x, bias]
    version = 4 if function else 3
    y = writer.emit(
        "TRANSPOSE_CONV",
        inputs,
        shape,
        node.name,
        options=options,
        table="TransposeConvOptions",
        version=version,
        dtype=np.float32,
    )
    if kind:
        return y
    beyond = [max(before + out - full, 0) for before, out, full in zip(befores, outs, whole, strict=True)]
    if any(beyond):
        # What lies beyond every window holds the bias alone: pad after the layer would be 0, so pad its input.
        raise Refusal(
            "has an output_padding that reaches beyond its kernel",
            "make the kernel as large as stride and padding need",
        )
    begin = (0, *befores, 0)
    size = (shape[0], *outs, shape[3])
    return writer.emit(
        "SLICE", [y, writer.integers(begin), writer.integers(size)], size, f"{node.name}/Crop", table="SliceOptions"
    )


def _by_groups(emitter: Emitter, node: Node, x: int, weights: Array, geometry: Any) -> int:
    """One transposed convolution for each group, on its share of the channels."""
    writer = emitter.writer
    groups = node.attribute("group")
    shape = writer.shapes[x]
    each = shape[3] // groups
    bias = emitter.graph.constants[node.input(2)] if node.input(2) else np.zeros(groups * weights.shape[1], np.float32)
    parts = []
    for group in range(groups):
        begin, size = (0, 0, 0, group * each), (*shape[:3], each)
        inputs = [x, writer.integers(begin), writer.integers(size)]
        part = writer.emit("SLICE", inputs, size, f"{node.name}/group{group}", table="SliceOptions")
        mine = slice(group * weights.shape[1], (group + 1) * weights.shape[1])
        share = writer.constant(f"{node.name}/bias{group}", bias[mine].astype(np.float32), own=True)
        rows = slice(group * each, (group + 1) * each)
        parts.append(_backwards(emitter, node, part, weights[rows], geometry, share))
    joined = (*writer.shapes[parts[0]][:3], groups * weights.shape[1])
    return writer.emit(
        "CONCATENATION", parts, joined, f"{node.name}/Concat", options={"axis": 3}, table="ConcatenationOptions"
    )


def gemm(emitter: Emitter, node: Node) -> None:
    """FULLY_CONNECTED with alpha and beta in the weights; a transposed input costs a transposition."""
    weights = emitter.constant(node.inputs[1])
    if weights is None:
        raise Refusal("multiplies two layers' outputs", "write it as MatMul")
    if not node.attribute("transB", 0):
        weights = weights.T
    order = (1, 0) if node.attribute("transA", 0) else (0, 1)
    flat = _flattened(emitter, node, weights) if order == (0, 1) else None
    x, weights = flat or (emitter.want(node.inputs[0], order), weights)
    bias = np.zeros(weights.shape[0], np.float32)
    if node.input(2):
        bias = emitter.graph.constants[node.input(2)] * node.attribute("beta", 1.0)
        if bias.size not in (1, weights.shape[0]):
            raise Refusal("adds a matrix", "write the product and the sum as two layers")
        bias = np.broadcast_to(bias.reshape(-1), (weights.shape[0],))
    _fully_connected(emitter, node, x, weights * np.float32(node.attribute("alpha", 1.0)), bias, identity(2))


def _flattened(emitter: Emitter, node: Node, weights: Array) -> tuple[int, Array] | None:
    """Where the input is a flattened picture: that picture as it lies, and the weights (out × in) in its order.

    None where the input is something else, or lies as ONNX has it.
    """
    maker = emitter.graph.makers().get(node.inputs[0])
    if maker is None or maker.op not in ("Flatten", "Reshape", "Squeeze"):
        return None
    shape, order = emitter.shape(maker.inputs[0]), emitter.order(maker.inputs[0])
    whole = emitter.shape(node.inputs[0])
    if len(whole) != 2 or order[0] != 0 or shape[0] != whole[0] or order == identity(len(order)):
        return None
    places = np.arange(weights.shape[1]).reshape(shape[1:]).transpose([axis - 1 for axis in order[1:]])
    return emitter.writer.reshape(emitter.where(maker.inputs[0]).tensor, whole), weights[:, places.reshape(-1)]


def _fully_connected(emitter: Emitter, node: Node, x: int, weights: Array, bias: Array, order: Any) -> None:
    """FULLY_CONNECTED over the last stored axis; `weights` are out × in."""
    writer = emitter.writer
    function, out = emitter.follow(node)
    options = {"fusedActivationFunction": function, "keepNumDims": True}
    inputs = [
        x,
        writer.constant(node.inputs[1], weights.astype(np.float32), own=True),
        writer.constant(node.input(2) or f"{node.name}/bias", bias.astype(np.float32), own=True),
    ]
    shape = (*writer.shapes[x][:-1], weights.shape[0])
    version = 5 if len(shape) != 2 else 1
    y = writer.emit(
        "FULLY_CONNECTED", inputs, shape, node.name, options=options, table="FullyConnectedOptions", version=version
    )
    emitter.put(out, y, order)


def matmul(emitter: Emitter, node: Node) -> None:
    """FULLY_CONNECTED with constant weights of two dimensions, else BATCH_MATMUL."""
    left, right = node.inputs[:2]
    weights = emitter.constant(right)
    rank = emitter.rank(left)
    if weights is not None and weights.ndim == 2 and emitter.constant(left) is None and rank >= 2:
        order = last(emitter.order(left), rank - 1)
        bias = emitter.graph.constants[node.input(2)] if node.input(2) else np.zeros(weights.shape[1], np.float32)
        flat = _flattened(emitter, node, weights.T) if rank == 2 else None
        order = identity(2) if flat else order
        x, filters = flat or (emitter.want(left, order), weights.T)
        _fully_connected(emitter, node, x, filters, bias.reshape(-1), order)
        return
    if min(rank, emitter.rank(right)) < 2 or rank != emitter.rank(right):
        raise Refusal("multiplies tensors of different rank", "reshape both to the same number of dimensions")
    options = {}
    tensors = []
    for name, key in ((left, "adjX"), (right, "adjY")):
        straight = identity(rank)
        crossed = (*straight[:-2], rank - 1, rank - 2)
        options[key] = emitter.order(name) == crossed and emitter.constant(name) is None
        tensors.append(emitter.want(name, crossed if options[key] else straight))
    shape = emitter.shape(node.outputs[0])
    emitter.emit(
        node, "BATCH_MATMUL", tensors, shape, identity(rank), options=options, table="BatchMatMulOptions", version=2
    )


HANDLERS: dict[str, Handler] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
}
