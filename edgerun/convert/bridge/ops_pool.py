"""Pooling, global pooling and reductions."""

from __future__ import annotations

import numpy as np

from edgerun.convert.bridge import windows
from edgerun.convert.bridge.emitter import Emitter, Handler, Refusal
from edgerun.convert.bridge.graph import Node
from edgerun.convert.bridge.layout import channels_last, stored, without

NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Abs", "Exp", "Softmax", "Sqrt"}


def max_pool(emitter: Emitter, node: Node) -> None:
    """MAX_POOL_2D; padding that is neither SAME nor VALID is added before it."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise Refusal("gives the places of its maxima too", "export without return_indices")
    found = windows.flat(windows.axes(emitter, node, tuple(node.attribute("kernel_shape"))))
    if any(axis.dilation > 1 for axis in found):
        raise Refusal("is dilated", "use a convolution or a plain MaxPool")
    x = windows.as_picture(emitter, node.inputs[0])
    kind = windows.kind(found)
    if kind is None:
        x, kind = _widened(emitter, node, x, found), "VALID"
    _pool(emitter, node, "MAX_POOL_2D", x, found, kind)


def _widened(emitter: Emitter, node: Node, x: int, found: list[windows.Axis]) -> int:
    """Padding that never wins the maximum, and leaves the range of values (which quantisation maps) alone if it can.

    Zeros where nothing is below zero; else the picture's own mirrored edge, which every window that sees it sees
    directly as well.
    """
    maker = emitter.graph.makers().get(node.inputs[0])
    if maker is not None and (maker.op in NEVER_NEGATIVE or _clipped(emitter, maker)):
        return windows.padded(emitter, node, x, found)
    if any(2 * axis.before > axis.kernel or 2 * axis.past > axis.kernel for axis in found):
        return windows.padded(emitter, node, x, found, windows.LOWEST)
    writer = emitter.writer
    paddings = [(0, 0), *((axis.before, max(axis.past, 0)) for axis in found), (0, 0)]
    shape = tuple(size + sum(ends) for size, ends in zip(writer.shapes[x], paddings, strict=True))
    options = {"mode": writer.schema.MirrorPadMode.SYMMETRIC}
    inputs = [x, writer.integers(paddings)]
    return writer.emit("MIRROR_PAD", inputs, shape, f"{node.name}/Pad", options=options, table="MirrorPadOptions")


def _clipped(emitter: Emitter, maker: Node) -> bool:
    if maker.op != "Clip":
        return False
    low = emitter.graph.scalar(maker.input(1)) if maker.input(1) else maker.attribute("min")
    return low is not None and low >= 0


def average_pool(emitter: Emitter, node: Node) -> None:
    """AVERAGE_POOL_2D; what padding makes of its divisors is put right by a constant factor."""
    found = windows.flat(windows.axes(emitter, node, tuple(node.attribute("kernel_shape"))))
    if any(axis.dilation > 1 for axis in found):
        raise Refusal("is dilated", "use a depthwise convolution with equal weights")
    x = windows.as_picture(emitter, node.inputs[0])
    kind = windows.kind(found)
    counted = bool(node.attribute("count_include_pad", 0))
    if kind == "VALID" or (kind == "SAME" and not counted):
        _pool(emitter, node, "AVERAGE_POOL_2D", x, found, kind)
        return
    factors = _factors(found[0], counted)[:, None] * _factors(found[1], counted)[None, :]
    x = windows.padded(emitter, node, x, found)
    if np.all(factors == 1):
        _pool(emitter, node, "AVERAGE_POOL_2D", x, found, "VALID")
        return
    writer = emitter.writer
    shape = (writer.shapes[x][0], found[0].out, found[1].out, writer.shapes[x][3])
    table = "Pool2DOptions"
    mean = writer.emit(
        "AVERAGE_POOL_2D", [x], shape, f"{node.name}/Mean", options=_options(emitter, found, "VALID"), table=table
    )
    factor = writer.constant(f"{node.name}/factors", factors[None, :, :, None].astype(np.float32))
    y = writer.emit("MUL", [mean, factor], shape, node.name, table="MulOptions")
    _put(emitter, node.outputs[0], y)


def _factors(axis: windows.Axis, counted: bool) -> np.ndarray:
    """By window along one axis: its width over the elements that ONNX divides by."""
    begins = np.arange(axis.out) * axis.stride - axis.before
    low, high = (-axis.before, axis.size + axis.after) if counted else (0, axis.size)
    seen = np.minimum(begins + axis.kernel, high) - np.maximum(begins, low)
    return axis.kernel / seen


def _options(emitter: Emitter, found: list[windows.Axis], kind: str, function: int = 0) -> dict[str, int]:
    return {
        "padding": getattr(emitter.writer.schema.Padding, kind),
        "strideH": found[0].stride,
        "strideW": found[1].stride,
        "filterHeight": found[0].kernel,
        "filterWidth": found[1].kernel,
        "fusedActivationFunction": function,
    }


def _pool(emitter: Emitter, node: Node, op: str, x: int, found: list[windows.Axis], kind: str) -> None:
    writer = emitter.writer
    function, out = emitter.follow(node)
    shape = (writer.shapes[x][0], found[0].out, found[1].out, writer.shapes[x][3])
    options = _options(emitter, found, kind, function)
    _put(emitter, out, writer.emit(op, [x], shape, node.name, options=options, table="Pool2DOptions"))


def _put(emitter: Emitter, name: str, tensor: int) -> None:
    order = channels_last(emitter.rank(name))
    emitter.put(name, emitter.writer.reshape(tensor, stored(emitter.shape(name), order)), order)


def _reduction(op: str) -> Handler:
    def handler(emitter: Emitter, node: Node) -> None:
        rank = emitter.rank(node.inputs[0])
        if node.op.startswith("Global"):
            axes, keep = list(range(2, rank)), True
        else:
            axes = emitter.graph.argument(node, 1, "axes")
            keep = bool(node.attribute("keepdims", 1))
            if not axes:
                axes = [] if node.attribute("noop_with_empty_axes", 0) else list(range(rank))
        _reduce(emitter, node, op, {axis % rank for axis in axes}, keep)

    return handler


def _reduce(emitter: Emitter, node: Node, op: str, axes: set[int], keep: bool) -> None:
    writer = emitter.writer
    order = emitter.order(node.inputs[0])
    if node.op.startswith("Global"):
        order = channels_last(len(order))
    x = emitter.want(node.inputs[0], order)
    places = [place for place, axis in enumerate(order) if axis in axes]
    after = order if keep else without(order, axes)
    shape = stored(emitter.shape(node.outputs[0]), after)
    emitter.emit(
        node,
        op,
        [x, writer.integers(places)],
        shape,
        after,
        options={"keepDims": keep},
        table="ReducerOptions",
    )


HANDLERS: dict[str, Handler] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": _reduction("MEAN"),
    "GlobalMaxPool": _reduction("REDUCE_MAX"),
    "ReduceMean": _reduction("MEAN"),
    "ReduceMax": _reduction("REDUCE_MAX"),
    "ReduceMin": _reduction("REDUCE_MIN"),
    "ReduceSum": _reduction("SUM"),
    "ReduceProd": _reduction("REDUCE_PROD"),
}
