"""Rewrites of the ONNX graph, exact up to rounding, before anything is written: what TFLite has one operator for."""

from __future__ import annotations

import numpy as np

from edgerun.convert.bridge.graph import Array, Graph, Node, Shape

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def rewrite(graph: Graph) -> None:
    """All of them, in the order in which they make way for one another."""
    from edgerun.convert.bridge import patterns

    _lower_normalisations(graph)
    patterns.match(graph)
    _merge_pads(graph)
    while _fold_affine(graph):
        pass
    _norms_to_affine(graph)
    _shuffle_to_blocks(graph)
    graph.drop_unread()


def replace(graph: Graph, old: Node, new: list[Node]) -> None:
    """Put nodes in the place of one."""
    place = graph.nodes.index(old)
    graph.nodes[place : place + 1] = new


def _made(graph: Graph, node: Node, op: str, inputs: list[str], shape: Shape, **attributes: object) -> Node:
    """A node that computes part of what `node` does; its output's name is its own."""
    name = f"{node.name}/{op}"
    while name in graph.shapes:
        name += "_"
    graph.shapes[name], graph.dtypes[name] = shape, graph.dtypes[node.outputs[0]]
    return Node(op, name, inputs, [name], dict(attributes))


def _norm_terms(graph: Graph, node: Node) -> tuple[Array, Array] | None:
    """Scale and shift by channel of a BatchNormalization at inference; None where they are not constant."""
    if any(name not in graph.constants for name in node.inputs[1:5]):
        return None
    scale, shift, mean, variance = (graph.constants[name].astype(np.float64) for name in node.inputs[1:5])
    factor = scale / np.sqrt(variance + node.attribute("epsilon", 1e-5))
    return factor, shift - mean * factor


def _affine_terms(graph: Graph, node: Node, channels: int, rank: int) -> tuple[Array, Array] | None:
    """Scale and shift by channel of a node that is no more than that; None of any other."""
    if node.op == "BatchNormalization":
        return _norm_terms(graph, node)
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return None
    first, second = (graph.constants.get(name) for name in node.inputs)
    constant = second if second is not None else first
    if constant is None or (second is None and node.op in ("Sub", "Div")):
        return None
    if constant.size not in (1, channels) or constant.ndim > rank:
        return None
    if constant.size > 1:
        axis = constant.ndim - (rank - 1)  # the channels are axis 1 of the whole
        if axis < 0 or constant.shape[axis] != channels:
            return None
    values = np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    return {"Add": (one, values), "Sub": (one, -values), "Mul": (values, zero), "Div": (1 / values, zero)}[node.op]


def _fold_affine(graph: Graph) -> bool:
    """Take a scale and shift by channel into the weights of the layer before it."""
    users = graph.users()
    for node in graph.nodes:
        if node.op == "MatMul":
            if _bias_of_product(graph, node, users):
                return True
            continue
        if node.op not in WEIGHTED or any(name and name not in graph.constants for name in node.inputs[1:3]):
            continue
        after = graph.only_user(node.outputs[0], users)
        if after is None or after.inputs.count(node.outputs[0]) != 1:
            continue
        shape = graph.shapes[node.outputs[0]]
        if graph.shapes[after.outputs[0]] != shape:
            continue
        terms = _affine_terms(graph, after, shape[1], len(shape))
        if terms is not None:
            _take_in(graph, node, *terms)
            node.outputs = [after.outputs[0]]
            graph.nodes.remove(after)
            return True
    return False


def _take_in(graph: Graph, node: Node, scale: Array, shift: Array) -> None:
    weights = graph.constants[node.inputs[1]].astype(np.float64)
    bias = graph.constants[node.inputs[2]].astype(np.float64) if node.input(2) else np.zeros(len(scale))
    if node.op == "Gemm":
        weights = weights * (scale[:, None] if node.attribute("transB", 0) else scale[None, :])
        shift = shift / node.attribute("beta", 1.0)
    elif node.op == "Conv":
        weights = weights * scale.reshape(-1, *[1] * (weights.ndim - 1))
    else:
        groups = node.attribute("group", 1)
        each = weights.shape[0] // groups
        by_group = np.repeat(scale.reshape(groups, -1), each, axis=0)
        weights = weights * by_group.reshape(*by_group.shape, *[1] * (weights.ndim - 2))
    names = (node.inputs[1], node.input(2) or f"{node.name}/bias")
    node.inputs = [
        node.inputs[0],
        graph.add_constant(names[0], weights.astype(np.float32)),
        graph.add_constant(names[1], (bias * scale + shift).astype(np.float32)),
    ]


def _bias_of_product(graph: Graph, node: Node, users: dict[str, list[Node]]) -> bool:
    """MatMul with constant weights, then Add of a vector: the vector becomes the product's third input."""
    weights = graph.constants.get(node.inputs[1])
    after = graph.only_user(node.outputs[0], users)
    if weights is None or weights.ndim != 2 or len(node.inputs) > 2 or after is None or after.op != "Add":
        return False
    other = [name for name in after.inputs if name != node.outputs[0]]
    vector = graph.constants.get(other[0]) if other else None
    if vector is None or vector.size != weights.shape[1] or vector.shape[-1:] != (weights.shape[1],):
        return False
    if graph.shapes[after.outputs[0]] != graph.shapes[node.outputs[0]]:
        return False
    node.inputs = [*node.inputs, other[0]]
    node.outputs = [after.outputs[0]]
    graph.nodes.remove(after)
    return True


