"""Any float `.tflite` → a plain float32 one: weights unpacked, shapes fixed, names short and unique, a signature.

What people have: weights as float16 or int8 behind DEQUANTIZE (the converter's `optimizations` with `supported_types`
float16, or weight-only), int8 weights read by float operators (dynamic range quantisation), no SignatureDef, tensor
names of hundreds of characters that list every layer that was fused. All of it is undone once, here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.parts import Network
from edgerun.convert.tflite.graph import FloatArray, Graph, open_graph
from edgerun.errors import ModelError
from edgerun.models.flatbuffer import DAMAGED

SIGNATURE = "serving_default"
_SMALL_INTEGERS = ("int8", "uint8", "int16", "INT4")
_KEEPS_INTEGERS = ("QUANTIZE", "DEQUANTIZE")


class ReadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shapes`: input name → its shape, where the file leaves sides open (a batch left open becomes 1 by itself)."""

    shapes: Mapping[str, tuple[int, ...]] = {}


def read(path: Path, workdir: Path, options: ReadOptions | None = None) -> Network:
    """The model in `path` as a float32 Network, written to `workdir/float.tflite`.

    Raises `ModelError` for a model that is damaged, over 2 GB, quantised already, with sparse weights, or with sides
    that are open and not stated in `options.shapes`.
    """
    graph = open_graph(path)
    try:
        notes = _prepare(graph, options or ReadOptions())
        content = graph.to_bytes()
    except ModelError:
        raise
    except (*DAMAGED, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            "the model is damaged: its parts do not fit together", where=path, got=f"{type(error).__name__}: {error}"
        ) from error
    target = workdir / "float.tflite"
    content = _with_shapes(content, path)
    try:
        target.write_bytes(content)
    except OSError as error:
        raise ModelError("the float model cannot be written", where=target, got=error) from error
    from ai_edge_litert import __version__ as version

    return Network(target, "tflite", tuple(notes), {"ai-edge-litert": version})


def _prepare(graph: Graph, options: ReadOptions) -> list[str]:
    """Undo all of it in place; what was done, in words."""
    _refuse_quantised(graph)
    notes = _unpack_weights(graph)
    notes += _fix_shapes(graph, options.shapes)
    graph.drop_unused()
    notes += _shorten_names(graph)
    if _unsigned(graph):
        graph.sign(SIGNATURE)
        notes.append("A SignatureDef was added: the file had none that covers its inputs and outputs.")
    return notes


def _refuse_quantised(graph: Graph) -> None:
    """Raise for a model whose activations are integers already: there is no float model in it to go back to."""
    found = []
    for op in graph.ops:
        kind = graph.kind(op)
        if kind == "DENSIFY":
            raise ModelError(
                "the weights are sparse",
                where=f"{graph.where}, layer {graph.layer(op)}",
                expected="dense weights",
                got="DENSIFY",
                remedy="export the model without sparsity: no kernel here is faster for it",
            )
        if kind in _KEEPS_INTEGERS and graph.is_constant(int(op.inputs[0])):
            continue
        found += [
            (graph.layer(op), kind, graph.dtype(int(tensor)))
            for tensor in op.outputs
            if graph.dtype(int(tensor)) in _SMALL_INTEGERS and graph.scales(int(tensor)) is not None
        ]
    if found:
        layer, kind, dtype = found[0]
        raise ModelError(
            "the model is quantised already: the float values that a better choice would need are gone",
            where=graph.where,
            expected="a float model (float32, float16 or dynamic-range weights)",
            got=f"{len(found)} layers with integer activations, the first {layer} ({kind}, {dtype})",
            remedy="convert the float model it was made from, or bundle this one as it is",
        )


def _unpack_weights(graph: Graph) -> list[str]:
    """Every constant that a float operator reads, as float32; what was done, in words."""
    folded, hybrid = 0, 0
    kept = []
    for op in graph.ops:
        if graph.kind(op) != "DEQUANTIZE" or not graph.is_constant(int(op.inputs[0])):
            kept.append(op)
            continue
        graph.set_constant(int(op.outputs[0]), _as_float(graph, int(op.inputs[0])))
        folded += 1
    graph.main.operators = kept
    for op in kept:
        for tensor in _hybrid_constants(graph, op):
            values = _as_float(graph, tensor)
            graph.set_constant(tensor, values)
            graph.main.tensors[tensor].quantization = None
            hybrid += 1
        if op.builtinOptions is not None and hasattr(op.builtinOptions, "asymmetricQuantizeInputs"):
            op.builtinOptions.asymmetricQuantizeInputs = False
    notes = []
    if folded:
        notes.append(f"{folded} packed constants behind DEQUANTIZE were unpacked to float32.")
    if hybrid:
        notes.append(
            f"{hybrid} int8 constants of float operators (dynamic-range quantisation) were taken back to float32: "
            "what their rounding lost is lost in the reference too."
        )
    return notes


def _hybrid_constants(graph: Graph, op: Any) -> Iterator[int]:
    """Quantised constants of an operator that gives float32."""
    if not len(op.outputs) or graph.dtype(int(op.outputs[0])) != "float32":
        return
    for tensor in op.inputs:
        small = graph.is_constant(int(tensor)) and graph.dtype(int(tensor)) in _SMALL_INTEGERS
        if small and graph.scales(int(tensor)) is not None:
            yield int(tensor)


