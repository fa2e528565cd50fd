"""TFLite files made for one test each: real models with one thing changed, and metadata written field by field."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema


def changed(model: bytes | Path, change: Callable[[Any], None]) -> bytes:
    """`model` as objects of the schema, changed and written again."""
    content = model.read_bytes() if isinstance(model, Path) else model
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    change(tree)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def compiled_for_edge_tpu(model: bytes | Path) -> bytes:
    """As the Edge TPU compiler leaves it: one custom op from all inputs to all outputs."""

    def change(tree: Any) -> None:
        code = schema.OperatorCodeT()
        code.deprecatedBuiltinCode = code.builtinCode = 32
        code.customCode, code.version = b"edgetpu-custom-op", 1
        graph = tree.subgraphs[0]
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = 0, list(graph.inputs), list(graph.outputs)
        op.customOptions = [1, 2, 3]
        tree.operatorCodes, graph.operators = [code], [op]

    return changed(model, change)


def with_metadata(
    model: bytes | Path, content: bytes, files: Mapping[str, bytes], name: bytes = b"TFLITE_METADATA"
) -> bytes:
    """`model` with a metadata buffer, and files in a zip archive behind it."""

    def change(tree: Any) -> None:
        buffer = schema.BufferT()
        buffer.data = list(content)
        tree.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(tree.buffers) - 1
        tree.metadata = [entry]

    tail = io.BytesIO()
    with zipfile.ZipFile(tail, "w") as archive:
        for file, data in files.items():
            archive.writestr(file, data)
    return changed(model, change) + (tail.getvalue() if files else b"")


def flatbuffer(tree: Mapping[int, Any]) -> bytes:
    """A FlatBuffer of nested tables: field number → value.

    Values: str, list (of tables, or of floats), dict (a table), or (struct kind, number) for a scalar.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, tree))
    return bytes(builder.Output())


def _table(builder: Any, tree: Mapping[int, Any]) -> int:
    made: dict[int, Any] = {}
    for field, value in tree.items():
        if isinstance(value, str):
            made[field] = builder.CreateString(value)
        elif isinstance(value, dict):
            made[field] = _table(builder, value)
        elif isinstance(value, list) and value and isinstance(value[0], float):
            builder.StartVector(4, len(value), 4)
            for one in reversed(value):
                builder.PrependFloat32(one)
            made[field] = builder.EndVector()
        elif isinstance(value, list):
            offsets = [builder.CreateString(one) if isinstance(one, str) else _table(builder, one) for one in value]
            builder.StartVector(4, len(offsets), 4)
            for one in reversed(offsets):
                builder.PrependUOffsetTRelative(one)
            made[field] = builder.EndVector()
    builder.StartObject(max(tree, default=-1) + 1)
    for field, value in tree.items():
        if field in made:
            builder.PrependUOffsetTRelativeSlot(field, made[field], 0)
        else:
            kind, number = value
            writers = {"b": "Int8", "B": "Uint8", "I": "Uint32", "i": "Int32", "f": "Float32", "?": "Bool"}
            getattr(builder, "Prepend" + writers[kind])(number)
            builder.Slot(field)
    return int(builder.EndObject())