def _norms_to_affine(graph: Graph) -> None:
    """A BatchNormalization that no layer takes in becomes a multiplication and an addition."""
    for node in [node for node in graph.nodes if node.op == "BatchNormalization"]:
        terms = _norm_terms(graph, node)
        if terms is None:
            continue
        shape = graph.shapes[node.outputs[0]]
        by_channel = (-1, *[1] * (len(shape) - 2))
        scale, shift = (
            graph.add_constant(f"{node.name}/{name}", value.astype(np.float32).reshape(by_channel))
            for name, value in zip(("scale", "shift"), terms, strict=True)
        )
        product = _made(graph, node, "Mul", [node.inputs[0], scale], shape)
        replace(graph, node, [product, Node("Add", node.name, [product.outputs[0], shift], [node.outputs[0]])])


def _merge_pads(graph: Graph) -> None:
    """A Pad with zeros before a convolution becomes the convolution's own padding."""
    users = graph.users()
    for node in [node for node in graph.nodes if node.op == "Pad"]:
        after = graph.only_user(node.outputs[0], users)
        if after is None or after.op != "Conv" or after.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            continue
        if node.attribute("mode", "constant") != "constant" or node.input(3) or node.inputs[0] in graph.constants:
            continue
        if any(name and name not in graph.constants for name in node.inputs[1:]):
            continue
        pads, value = graph.argument(node, 1, "pads"), graph.argument(node, 2, "value", 0.0)
        rank = len(pads) // 2
        ends = [*pads[:2], *pads[rank : rank + 2]]
        if any(ends) or min(pads) < 0 or (value is not None and np.any(value)):
            continue
        own = after.attribute("pads", [0] * 2 * (rank - 2))
        after.attributes["pads"] = [a + b for a, b in zip([*pads[2:rank], *pads[rank + 2 :]], own, strict=True)]
        after.attributes["auto_pad"] = "NOTSET"
        after.inputs[0] = node.inputs[0]
        graph.nodes.remove(node)


def _shuffle_to_blocks(graph: Graph) -> None:
    """DepthToSpace in PyTorch's order of channels (CRD) after a convolution: its filters are put in TFLite's (DCR)."""
    users, makers = graph.users(), graph.makers()
    for node in graph.nodes:
        if node.op != "DepthToSpace" or node.attribute("mode", "DCR") != "CRD":
            continue
        conv = makers.get(node.inputs[0])
        if conv is None or conv.op != "Conv" or conv.attribute("group", 1) != 1:
            continue
        if graph.only_user(node.inputs[0], users) is not node or conv.inputs[1] not in graph.constants:
            continue
        weights, block = graph.constants[conv.inputs[1]], node.attribute("blocksize")
        places = np.arange(len(weights)).reshape(-1, block**2).T.reshape(-1)
        conv.inputs[1] = graph.add_constant(conv.inputs[1], weights[places])
        if conv.input(2):
            conv.inputs[2] = graph.add_constant(conv.inputs[2], graph.constants[conv.inputs[2]][places])
        node.attributes["mode"] = "DCR"


def _lower_normalisations(graph: Graph) -> None:
    """Layer and instance normalisation, which TFLite has no operator for, as means, differences and products."""
    for node in [node for node in graph.nodes if node.op in ("LayerNormalization", "InstanceNormalization")]:
        shape = graph.shapes[node.inputs[0]]
        if any(name and name not in graph.constants for name in node.inputs[1:]) or any(node.outputs[1:]):
            continue
        layer = node.op == "LayerNormalization"
        first = node.attribute("axis", -1) % len(shape) if layer else 2
        axes = list(range(first, len(shape)))
        reduced = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        by_axis = shape[first:] if layer else (-1, *[1] * (len(shape) - 2))
        epsilon = graph.add_constant(f"{node.name}/epsilon", np.array(node.attribute("epsilon", 1e-5), np.float32))
        # axes as an attribute: what `Graph.argument` reads when there is no second input, whatever the opset
        mean = _made(graph, node, "ReduceMean", [node.inputs[0]], reduced, axes=axes, keepdims=1)
        centred = _made(graph, node, "Sub", [node.inputs[0], mean.outputs[0]], shape)
        squares = _made(graph, node, "Mul", [centred.outputs[0]] * 2, shape)
        variance = _made(graph, node, "ReduceMean", [squares.outputs[0]], reduced, axes=axes, keepdims=1)
        safe = _made(graph, node, "Add", [variance.outputs[0], epsilon], reduced)
        deviation = _made(graph, node, "Sqrt", [safe.outputs[0]], reduced)
        steps = [mean, centred, squares, variance, safe, deviation]
        steps.append(_made(graph, node, "Div", [centred.outputs[0], deviation.outputs[0]], shape))
        for op, name in zip(("Mul", "Add"), node.inputs[1:], strict=False):
            if name:
                term = graph.add_constant(f"{node.name}/{op}_term", graph.constants[name].reshape(by_axis))
                steps.append(_made(graph, node, op, [steps[-1].outputs[0], term], shape))
        steps[-1].name, steps[-1].outputs = node.name, [node.outputs[0]]
        replace(graph, node, steps)
