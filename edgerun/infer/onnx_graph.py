"""How an ONNX model quantises its own inputs and outputs.

ONNX Runtime does not tell; the model does: an integer input goes into a DequantizeLinear node, an integer output comes
out of a QuantizeLinear node, and their scale and zero point are constants of the graph. Read straight from the protobuf
(field numbers of onnx.proto3, wire format of the Protocol Buffers encoding guide), skipping what is not asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from edgerun.errors import ModelError
from edgerun.protobuf import fields, numbers, signed, varints

_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
"""TensorProto.DataType → how `raw_data` is laid out (little-endian by specification)."""


class Quantisation(msgspec.Struct, frozen=True):
    """real = scale · (q − zero_point), one value or one per slice along `axis` (which may count from the end)."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 1


class _Node(msgspec.Struct, frozen=True):
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axis: int
    value: memoryview | None


def read_quantisation(model: bytes | Path) -> dict[str, Quantisation]:
    """Tensor name → quantisation, for every tensor that a DequantizeLinear reads or a QuantizeLinear writes.

    Those whose scale is not a constant of the main graph are left out. Raises `ModelError` when the file ends early.
    """
    content = memoryview(model.read_bytes() if isinstance(model, Path) else model)
    try:
        graph = next((part for field, part in fields(content) if field == 7), memoryview(b""))
        constants: dict[str, memoryview] = {}
        nodes = []
        for field, part in fields(graph):
            if field == 1:
                node = _read_node(part)
                if node.kind == "Constant" and node.value is not None:
                    constants[node.outputs[0]] = node.value
                elif node.kind in ("QuantizeLinear", "DequantizeLinear"):
                    nodes.append(node)
            elif field == 5:
                constants[_text(part, 8)] = part
        return dict(_edges(nodes, constants))
    except (IndexError, KeyError, ValueError) as error:
        raise ModelError("the ONNX graph cannot be read", got=error) from error


def _edges(nodes: list[_Node], constants: dict[str, memoryview]) -> Iterator[tuple[str, Quantisation]]:
    for node in nodes:
        scale = constants.get(node.inputs[1])
        if scale is None:
            continue
        scales = tuple(float(value) for value in _values(scale))
        zero = constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
        zeros = tuple(int(value) for value in _values(zero)) if zero is not None else (0,) * len(scales)
        name = node.inputs[0] if node.kind == "DequantizeLinear" else node.outputs[0]
        yield name, Quantisation(scales, zeros, node.axis)


def _read_node(part: memoryview) -> _Node:
    """NodeProto: input 1, output 2, op_type 4, attribute 5 (AttributeProto: name 1, i 3, t 5)."""
    inputs, outputs, kind, axis, value = [], [], "", 1, None
    for field, item in fields(part):
        if field == 1:
            inputs.append(bytes(item).decode())
        elif field == 2:
            outputs.append(bytes(item).decode())
        elif field == 4:
            kind = bytes(item).decode()
        elif field == 5:
            name = _text(item, 1)
            if name == "axis":
                axis = next((signed(number) for at, number in numbers(item) if at == 3), axis)
            elif name == "value":
                value = next((tensor for at, tensor in fields(item) if at == 5), None)
    return _Node(kind, tuple(inputs), tuple(outputs), axis, value)


def _values(tensor: memoryview) -> list[float]:
    """TensorProto: data_type 2, float_data 4, int32_data 5, raw_data 9. int32_data holds all small integer types."""
    kind = next((number for at, number in numbers(tensor) if at == 2), 1)
    raw = next((bytes(part) for at, part in fields(tensor) if at == 9), b"")
    if raw:
        return [float(value) for value in np.frombuffer(raw, _DTYPES[kind])]
    packed = b"".join(bytes(part) for at, part in fields(tensor) if at == (4 if kind == 1 else 5))
    if kind == 1:
        return [float(value) for value in np.frombuffer(packed, "<f4")]
    loose = [number for at, number in numbers(tensor) if at == 5]
    return [float(signed(number)) for number in (*loose, *varints(memoryview(packed)))]


def _text(message: memoryview, field: int) -> str:
    return next((bytes(part).decode() for at, part in fields(message) if at == field), "")
