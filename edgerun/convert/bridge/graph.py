"""An ONNX graph as the bridge works on it: constants apart, every shape known, names kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(eq=False)
class Node:
    """One ONNX operator. `inputs` holds "" where an optional input is left out; `attributes` are plain values."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def input(self, index: int) -> str:
        """Name of an input, "" where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(eq=False)
class Graph:
    """`nodes` in the order of execution; `shapes` and `dtypes` of every value, `constants` of those known beforehand.

    float16 and float64 are float32 here.
    """

    opset: int
    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    constants: dict[str, Array]
    shapes: dict[str, Shape]
    dtypes: dict[str, np.dtype[Any]]
    notes: list[str] = field(default_factory=list)

    def users(self) -> dict[str, list[Node]]:
        """By value: the nodes that read it, once for each time they do."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    def makers(self) -> dict[str, Node]:
        """By value: the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def only_user(self, name: str, users: dict[str, list[Node]]) -> Node | None:
        """The node that alone reads the value, None where there are more or the value is an output."""
        readers = users.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def argument(self, node: Node, index: int, attribute: str, default: Any = None) -> Any:
        """What later opsets take as an input and earlier ones as an attribute: a list, or a number of a scalar.

        `default` where it is neither. Raises `KeyError` where it is an input that is not constant.
        """
        name = node.input(index)
        if name:
            return self.constants[name].tolist()
        return node.attribute(attribute, default)

    def scalar(self, name: str) -> float | None:
        """The value of a constant that has one element; None of everything else."""
        value = self.constants.get(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def add_constant(self, name: str, value: Array) -> str:
        """Add a constant under `name`, or under a name like it where that is taken."""
        while name in self.shapes:
            name += "_"
        self.constants[name] = value
        self.shapes[name] = value.shape
        self.dtypes[name] = value.dtype
        return name

    def drop_unread(self) -> None:
        """Remove the nodes whose outputs nothing reads."""
        wanted = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if any(name in wanted for name in node.outputs):
                wanted.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
