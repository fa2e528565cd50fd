"""Operators on single elements and pairs of them, and those that work along one axis (Softmax, ArgMax)."""

from __future__ import annotations

import math

import numpy as np

from edgerun.convert.bridge.emitter import Emitter, Handler, Placed, Refusal
from edgerun.convert.bridge.graph import Array, Node, Shape
from edgerun.convert.bridge.layout import Order, between, identity, last, moves_nothing, stored


def binary(op: str, table: str = "", fusing: bool = True, answer: type | None = None) -> Handler:
    """Two values with numpy's broadcasting, in the layout that moves fewest elements."""

    def handler(emitter: Emitter, node: Node) -> None:
        order, (left, right) = _together(emitter, node.inputs)
        function, out = emitter.follow(node) if fusing else (0, node.outputs[0])
        options = {"fusedActivationFunction": function} if fusing else None
        shape = stored(emitter.shape(node.outputs[0]), order)
        y = emitter.writer.emit(
            op, [left, right], shape, node.name, options=options, table=table, version=version(op), dtype=answer
        )
        emitter.put(out, y, order)

    return handler


def version(op: str) -> int:
    """The version of an operator that its use with float32 needs."""
    return 2 if op in ("DIV", "MAXIMUM", "MINIMUM", "EQUAL", "GREATER", "LESS") else 1


def _together(emitter: Emitter, names: list[str]) -> tuple[Order, list[int]]:
    """The common order of values that are combined element by element, and their tensors in it, ranks made equal."""
    rank = max(emitter.rank(name) for name in names)
    full = {name: (1,) * (rank - emitter.rank(name)) + emitter.shape(name) for name in names}
    placed = {name: _raised(emitter, name, rank) for name in names if emitter.constant(name) is None}

    def cost(order: Order) -> int:
        return sum(
            math.prod(full[name])
            for name, (_, own) in placed.items()
            if not moves_nothing(stored(full[name], own), between(own, order))
        )

    candidates = [own for _, own in placed.values()] or [identity(rank)]
    order = min(candidates, key=cost)
    tensors = []
    for name in names:
        constant = emitter.constant(name)
        if constant is None:
            tensor, own = placed[name]
            tensors.append(emitter.writer.transpose(tensor, between(own, order)))
        else:
            tensors.append(_laid_out(emitter, name, constant.reshape(full[name]), order))
    return order, tensors


def _raised(emitter: Emitter, name: str, rank: int) -> tuple[int, Order]:
    """The value with leading axes of size 1 up to that rank: its tensor and the order of its axes."""
    placed = emitter.where(name)
    missing = rank - len(placed.order)
    if not missing:
        return placed.tensor, placed.order
    shape = emitter.writer.shapes[placed.tensor]
    order = (*range(missing), *(axis + missing for axis in placed.order))
    return emitter.writer.reshape(placed.tensor, (*[1] * missing, *shape)), order


def _laid_out(emitter: Emitter, name: str, value: Array, order: Order) -> int:
    """A constant in that order, leading axes of size 1 dropped: (1, 1, 1, C) is written (C), a single value as ()."""
    value = value.transpose(order)
    while value.ndim and value.shape[0] == 1:
        value = value[0]
    return emitter.writer.constant(name, value)


def unary(op: str, table: str = "") -> Handler:
    """One value, element by element, where it lies."""

    def handler(emitter: Emitter, node: Node) -> None:
        x = emitter.where(node.inputs[0])
        emitter.emit(node, op, [x.tensor], emitter.writer.shapes[x.tensor], x.order, table=table)

    return handler


def step(
    emitter: Emitter, node: Node, op: str, tensor: int, name: str, number: float | None = None, table: str = ""
) -> int:
    """One operator of several that a node becomes; `number` is its second operand."""
    inputs = [tensor]
    if number is not None:
        inputs.append(emitter.writer.constant(f"const/{number:g}", np.array(number, np.float32)))
    shape = emitter.writer.shapes[tensor]
    return emitter.writer.emit(op, inputs, shape, f"{node.name}{name}", table=table, version=version(op))


def power(emitter: Emitter, node: Node) -> None:
    """Squares, roots and cubes by what quantises better than POW."""
    exponent = emitter.graph.scalar(node.inputs[1])
    x = emitter.where(node.inputs[0])
    if exponent == 2.0:
        emitter.put(node.outputs[0], step(emitter, node, "SQUARE", x.tensor, ""), x.order)
    elif exponent == 0.5:
        emitter.put(node.outputs[0], step(emitter, node, "SQRT", x.tensor, ""), x.order)
    elif exponent == 3.0:
        square = step(emitter, node, "SQUARE", x.tensor, "/Square")
        emitter.emit(node, "MUL", [square, x.tensor], emitter.writer.shapes[square], x.order, table="MulOptions")
    else:
        binary("POW", "", fusing=False)(emitter, node)


def reciprocal(emitter: Emitter, node: Node) -> None:
    """1 / x."""
    x = emitter.where(node.inputs[0])
    one = emitter.writer.constant("const/1", np.array(1, np.float32))
    emitter.emit(node, "DIV", [one, x.tensor], emitter.writer.shapes[x.tensor], x.order, table="DivOptions")


