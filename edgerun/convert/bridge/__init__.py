"""Float ONNX → float TFLite without TensorFlow: a stated set of operators, written with the FlatBuffer schema itself.

What it takes: the operators of `OPERATORS`, every shape fixed but the batch (which becomes 1). Everything it cannot
write is told at once, each layer by its name with the nearest way out.

Layout: picture inputs (rank 4, read by convolutions, pools or resizes) become N×H×W×C; every output keeps the shape and
the order of axes it has in the ONNX file, so decoders need not know. Inside, a transposition costs nothing unless a
layer needs its values in that very order.

Names: the tensor that a layer writes is called as the ONNX node is, the weights as their initialisers, graph inputs and
outputs as in ONNX; the signature `serving_default` uses these too. An activation that follows a layer is fused into it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgerun.convert.bridge import ops_activation, ops_conv, ops_math, ops_pool, ops_resize, ops_shape, proving
from edgerun.convert.bridge.emitter import Emitter, Handler
from edgerun.convert.bridge.graph import Array, Graph
from edgerun.convert.bridge.layout import Order, channels_last, identity
from edgerun.convert.bridge.reading import LARGEST, read, too_large
from edgerun.convert.bridge.refusals import WAYS_OUT
from edgerun.convert.bridge.rewriting import rewrite
from edgerun.convert.parts import Network
from edgerun.errors import ModelError

HANDLERS: dict[str, Handler] = {
    **ops_conv.HANDLERS,
    **ops_pool.HANDLERS,
    **ops_math.HANDLERS,
    **ops_activation.HANDLERS,
    **ops_shape.HANDLERS,
    **ops_resize.HANDLERS,
}
FOLDED = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "Constant", "Shape", "Size")
OPERATORS = tuple(sorted({*HANDLERS, *FOLDED}))
"""ONNX operators that are taken; others too where they depend on constants alone, or are part of a known pattern."""

# What reads pictures as N×C×H×W, and what does not mind how they lie.
SPATIAL = {
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Resize",
    "Upsample",
}
SPATIAL |= {"DepthToSpace", "SpaceToDepth"}
INDIFFERENT = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pad",
    "Slice",
    "Concat",
    "Split",
    "Cast",
    "Relu",
    "Clip",
    "Identity",
    "Sigmoid",
}


def to_tflite(network: Network, workdir: Path, inputs: Iterable[Mapping[str, Array]] = ()) -> Network:
    """The float ONNX `network` as a float TFLite file of the same name in `workdir`, proved against the original.

    `inputs`: by name, in the ONNX layout, float32 (or the integer type of an integer input): what both are compared on
    besides random values. Raises `ModelError` when the file is damaged, has open dimensions, holds layers that TFLite
    has no counterpart for, or when the two disagree; `MissingError` without onnx, onnxruntime or ai-edge-litert.
    """
    if network.format != "onnx":
        raise ModelError("is not an ONNX file", where=network.path, expected="onnx", got=network.format)
    graph = read(network.path)
    before = len(graph.nodes)
    rewrite(graph)
    layouts = {name: _input_order(graph, name) for name in graph.inputs}
    emitter = Emitter(graph, HANDLERS, WAYS_OUT)
    emitter.run(layouts)
    if emitter.refused:
        count = len(emitter.refused)
        raise ModelError(
            f"{count} layer{'s' if count > 1 else ''} cannot be written as TFLite: {'. '.join(emitter.refused)}",
            where=network.path,
        )
    made, counts = _finish(emitter, network.path)
    agreement = proving.compare(network.path, made, graph, layouts, inputs)
    path = workdir / f"{network.path.stem}.tflite"
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(made)
    part.replace(path)
    said = (
        f"ONNX → TFLite: {before} nodes became {counts[0]} operators, {counts[1]} of them transpositions. {agreement}"
    )
    notes = (*network.notes, *graph.notes, *_layout_notes(graph, layouts), said)
    return Network(path, "tflite", notes, {**network.tools, **_tools()})


def _input_order(graph: Graph, name: str) -> Order:
    """N×H×W×C for an input that is read as pictures; else as it is."""
    rank = len(graph.shapes[name])
    users = graph.users()
    seen: set[str] = set()
    open_ones = [name] if rank == 4 else []
    while open_ones:
        value = open_ones.pop()
        seen.add(value)
        for node in users.get(value, []):
            if node.op in SPATIAL:
                return channels_last(rank)
            if node.op in INDIFFERENT:
                open_ones += [
                    other for other in node.outputs if other not in seen and len(graph.shapes.get(other, ())) == rank
                ]
    return identity(rank)


def _finish(emitter: Emitter, path: Path) -> tuple[bytes, tuple[int, int]]:
    """The file, and how many operators and transpositions it has."""
    graph, writer = emitter.graph, emitter.writer
    inputs = {name: emitter.where(name).tensor for name in graph.inputs}
    outputs: dict[str, int] = {}
    for name in graph.outputs:
        tensor = emitter.want(name, identity(emitter.rank(name)))
        if tensor in inputs.values() or tensor in outputs.values() or tensor in writer.constants:
            shape = writer.shapes[tensor]
            tensor = writer.emit(
                "RESHAPE",
                [tensor, writer.integers(shape)],
                shape,
                name,
                options={"newShape": list(shape)},
                table="ReshapeOptions",
            )
        outputs[name] = tensor
    for name, tensor in (*inputs.items(), *outputs.items()):
        writer.rename(tensor, name)
    if sum(array.nbytes for array in writer.constants.values()) > LARGEST:
        raise too_large(path)
    return writer.finish(inputs, outputs, "edgerun convert"), writer.counts(set(outputs.values()))


def _layout_notes(graph: Graph, layouts: Mapping[str, Order]) -> list[str]:
    notes = []
    for name, order in layouts.items():
        if order != identity(len(order)):
            shape = graph.shapes[name]
            after = "×".join(str(shape[axis]) for axis in order)
            notes.append(f'Input "{name}" is {after} (N×H×W×C) now; it was {"×".join(map(str, shape))} (N×C×H×W).')
    return notes


def _tools() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("onnx", "onnxruntime", "ai-edge-litert", "numpy")}
