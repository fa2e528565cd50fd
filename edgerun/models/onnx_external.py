"""ONNX files that keep their weights in other files, made whole.

PyTorch's exporter writes such pairs by default. A session that is opened from bytes would look for the second file in
the working directory, wherever that is; so the weights are put in before any runtime sees the model, read by the rules
of whoever holds the files. Field numbers are those of `onnx.proto3` (see `onnx_structure`), data_location is 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from edgerun.errors import ModelError
from edgerun.models.structure import shown
from edgerun.protobuf import fields, records

_MODEL_GRAPH, _INITIALISER = 7, 5
_RAW_DATA, _EXTERNAL, _LOCATION = 9, 13, 14
MAX_MODEL_BYTES = (1 << 31) - 1
"""Protocol Buffers' own limit of a message."""


class _Place(msgspec.Struct, frozen=True):
    file: str
    offset: int
    length: int | None


def join_weights(model: bytes, read: Callable[[str], bytes], where: str) -> bytes:
    """`model` with the contents of its other files in place of their names; `model` itself where it has none.

    `read` gives a file by the name that the model uses, and refuses names that lead elsewhere. Only the main graph's
    constants can be elsewhere. Raises `ModelError`.
    """
    if b"location" not in model:  # the key under which a file would be named
        return model
    try:
        view = memoryview(model)
        if not any(_of(tensor) for graph in _all(view, _MODEL_GRAPH) for tensor in _all(graph, _INITIALISER)):
            return model
        files: dict[str, bytes] = {}
        parts = []
        for field, kind, _, part in records(view):
            whole = b"".join(_graph(part, read, files, where)) if field == _MODEL_GRAPH and kind == 2 else part
            parts += [_tag(field, kind, whole), bytes(whole)]
    except ModelError:
        raise
    except (IndexError, ValueError, OverflowError):
        return model  # no such protobuf: whoever reads its structure says so
    joined = b"".join(parts)
    if len(joined) > MAX_MODEL_BYTES:
        raise ModelError("too large", where=where, expected=f"≤ {MAX_MODEL_BYTES} bytes in all", got=len(joined))
    return joined


def _all(message: memoryview, number: int) -> Iterator[memoryview]:
    return (part for field, part in fields(message) if field == number)


def _graph(graph: memoryview, read: Callable[[str], bytes], files: dict[str, bytes], where: str) -> Iterator[bytes]:
    for field, kind, _, part in records(graph):
        place = _of(part) if field == _INITIALISER and kind == 2 else None
        whole = b"".join(_tensor(part, _cut(place, read, files, where))) if place is not None else part
        yield _tag(field, kind, whole)
        yield bytes(whole)


def _tensor(tensor: memoryview, weights: memoryview) -> Iterator[bytes]:
    for field, kind, _, part in records(tensor):
        if field not in (_RAW_DATA, _EXTERNAL, _LOCATION):
            yield _tag(field, kind, part)
            yield bytes(part)
    yield _tag(_RAW_DATA, 2, weights)
    yield bytes(weights)


def _of(tensor: memoryview) -> _Place | None:
    """Where a constant's values are; None when they are in it. TensorProto external_data: key 1, value 2."""
    entries = []
    for part in _all(tensor, _EXTERNAL):
        entry = dict(fields(part))
        entries.append((bytes(entry.get(1, b"")).decode(), bytes(entry.get(2, b"")).decode()))
    if not entries:
        return None
    stated = dict(entries)
    length = int(stated["length"]) if "length" in stated else None
    return _Place(stated.get("location", ""), int(stated.get("offset", "0")), length)


def _cut(place: _Place, read: Callable[[str], bytes], files: dict[str, bytes], where: str) -> memoryview:
    if place.file not in files:
        try:
            files[place.file] = read(place.file)
        except ModelError as error:
            raise ModelError(
                "the model keeps weights in another file, which cannot be used",
                where=where,
                expected=f"{shown(place.file)!r} beside it",
                got=error.what if error.got is None else f"{error.what} ({error.got})",
                remedy='copy that file too, or save one file: onnx.save(onnx.load("model.onnx"), "one.onnx")',
            ) from error
    content = memoryview(files[place.file])
    end = len(content) if place.length is None else place.offset + place.length
    if not 0 <= place.offset <= end <= len(content):
        raise ModelError(
            "the file of the model's weights is too short",
            where=f"{where}: {shown(place.file)}",
            expected=f"{end} bytes at least",
            got=len(content),
            remedy="it belongs to another model or was cut short: fetch both again",
        )
    return content[place.offset : end]


def _tag(field: int, kind: int, part: bytes | memoryview) -> bytes:
    head = _varint(field << 3 | kind)
    return head + _varint(len(part)) if kind == 2 else head


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
