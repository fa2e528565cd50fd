"""ONNX `metadata_props`, read straight from the protobuf.

ModelProto keeps them in field 14 as records of key 1 and value 2 (onnx.proto3; wire format of the Protocol Buffers
encoding guide). Everything else, the graph above all, is stepped over.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgerun.errors import ModelError


def read_metadata_props(model: bytes, where: str) -> dict[str, str]:
    """Key → value. Raises `ModelError` when the file ends early."""
    try:
        entries = [dict(_fields(part)) for field, part in _fields(memoryview(model)) if field == 14]
        return {bytes(entry.get(1, b"")).decode(): bytes(entry.get(2, b"")).decode() for entry in entries}
    except (IndexError, ValueError) as error:
        raise ModelError(
            "the ONNX file cannot be read",
            where=where,
            got=error,
            remedy="it is damaged or was cut short: fetch it again",
        ) from error


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Field number and bytes of every length-delimited field."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field reaches beyond the file")
            yield tag >> 3, message[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} does not exist")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number, at
    raise ValueError("a number longer than 64 bits")