def many(op: str, table: str) -> Handler:
    """Max, Min and Sum of any number of values, two by two."""

    def handler(emitter: Emitter, node: Node) -> None:
        if len(node.inputs) == 1:
            x = emitter.where(node.inputs[0])
            emitter.put(node.outputs[0], x.tensor, x.order)
            return
        order, tensors = _together(emitter, node.inputs)
        tensor = tensors[0]
        for index, other in enumerate(tensors[1:], start=1):
            name = node.name if index == len(tensors) - 1 else f"{node.name}/{index}"
            shape: Shape = np.broadcast_shapes(emitter.writer.shapes[tensor], emitter.writer.shapes[other])
            tensor = emitter.writer.emit(op, [tensor, other], shape, name, table=table, version=version(op))
        emitter.put(node.outputs[0], tensor, order)

    return handler


def softmax(emitter: Emitter, node: Node) -> None:
    """Over the last stored axis. Before opset 13 over all axes from `axis` on, as one."""
    name = node.inputs[0]
    rank = emitter.rank(name)
    early = emitter.graph.opset < 13
    axis = node.attribute("axis", 1 if early else -1) % rank
    op, table = ("SOFTMAX", "SoftmaxOptions") if node.op == "Softmax" else ("LOG_SOFTMAX", "LogSoftmaxOptions")
    options = {"beta": 1.0} if op == "SOFTMAX" else None
    writer = emitter.writer
    if early and math.prod(emitter.shape(name)[axis + 1 :]) != 1:
        shape = emitter.shape(name)
        flat = writer.reshape(emitter.want(name, identity(rank)), (math.prod(shape[:axis]), math.prod(shape[axis:])))
        y = writer.emit(op, [flat], writer.shapes[flat], f"{node.name}/Flat", options=options, table=table)
        emitter.put(node.outputs[0], writer.reshape(y, shape, node.name), identity(rank))
        return
    order = last(emitter.order(name), axis)
    x = emitter.want(name, order)
    emitter.emit(node, op, [x], writer.shapes[x], order, options=options, table=table)


def arg(op: str, table: str) -> Handler:
    """ARG_MAX and ARG_MIN, int64 as in ONNX."""

    def handler(emitter: Emitter, node: Node) -> None:
        if node.attribute("select_last_index", 0):
            raise Refusal("wants the last of equal values", "TFLite gives the first; leave select_last_index at 0")
        name, writer = node.inputs[0], emitter.writer
        axis = node.attribute("axis", 0) % emitter.rank(name)
        x = emitter.where(name)
        place = x.order.index(axis)
        shape = tuple(size for index, size in enumerate(writer.shapes[x.tensor]) if index != place)
        inputs = [x.tensor, writer.integers(place)]
        options = {"outputType": writer.schema.TensorType.INT64}
        y = writer.emit(op, inputs, shape, node.name, options=options, table=table, dtype=np.int64)
        keep = bool(node.attribute("keepdims", 1))
        order = x.order if keep else tuple(other - (other > axis) for other in x.order if other != axis)
        emitter.put(node.outputs[0], writer.reshape(y, stored(emitter.shape(node.outputs[0]), order)), order)

    return handler


def cast(emitter: Emitter, node: Node) -> None:
    """CAST between types that differ in TFLite too."""
    x: Placed = emitter.where(node.inputs[0])
    emitter.emit(
        node, "CAST", [x.tensor], emitter.writer.shapes[x.tensor], x.order, table="CastOptions",
        dtype=emitter.graph.dtypes[node.outputs[0]],
    )  # fmt: skip


def where(emitter: Emitter, node: Node) -> None:
    """SELECT_V2."""
    order, tensors = _together(emitter, node.inputs)
    shape = stored(emitter.shape(node.outputs[0]), order)
    dtype = emitter.graph.dtypes[node.outputs[0]]
    emitter.emit(node, "SELECT_V2", tensors, shape, order, table="SelectV2Options", dtype=dtype)


HANDLERS: dict[str, Handler] = {
    "Add": binary("ADD", "AddOptions"),
    "Sub": binary("SUB", "SubOptions"),
    "Mul": binary("MUL", "MulOptions"),
    "Div": binary("DIV", "DivOptions"),
    "Max": many("MAXIMUM", "MaximumMinimumOptions"),
    "Min": many("MINIMUM", "MaximumMinimumOptions"),
    "Sum": many("ADD", "AddOptions"),
    "Pow": power,
    "Equal": binary("EQUAL", "EqualOptions", False, np.bool_),
    "Greater": binary("GREATER", "GreaterOptions", False, np.bool_),
    "GreaterOrEqual": binary("GREATER_EQUAL", "GreaterEqualOptions", False, np.bool_),
    "Less": binary("LESS", "LessOptions", False, np.bool_),
    "LessOrEqual": binary("LESS_EQUAL", "LessEqualOptions", False, np.bool_),
    "Where": where,
    "Exp": unary("EXP", "ExpOptions"),
    "Log": unary("LOG"),
    "Sqrt": unary("SQRT"),
    "Reciprocal": reciprocal,
    "Abs": unary("ABS", "AbsOptions"),
    "Neg": unary("NEG", "NegOptions"),
    "Floor": unary("FLOOR"),
    "Ceil": unary("CEIL"),
    "Round": unary("ROUND"),
    "Sin": unary("SIN"),
    "Cos": unary("COS", "CosOptions"),
    "Not": unary("LOGICAL_NOT", "LogicalNotOptions"),
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "ArgMax": arg("ARG_MAX", "ArgMaxOptions"),
    "ArgMin": arg("ARG_MIN", "ArgMinOptions"),
    "Cast": cast,
}
