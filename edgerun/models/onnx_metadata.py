"""ONNX `metadata_props`, read straight from the protobuf.

ModelProto keeps them in field 14 as records of key 1 and value 2 (onnx.proto3; wire format of the Protocol Buffers
encoding guide). Everything else, the graph above all, is stepped over.
"""

from __future__ import annotations

from edgerun.errors import ModelError
from edgerun.protobuf import fields


def read_metadata_props(model: bytes, where: str) -> dict[str, str]:
    """Key → value. Raises `ModelError` when the file ends early."""
    try:
        entries = [dict(fields(part)) for field, part in fields(memoryview(model)) if field == 14]
        return {bytes(entry.get(1, b"")).decode(): bytes(entry.get(2, b"")).decode() for entry in entries}
    except (IndexError, ValueError) as error:
        raise ModelError(
            "the ONNX file cannot be read",
            where=where,
            got=error,
            remedy="it is damaged or was cut short: fetch it again",
        ) from error
