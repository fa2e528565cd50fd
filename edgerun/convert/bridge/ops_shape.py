"""Operators that move, cut and join values without computing with them."""

from __future__ import annotations

import math

import numpy as np

from edgerun.convert.bridge import windows
from edgerun.convert.bridge.emitter import Emitter, Handler, Refusal
from edgerun.convert.bridge.graph import Node
from edgerun.convert.bridge.layout import (
    Order,
    between,
    channels_last,
    identity,
    moves_nothing,
    regroup,
    stored,
    without,
)


def reshape(emitter: Emitter, node: Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: their output's shape says all."""
    name, out = node.inputs[0], node.outputs[0]
    before, after = emitter.shape(name), emitter.shape(out)
    first, order = regroup(before, emitter.order(name), after)
    emitter.put(out, emitter.writer.reshape(emitter.want(name, first), stored(after, order), node.name), order)


def transpose(emitter: Emitter, node: Node) -> None:
    """Renames the axes; the values move only if a later layer needs them elsewhere."""
    placed = emitter.where(node.inputs[0])
    permutation = node.attribute("perm") or list(range(len(placed.order)))[::-1]
    emitter.put(node.outputs[0], placed.tensor, tuple(list(permutation).index(axis) for axis in placed.order))


def passing(emitter: Emitter, node: Node) -> None:
    """An Identity that a graph's output kept."""
    placed = emitter.where(node.inputs[0])
    emitter.put(node.outputs[0], placed.tensor, placed.order)


def concat(emitter: Emitter, node: Node) -> None:
    """CONCATENATION in the layout that moves fewest elements."""
    writer = emitter.writer
    moving = [name for name in node.inputs if emitter.constant(name) is None]
    candidates = {emitter.order(name) for name in moving} or {identity(emitter.rank(node.inputs[0]))}

    def cost(order: Order) -> tuple[int, Order]:
        moved = (name for name in moving if not _free(emitter, name, order))
        return sum(math.prod(emitter.shape(name)) for name in moved), order

    order = min(candidates, key=cost)
    axis = node.attribute("axis") % len(order)
    tensors = [emitter.want(name, order) for name in node.inputs]
    shape = stored(emitter.shape(node.outputs[0]), order)
    options = {"axis": order.index(axis)}
    dtype = writer.dtypes[tensors[0]]
    emitter.emit(
        node, "CONCATENATION", tensors, shape, order, options=options, table="ConcatenationOptions", dtype=dtype
    )


def _free(emitter: Emitter, name: str, order: Order) -> bool:
    own = emitter.order(name)
    return moves_nothing(stored(emitter.shape(name), own), between(own, order))


def split(emitter: Emitter, node: Node) -> None:
    """SPLIT, or SPLIT_V where the parts differ."""
    writer = emitter.writer
    x = emitter.where(node.inputs[0])
    axis = node.attribute("axis", 0) % len(x.order)
    sizes = [emitter.shape(name)[axis] for name in node.outputs]
    place = x.order.index(axis)
    outputs = [
        writer.tensor(f"{node.name}/{index}", stored(emitter.shape(name), x.order), writer.dtypes[x.tensor])
        for index, name in enumerate(node.outputs)
    ]
    options = {"numSplits": len(outputs)}
    if len(set(sizes)) == 1:
        writer.append("SPLIT", [writer.integers(place), x.tensor], outputs, options=options, table="SplitOptions")
    else:
        inputs = [x.tensor, writer.integers(sizes), writer.integers(place)]
        writer.append("SPLIT_V", inputs, outputs, options=options, table="SplitVOptions")
    for name, tensor in zip(node.outputs, outputs, strict=True):
        emitter.put(name, tensor, x.order)


def slice_(emitter: Emitter, node: Node) -> None:
    """By starts, ends, axes and steps; numpy's rules for negative and overlong ones."""
    shape = emitter.shape(node.inputs[0])
    starts = emitter.graph.argument(node, 1, "starts")
    ends = emitter.graph.argument(node, 2, "ends")
    axes = emitter.graph.argument(node, 3, "axes") or list(range(len(starts)))
    steps = emitter.graph.argument(node, 4, "steps") or [1] * len(starts)
    begin, step = [0] * len(shape), [1] * len(shape)
    for start, end, axis, by in zip(starts, ends, axes, steps, strict=True):
        begin[axis], _, step[axis] = slice(start, end, by).indices(shape[axis])
    cut(emitter, node, begin, step)


def cut(emitter: Emitter, node: Node, begin: list[int], step: list[int]) -> None:
    """The elements from `begin` on, every `step`th, as many as the output has (ONNX axes)."""
    x, writer = emitter.where(node.inputs[0]), emitter.writer
    out = emitter.shape(node.outputs[0])
    if 0 in out:
        raise Refusal("gives no elements", "leave the layer out")
    begins, sizes = stored(tuple(begin), x.order), stored(out, x.order)
    inputs = [x.tensor, writer.integers(begins)]
    if all(by == 1 for by in step):
        emitter.emit(node, "SLICE", [*inputs, writer.integers(sizes)], sizes, x.order, table="SliceOptions")
        return
    steps = stored(tuple(step), x.order)
    ends = [
        first + (size - 1) * by + (1 if by > 0 else -1) for first, size, by in zip(begins, sizes, steps, strict=True)
    ]
    options = {"endMask": sum(1 << axis for axis, end in enumerate(ends) if end < 0)}
    inputs += [writer.integers([max(end, 0) for end in ends]), writer.integers(steps)]
    emitter.emit(node, "STRIDED_SLICE", inputs, sizes, x.order, options=options, table="StridedSliceOptions")


def pad(emitter: Emitter, node: Node) -> None:
    """PAD, PADV2 or MIRROR_PAD."""
    x, writer = emitter.where(node.inputs[0]), emitter.writer
    rank = len(x.order)
    pads = emitter.graph.argument(node, 1, "pads")
    axes = emitter.graph.argument(node, 3, "axes") or list(range(rank))
    ends = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        ends[axis] = (pads[index], pads[index + len(axes)])
    if any(before < 0 or after < 0 for before, after in ends):
        raise Refusal("crops by negative padding", "export it as a Slice")
    paddings = [ends[axis] for axis in x.order]
    mode = node.attribute("mode", "constant")
    if mode == "constant":
        value = emitter.graph.argument(node, 2, "value", 0.0)
        value = 0.0 if value is None else float(np.reshape(value, -1)[0])
        emitter.put(node.outputs[0], windows.pad(emitter, x.tensor, paddings, node.name, value), x.order)
        return
    if mode != "reflect":
        raise Refusal(f'pads with mode "{mode}"', "TFLite pads with a constant or by reflection")
    options = {"mode": writer.schema.MirrorPadMode.REFLECT}
    shape = stored(emitter.shape(node.outputs[0]), x.order)
    inputs = [x.tensor, writer.integers(paddings)]
    emitter.emit(node, "MIRROR_PAD", inputs, shape, x.order, options=options, table="MirrorPadOptions")


def gather(emitter: Emitter, node: Node) -> None:
    """GATHER by constant indices; one index alone is a SLICE."""
    indices = emitter.constant(node.inputs[1])
    if indices is None:
        raise Refusal("takes its indices from another layer", "make them constant, or use --format onnx")
    if emitter.constant(node.inputs[0]) is not None:
        raise Refusal("looks up a table", "use --format onnx")
    x, writer = emitter.where(node.inputs[0]), emitter.writer
    rank = len(x.order)
    axis = node.attribute("axis", 0) % rank
    size = emitter.shape(node.inputs[0])[axis]
    places = np.where(indices < 0, indices + size, indices)
    place = x.order.index(axis)
    shape = list(writer.shapes[x.tensor])
    if places.ndim > 1:
        raise Refusal(f"has indices of {places.ndim} dimensions", "flatten them and reshape the result")
    if places.ndim == 1:
        shape[place] = len(places)
        inputs = [x.tensor, writer.integers(places)]
        emitter.emit(node, "GATHER", inputs, tuple(shape), x.order, options={"axis": place}, table="GatherOptions")
        return
    begin = [0] * rank
    begin[place], shape[place] = int(places), 1
    inputs = [x.tensor, writer.integers(begin), writer.integers(shape)]
    one = writer.emit("SLICE", inputs, shape, f"{node.name}/Slice", table="SliceOptions")
    order = without(x.order, {axis})
    emitter.put(node.outputs[0], writer.reshape(one, stored(emitter.shape(node.outputs[0]), order), node.name), order)


def depth_to_space(emitter: Emitter, node: Node) -> None:
    """DEPTH_TO_SPACE, its channels put in order first where ONNX counts them otherwise (CRD)."""
    writer = emitter.writer
    block = node.attribute("blocksize")
    x = emitter.pictures(node.inputs[0])
    if node.attribute("mode", "DCR") == "CRD":
        channels = writer.shapes[x][3]
        places = np.arange(channels).reshape(channels // block**2, block**2).T.reshape(-1)
        inputs = [x, writer.integers(places)]
        x = writer.emit(
            "GATHER", inputs, writer.shapes[x], f"{node.name}/Gather", options={"axis": 3}, table="GatherOptions"
        )
    _blocks(emitter, node, "DEPTH_TO_SPACE", "DepthToSpaceOptions", x, block)


def space_to_depth(emitter: Emitter, node: Node) -> None:
    """SPACE_TO_DEPTH."""
    x = emitter.pictures(node.inputs[0])
    _blocks(emitter, node, "SPACE_TO_DEPTH", "SpaceToDepthOptions", x, node.attribute("blocksize"))


def _blocks(emitter: Emitter, node: Node, op: str, table: str, x: int, block: int) -> None:
    order = channels_last(4)
    shape = stored(emitter.shape(node.outputs[0]), order)
    emitter.emit(node, op, [x], shape, order, options={"blockSize": block}, table=table)


def expand(emitter: Emitter, node: Node) -> None:
    """BROADCAST_TO."""
    x, writer = emitter.where(node.inputs[0]), emitter.writer
    out = emitter.shape(node.outputs[0])
    missing = len(out) - len(x.order)
    order = (*range(missing), *(axis + missing for axis in x.order))
    tensor = writer.reshape(x.tensor, (*[1] * missing, *writer.shapes[x.tensor]))
    shape = stored(out, order)
    if writer.shapes[tensor] == shape:
        emitter.put(node.outputs[0], tensor, order)
        return
    inputs = [tensor, writer.integers(shape)]
    emitter.emit(node, "BROADCAST_TO", inputs, shape, order, table="BroadcastToOptions", version=2)


def tile(emitter: Emitter, node: Node) -> None:
    """TILE."""
    x, writer = emitter.where(node.inputs[0]), emitter.writer
    repeats = emitter.graph.argument(node, 1, "repeats")
    shape = stored(emitter.shape(node.outputs[0]), x.order)
    inputs = [x.tensor, writer.integers(stored(tuple(repeats), x.order))]
    emitter.emit(node, "TILE", inputs, shape, x.order, table="TileOptions")


HANDLERS: dict[str, Handler] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Identity": passing,
    "Dropout": passing,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "Gather": gather,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Expand": expand,
    "Tile": tile,
}
