"""Activations that exporters spell out in several operators, found and named again."""

from __future__ import annotations

import math

from edgerun.convert.bridge.emitter import bounds
from edgerun.convert.bridge.graph import Graph, Node

SIXTH = 1 / 6


def match(graph: Graph) -> None:
    """Name every hard sigmoid, hard swish and GELU of the graph."""
    for find in (_hard_sigmoid, _hard_swish, _hard_swish_divided, _gelu):
        while any(find(graph, node) for node in graph.nodes):
            pass


def _become(graph: Graph, last: Node, op: str, x: str, **attributes: float) -> bool:
    """Let the last node of a pattern be the whole; what led to it goes if nothing else reads it."""
    last.op, last.inputs, last.attributes = op, [x], dict(attributes)
    graph.drop_unread()
    return True


def _term(graph: Graph, node: Node | None, op: str, value: float) -> str | None:
    """The other operand of a commutative `op` with that constant, or of its inverse; None where it is not that."""
    inverse = {"Mul": ("Div", 1 / value if value else math.inf), "Add": ("Sub", -value)}[op]
    if node is None or node.op not in (op, inverse[0]):
        return None
    expected = value if node.op == op else inverse[1]
    for mine, other in ((1, 0), (0, 1)) if node.op == op else ((1, 0),):
        constant = graph.scalar(node.inputs[mine])
        if constant is not None and math.isclose(constant, expected, rel_tol=1e-4):
            return node.inputs[other]
    return None


def _relu6_of_shifted(graph: Graph, name: str) -> str | None:
    """x, where the value is Clip(x + 3, 0, 6)."""
    makers = graph.makers()
    clip = makers.get(name)
    if clip is None or clip.op != "Clip":
        return None
    if any(bound and bound not in graph.constants for bound in clip.inputs[1:]) or bounds(graph, clip) != (0.0, 6.0):
        return None
    return _term(graph, makers.get(clip.inputs[0]), "Add", 3.0)


def _hard_sigmoid(graph: Graph, node: Node) -> bool:
    scaled = _term(graph, node, "Mul", SIXTH)
    x = _relu6_of_shifted(graph, scaled) if scaled else None
    return _become(graph, node, "HardSigmoid", x, alpha=SIXTH, beta=0.5) if x else False


def _hard_swish(graph: Graph, node: Node) -> bool:
    if node.op != "Mul":
        return False
    makers = graph.makers()
    for x, other in (node.inputs, node.inputs[::-1]):
        gate = makers.get(other)
        if gate is not None and gate.op == "HardSigmoid" and gate.inputs[0] == x:
            slope, shift = gate.attribute("alpha", 0.2), gate.attribute("beta", 0.5)
            if math.isclose(slope, SIXTH, rel_tol=1e-4) and shift == 0.5:
                return _become(graph, node, "HardSwish", x)
    return False


def _hard_swish_divided(graph: Graph, node: Node) -> bool:
    """(x · ReLU6(x + 3)) / 6."""
    scaled = _term(graph, node, "Mul", SIXTH)
    product = graph.makers().get(scaled) if scaled else None
    if product is None or product.op != "Mul":
        return False
    for x, other in (product.inputs, product.inputs[::-1]):
        if _relu6_of_shifted(graph, other) == x:
            return _become(graph, node, "HardSwish", x)
    return False


def _gelu(graph: Graph, node: Node) -> bool:
    """x · 0.5 · (1 + erf(x / √2)), multiplied in any order (Hendrycks & Gimpel 2016)."""
    factors = _factors(graph, node)
    if factors is None:
        return False
    makers = graph.makers()
    values, number = factors
    for name in values:
        erf = makers.get(_term(graph, makers.get(name), "Add", 1.0) or "")
        if erf is None or erf.op != "Erf" or len(values) != 2:
            continue
        x = _term(graph, makers.get(erf.inputs[0]), "Mul", 1 / math.sqrt(2))
        if x in values and math.isclose(number, 0.5, rel_tol=1e-4):
            return _become(graph, node, "Gelu", x)
    return False


def _factors(graph: Graph, node: Node) -> tuple[list[str], float] | None:
    """What a small tree of Mul (and Div by a number) multiplies: the values, and the product of the numbers."""
    if node.op not in ("Mul", "Div"):
        return None
    makers = graph.makers()
    values: list[str] = []
    number = 1.0
    for index, name in enumerate(node.inputs):
        constant = graph.scalar(name)
        inner = makers.get(name)
        if constant is not None:
            number *= constant if node.op == "Mul" or index == 0 else 1 / constant
        elif node.op == "Div" and index == 1:
            return None
        elif inner is not None and inner.op in ("Mul", "Div") and (below := _factors(graph, inner)) is not None:
            values += below[0]
            number *= below[1]
        else:
            values.append(name)
        if len(values) > 2:
            return None
    return values, number