def _as_float(graph: Graph, tensor: int) -> FloatArray:
    """A packed constant's values: real = scale · (q − zero point), along its axis where there is more than one."""
    if graph.main.tensors[tensor].sparsity is not None:
        raise ModelError("the weights are sparse", where=f"{graph.where}, {graph.name(tensor)}")
    values = _nibbles(graph, tensor) if graph.dtype(tensor) == "INT4" else graph.constant(tensor)
    if values is None:
        raise ModelError(
            "weights of a type that cannot be unpacked",
            where=f"{graph.where}, {graph.name(tensor)}",
            expected="float16, float32, int4, int8, uint8 or int16",
            got=graph.dtype(tensor),
            remedy="export the model with float weights",
        )
    stated = graph.scales(tensor)
    if stated is None or values.dtype.kind == "f":
        return values.astype(np.float32)
    scale, zero, axis = stated
    if len(scale) > 1:
        sides = [1] * values.ndim
        sides[axis] = -1
        scale, zero = scale.reshape(sides), zero.reshape(sides)
    return ((values.astype(np.float32) - zero) * scale).astype(np.float32)


def _nibbles(graph: Graph, tensor: int) -> Any:
    """INT4 values: two to a byte, the low half first, each in two's complement (schema.fbs, TensorType INT4)."""
    packed = np.frombuffer(graph.raw(tensor) or b"", np.uint8)
    pairs = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1).astype(np.int8)
    shape = graph.shape(tensor)
    return np.where(pairs > 7, pairs - 16, pairs)[: int(np.prod(shape))].reshape(shape)


def _fix_shapes(graph: Graph, stated: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Close the sides that the file leaves open: the batch by 1, others by what the options state."""
    notes = []
    for number in graph.main.inputs:
        tensor, name = graph.main.tensors[int(number)], graph.name(int(number))
        open_sides = [] if tensor.shapeSignature is None else [int(side) for side in tensor.shapeSignature]
        wanted = stated.get(name)
        if wanted is None:
            if -1 in open_sides[1:]:
                raise ModelError(
                    "an input's shape is open",
                    where=f"{graph.where}, input {name}",
                    expected="a shape with every side stated",
                    got=open_sides,
                    remedy=f"say what it is with --shape {name}=1,… (or --size for a picture)",
                )
            if -1 not in open_sides:
                continue
            wanted = (1, *graph.shape(int(number))[1:])
        if open_sides and (
            len(wanted) != len(open_sides) or any(s not in (-1, w) for s, w in zip(open_sides, wanted, strict=True))
        ):
            raise ModelError(
                "the stated shape does not fit", where=f"{graph.where}, input {name}", expected=open_sides, got=wanted
            )
        tensor.shape = list(wanted)
        notes.append(f"Input {name} was fixed to {'×'.join(map(str, wanted))}.")
    if notes:
        for tensor in graph.main.tensors:
            tensor.shapeSignature = None
    return notes


def _shorten_names(graph: Graph) -> list[str]:
    """Unique names, the first `;`-separated part of each where that is unique; inputs and outputs keep theirs."""
    faces = [int(i) for i in (*graph.main.inputs, *graph.main.outputs)]
    order = faces + [i for i in range(len(graph.main.tensors)) if i not in set(faces)]
    taken: set[str] = set()
    changed = 0
    for number in order:
        old = graph.name(number)
        name = (old if number in faces else old.split(";")[0]) or f"tensor_{number}"
        short, again = name, 1
        while short in taken:
            again += 1
            short = f"{name}_{again}"
        taken.add(short)
        if short != old:
            graph.rename(number, short)
            changed += 1
    return [f"{changed} tensors were renamed, so that each has a short name of its own."] if changed else []


def _unsigned(graph: Graph) -> bool:
    """Whether there is no signature that names every input and output of the first subgraph."""
    faces = sorted(int(i) for i in (*graph.main.inputs, *graph.main.outputs))
    for signature in graph.model.signatureDefs or []:
        entries = (*(signature.inputs or ()), *(signature.outputs or ()))
        if signature.subgraphIndex == 0 and sorted(int(entry.tensorIndex) for entry in entries) == faces:
            return False
    return True


def _with_shapes(content: bytes, where: Path) -> bytes:
    """The model with each tensor's shape as the interpreter works it out, which also proves that the model opens."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        # A delegate takes the shapes between its operators from the file: without one each is worked out.
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
        interpreter.allocate_tensors()
        details = {int(d["index"]): d["shape"] for d in interpreter.get_tensor_details()}
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            "the runtime refuses the model",
            where=where,
            got=" ".join(str(error).split()),
            remedy="a custom operator needs its own runtime library, which cannot be calibrated through here; "
            "export the model without it (leave NMS and decoding to edgerun's decoders)",
        ) from error
    graph = Graph(content, where)
    for number, tensor in enumerate(graph.main.tensors):
        if number in details and not graph.is_constant(number):
            tensor.shape = [int(side) for side in details[number]]
    return graph.to_bytes()
