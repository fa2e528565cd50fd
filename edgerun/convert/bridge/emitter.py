"""Walks the graph and has each operator written: where every value lies, which layout is wanted, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerun.convert.bridge.graph import Array, Graph, Node, Shape
from edgerun.convert.bridge.layout import Order, between, channels_last, identity, stored
from edgerun.convert.bridge.writer import Writer


class Refusal(Exception):
    """Why a node cannot be written in TFLite, and the nearest way out."""

    def __init__(self, why: str, way_out: str) -> None:
        self.why = why
        self.way_out = way_out
        super().__init__(f"{why}; {way_out}")


@dataclass(frozen=True)
class Placed:
    """Where an ONNX value is: a TFLite tensor, whose axis i is the value's axis `order[i]`."""

    tensor: int
    order: Order


Handler = Callable[["Emitter", Node], None]


class Emitter:
    """The state of one translation; handlers of operators are given it and their node."""

    def __init__(self, graph: Graph, handlers: Mapping[str, Handler], ways_out: Mapping[str, str]) -> None:
        self.graph = graph
        self.writer = Writer()
        self.refused: list[str] = []
        self._handlers = handlers
        self._ways_out = ways_out
        self._users = graph.users()
        self._placed: dict[str, Placed] = {}
        self._done: set[int] = set()

    def run(self, layouts: Mapping[str, Order]) -> None:
        """Write every node. `layouts`: the order in which each input of the graph is to be taken."""
        for name in self.graph.inputs:
            order = layouts[name]
            shape = stored(self.graph.shapes[name], order)
            self._placed[name] = Placed(self.writer.tensor(name, shape, self.graph.dtypes[name]), order)
        for node in self.graph.nodes:
            if id(node) not in self._done:
                self._write(node)

    def _write(self, node: Node) -> None:
        try:
            handler = self._handlers.get(node.op)
            if handler is None:
                raise Refusal(
                    "has no counterpart in TFLite that this bridge writes",
                    self._ways_out.get(node.op, "replace the layer before the export, or use --format onnx"),
                )
            handler(self, node)
        except Refusal as refusal:
            self.refused.append(f'{node.op} "{node.name}" {refusal.why}: {refusal.way_out}')
        except KeyError as error:
            if str(error.args[0]) not in node.inputs:
                raise
            self.refused.append(f'{node.op} "{node.name}" takes "{error.args[0]}" from another layer, not a constant')
        except (IndexError, TypeError, ValueError) as error:  # attributes of a number or kind that ONNX does not allow
            self.refused.append(f'{node.op} "{node.name}" is not as ONNX defines it ({error})')
        for name in node.outputs:  # a stand-in lets the layers after a refused one be looked at too
            if name and name not in self._placed and self.refused:
                shape = self.graph.shapes[name]
                self._placed[name] = Placed(
                    self.writer.tensor(name, shape, self.graph.dtypes[name]), identity(len(shape))
                )

    # ---- what handlers ask for

    def shape(self, name: str) -> Shape:
        return self.graph.shapes[name]

    def rank(self, name: str) -> int:
        return len(self.graph.shapes[name])

    def constant(self, name: str) -> Array | None:
        return self.graph.constants.get(name)

    def where(self, name: str) -> Placed:
        """Where the value lies now; a constant is written in the order of its ONNX axes."""
        if name in self._placed:
            return self._placed[name]
        return Placed(self.literal(name, self.graph.constants[name]), identity(self.rank(name)))

    def order(self, name: str) -> Order:
        return self._placed[name].order if name in self._placed else identity(self.rank(name))

    def want(self, name: str, order: Order) -> int:
        """The tensor that holds the value in that order, transposed for it where need be."""
        if name not in self._placed:
            return self.literal(name, self.graph.constants[name].transpose(order))
        placed = self._placed[name]
        return self.writer.transpose(placed.tensor, between(placed.order, order))

    def pictures(self, name: str) -> int:
        """The tensor that holds an N×C×… value channels last."""
        return self.want(name, channels_last(self.rank(name)))

    def literal(self, name: str, value: Array) -> int:
        """A constant, with the integer type that TFLite computes with."""
        return self.writer.constant(name, value)

    def put(self, name: str, tensor: int, order: Order) -> None:
        """Say where a node's output lies. Its shape must be the one that ONNX infers."""
        expected = stored(self.graph.shapes[name], order)
        if self.writer.shapes[tensor] != expected:
            raise Refusal(
                f'would give "{name}" the shape {self.writer.shapes[tensor]}, where ONNX infers {expected}',
                "report the model to edgerun, and use --format onnx meanwhile",
            )
        self._placed[name] = Placed(tensor, order)

    # ---- activations that ride along

    def follow(self, node: Node) -> tuple[int, str]:
        """The activation to fuse into what `node` becomes, and the name of the ONNX value that then comes out.

        The activation is written with it, so its own node is skipped.
        """
        name = node.outputs[0]
        after = self.graph.only_user(name, self._users)
        kind = activation(self.graph, after) if after is not None else None
        if after is None or kind is None:
            return 0, name
        self._done.add(id(after))
        return getattr(self.writer.schema.ActivationFunctionType, kind), after.outputs[0]

    def emit(self, node: Node, op: str, inputs: list[int], shape: Shape, order: Order, **more: Any) -> None:
        """Write a node as one operator, without a fused activation."""
        self.put(node.outputs[0], self.writer.emit(op, inputs, shape, node.name, **more), order)


def activation(graph: Graph, node: Node) -> str | None:
    """The fused activation that a node is, by its name in the schema; None where it is none."""
    if node.op == "Relu":
        return "RELU"
    if node.op != "Clip":
        return None
    if any(name and name not in graph.constants for name in node.inputs[1:]):
        return None
    return {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}.get(bounds(graph, node))


def bounds(graph: Graph, node: Node) -> tuple[float, float]:
    """Least and greatest value of a Clip. Raises `KeyError` with the name of an input that is not constant."""
    low, high = (graph.argument(node, index, name) for index, name in ((1, "min"), (2, "max")))
    return (
        -np.inf if low is None else float(np.reshape(low, ())),
        np.inf if high is None else float(np.reshape(high, ())),
    )
