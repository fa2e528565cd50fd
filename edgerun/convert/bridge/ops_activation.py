"""Activations."""

from __future__ import annotations

import math

import numpy as np

from edgerun.convert.bridge.emitter import Emitter, Handler, Refusal, bounds
from edgerun.convert.bridge.graph import Node
from edgerun.convert.bridge.ops_math import step, unary


def clip(emitter: Emitter, node: Node) -> None:
    """RELU and its kin where there is one with those bounds, else MAXIMUM and MINIMUM."""
    low, high = bounds(emitter.graph, node)
    x = emitter.where(node.inputs[0])
    single = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, 1.0): "RELU_0_TO_1"}
    tensor = x.tensor
    if (low, high) in single:
        tensor = step(emitter, node, single[low, high], tensor, "")
    else:
        if low != -math.inf:
            tensor = step(
                emitter, node, "MAXIMUM", tensor, "/low" if high != math.inf else "", low, "MaximumMinimumOptions"
            )
        if high != math.inf:
            tensor = step(emitter, node, "MINIMUM", tensor, "", high, "MaximumMinimumOptions")
    emitter.put(node.outputs[0], tensor, x.order)


def leaky_relu(emitter: Emitter, node: Node) -> None:
    """LEAKY_RELU."""
    x = emitter.where(node.inputs[0])
    options = {"alpha": float(node.attribute("alpha", 0.01))}
    emitter.emit(
        node,
        "LEAKY_RELU",
        [x.tensor],
        emitter.writer.shapes[x.tensor],
        x.order,
        options=options,
        table="LeakyReluOptions",
    )


def prelu(emitter: Emitter, node: Node) -> None:
    """PRELU, its slopes laid out as its input lies."""
    slope = emitter.constant(node.inputs[1])
    if slope is None:
        raise Refusal("takes its slopes from another layer", "make them constant")
    x = emitter.where(node.inputs[0])
    rank = len(x.order)
    slope = slope.reshape((1,) * (rank - slope.ndim) + slope.shape).transpose(x.order)
    alpha = emitter.writer.constant(node.inputs[1], slope[0])
    emitter.emit(node, "PRELU", [x.tensor, alpha], emitter.writer.shapes[x.tensor], x.order)


def hard_sigmoid(emitter: Emitter, node: Node) -> None:
    """max(0, min(1, alpha·x + beta)); as ReLU6(x + 3) / 6 where it is that, which quantises as one range."""
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    x = emitter.where(node.inputs[0])
    writer = emitter.writer
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        three = writer.constant("const/3", np.array(3, np.float32))
        options = {"fusedActivationFunction": writer.schema.ActivationFunctionType.RELU6}
        shape = writer.shapes[x.tensor]
        tensor = writer.emit("ADD", [x.tensor, three], shape, f"{node.name}/Add", options=options, table="AddOptions")
        tensor = step(emitter, node, "MUL", tensor, "", 1 / 6, "MulOptions")
    else:
        tensor = step(emitter, node, "MUL", x.tensor, "/Mul", alpha, "MulOptions")
        tensor = step(emitter, node, "ADD", tensor, "/Add", beta, "AddOptions")
        tensor = step(emitter, node, "RELU_0_TO_1", tensor, "")
    emitter.put(node.outputs[0], tensor, x.order)


def elu(emitter: Emitter, node: Node) -> None:
    """ELU, which has alpha 1 in TFLite."""
    if node.attribute("alpha", 1.0) != 1.0:
        raise Refusal(f"has alpha {node.attribute('alpha'):g}", "TFLite's ELU has alpha 1; train with that")
    unary("ELU")(emitter, node)


def gelu(emitter: Emitter, node: Node) -> None:
    """GELU, exact or by tanh."""
    x = emitter.where(node.inputs[0])
    options = {"approximate": node.attribute("approximate", "none") == "tanh"}
    emitter.emit(
        node, "GELU", [x.tensor], emitter.writer.shapes[x.tensor], x.order, options=options, table="GeluOptions"
    )


def softplus(emitter: Emitter, node: Node) -> None:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    x = emitter.where(node.inputs[0])
    emitter.put(node.outputs[0], _softplus(emitter, node, x.tensor, ""), x.order)


def _softplus(emitter: Emitter, node: Node, x: int, name: str) -> int:
    tail = step(emitter, node, "NEG", step(emitter, node, "ABS", x, "/Abs"), "/Neg")
    tail = step(emitter, node, "ADD", step(emitter, node, "EXP", tail, "/Exp"), "/Add", 1.0, "AddOptions")
    tail = step(emitter, node, "LOG", tail, "/Log")
    head = step(emitter, node, "RELU", x, "/Relu")
    shape = emitter.writer.shapes[x]
    return emitter.writer.emit("ADD", [head, tail], shape, f"{node.name}{name}", table="AddOptions")


def mish(emitter: Emitter, node: Node) -> None:
    """x · tanh(softplus(x))."""
    x = emitter.where(node.inputs[0])
    bent = step(emitter, node, "TANH", _softplus(emitter, node, x.tensor, "/Softplus"), "/Tanh")
    emitter.emit(node, "MUL", [x.tensor, bent], emitter.writer.shapes[x.tensor], x.order, table="MulOptions")


HANDLERS: dict[str, Handler] = {
    "Relu": unary("RELU"),
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Sigmoid": unary("LOGISTIC"),
    "Tanh": unary("TANH"),
    "HardSwish": unary("HARD_SWISH"),
    "HardSigmoid": hard_sigmoid,
    "Elu": elu,
    "Gelu": gelu,
    "Softplus": softplus,
    "Mish": mish,
}
