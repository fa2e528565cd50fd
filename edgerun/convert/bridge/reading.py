"""ONNX file → Graph: one batch, every shape known, everything that does not depend on the input computed."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.convert.bridge.graph import Array, Graph, Node, Shape
from edgerun.errors import MissingError, ModelError

ROUNDS = 8
"""Shapes make constants (Shape → Gather → Reshape) and constants make shapes; nets seen here settle within three."""
FOLD_LIMIT = 1 << 26
"""Bytes of one computed constant: what is larger was meant to be computed when it runs (ConstantOfShape, Expand)."""
LARGEST = 2**31 - 2**20
"""A TFLite file is a FlatBuffer, whose offsets are signed 32 bits (flatbuffers.dev, "internals"), less its tables."""
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
PASSING = {"Identity", "Dropout"}
HALVES = (np.float16, np.float64)


def read(path: Path) -> Graph:
    """The float graph of an .onnx file with a batch of 1.

    Raises `ModelError` when it is not ONNX, too large, or has dimensions that are known only when it runs.
    """
    model = _load(path)
    _fix_batch(model, path)
    graph = _graph(model)
    for _ in range(ROUNDS):
        _infer(model, graph)
        if not _fold(graph, model):
            break
    _bypass(graph)
    graph.drop_unread()
    _check_known(graph, path)
    return graph


def too_large(path: Path) -> ModelError:
    """What to say of weights that a TFLite file cannot hold."""
    return ModelError(
        "the weights do not fit a TFLite file", where=path, expected="less than 2 GiB", remedy="use --format onnx"
    )


def _load(path: Path) -> Any:
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise MissingError(
            f"reading ONNX needs {error.name}", where=path, remedy="pip install 'edgerun[convert]'"
        ) from error
    damaged = importlib.import_module("google.protobuf.message").DecodeError  # what onnx.load raises
    wrong = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
    try:
        model = onnx.load(path)
        if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST:
            raise too_large(path)
        # Outputs without a shape, which some exporters leave so, are no fault: inference completes them.
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
        for tensor in model.graph.initializer:
            onnx.numpy_helper.to_array(tensor)
    except ModelError:
        raise
    except (damaged, *wrong, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"is not an ONNX model that can be read ({error})", where=path) from error
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _fix_batch(model: Any, path: Path) -> None:
    """Give an open first dimension the size 1; refuse every other open one, all at once."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)
    open_ones = []
    for value in model.graph.input:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.HasField("dim_value") and dimension.dim_value > 0:
                continue
            if axis == 0:
                dimension.dim_value = 1
            else:
                open_ones.append(f'dimension {axis} ("{dimension.dim_param or "?"}") of input "{value.name}"')
    if open_ones:
        raise ModelError(
            f"{', '.join(open_ones)} has no size",
            where=path,
            expected="every dimension but the batch to be fixed",
            remedy="export the model for one input size (torch.onnx.export without dynamic axes)",
        )


def _graph(model: Any) -> Graph:
    import onnx

    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for index, node in enumerate(model.graph.node):
        op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        name = node.name or (node.output[0] if node.output else f"{op}_{index}")
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        attributes = {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}
        nodes.append(Node(op, name, list(node.input), list(node.output), attributes))
    graph = Graph(
        opset,
        [value.name for value in model.graph.input],
        [value.name for value in model.graph.output],
        nodes,
        constants,
        {},
        {},
    )
    if any(array.dtype in HALVES for array in constants.values()):
        graph.notes.append("Weights of 16 or 64 bits were made float32.")
    return graph


def _infer(model: Any, graph: Graph) -> None:
    """Fill in the shapes and types that onnx can infer with the constants known so far."""
    import onnx

    known = {name for tensor in model.graph.initializer if (name := tensor.name)}
    for name, array in graph.constants.items():
        if name not in known and array.nbytes <= FOLD_LIMIT:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
    made = {name for name in graph.constants if name not in known}
    kept = [node for node in model.graph.node if not any(output in made for output in node.output)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        if kind.elem_type:
            graph.dtypes[value.name] = _single(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
        if kind.HasField("shape") and all(dimension.HasField("dim_value") for dimension in kind.shape.dim):
            graph.shapes[value.name] = tuple(dimension.dim_value for dimension in kind.shape.dim)


def _single(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype in HALVES else dtype


def _fold(graph: Graph, model: Any) -> bool:
    """Compute what depends on constants and shapes alone; True when anything was."""
    remaining = []
    for node in graph.nodes:
        values = _computed(node, graph, model)
        if values is None:
            remaining.append(node)
        else:
            graph.constants.update(zip(node.outputs, values, strict=False))
    changed = len(remaining) < len(graph.nodes)
    graph.nodes = remaining
    for name, array in graph.constants.items():
        if array.dtype in HALVES:
            graph.constants[name] = array.astype(np.float32)
        graph.shapes[name] = array.shape
        graph.dtypes[name] = graph.constants[name].dtype
    return changed


def _computed(node: Node, graph: Graph, model: Any) -> list[Array] | None:
    """The outputs of a node that are known beforehand; None when they are not."""
    if node.op in ("Shape", "Size") and node.inputs[0] in graph.shapes:
        shape = graph.shapes[node.inputs[0]]
        if node.op == "Size":
            return [np.array(np.prod(shape, dtype=np.int64))]
        return [np.array(shape[node.attribute("start", 0) : node.attribute("end")], np.int64)]
    if node.op in RANDOM or "." in node.op or not all(not name or name in graph.constants for name in node.inputs):
        return None
    if any(graph.shapes.get(name) and _bytes(graph.shapes[name]) > FOLD_LIMIT for name in node.outputs):
        return None
    from onnx.reference import ReferenceEvaluator

    (source,) = [item for item in model.graph.node if list(item.output) == node.outputs]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            feeds = {name: _as_declared(graph.constants[name]) for name in node.inputs if name}
            return [np.asarray(value) for value in ReferenceEvaluator(_lone(source, feeds, graph)).run(None, feeds)]
        except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return None  # then the layer is refused by its name, or shown to be dynamic


def _lone(node: Any, feeds: dict[str, Array], graph: Graph) -> Any:
    """A model of one node."""
    from onnx import helper

    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    lone = helper.make_graph([node], "lone", inputs, outputs)
    return helper.make_model(lone, opset_imports=[helper.make_opsetid("", graph.opset)])


def _as_declared(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype in HALVES else array


def _bytes(shape: Shape) -> int:
    return 4 * int(np.prod(shape, dtype=np.int64))


def _bypass(graph: Graph) -> None:
    """Let the readers of an Identity or Dropout read its input."""
    instead: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        node.inputs = [instead.get(name, name) for name in node.inputs]
        same_type = node.op == "Cast" and graph.dtypes.get(node.inputs[0]) == graph.dtypes.get(node.outputs[0])
        if (node.op in PASSING or same_type) and node.outputs[0] not in graph.outputs:
            instead[node.outputs[0]] = node.inputs[0]
        else:
            kept.append(node)
    graph.nodes = kept


def _check_known(graph: Graph, path: Path) -> None:
    unknown = [
        f'{node.op} "{node.name}"'
        for node in graph.nodes
        if any(name and name not in graph.shapes for name in node.outputs)
        and all(not name or name in graph.shapes for name in node.inputs)
    ]
    if unknown:
        raise ModelError(
            f"the size of what {', '.join(unknown)} gives is known only when the model runs",
            where=path,
            expected="every shape to follow from the input's",
            remedy="export the model without its post-processing (NonMaxSuppression, loops), or use --format onnx",
        )
