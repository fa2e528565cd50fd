"""TFLite Metadata, read straight from the FlatBuffers.

Field numbers are those of `schema.fbs` (Model: buffers 4, metadata 6) and `metadata_schema.fbs`; the wire format is
that of the FlatBuffers internals page: a table begins with the distance back to its vtable, which holds the offset of
each field or 0.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from edgerun.errors import ModelError

_NAME = "TFLITE_METADATA"
_NORMALISATION, _THRESHOLDING = 1, 3  # ProcessUnitOptions
_IMAGE = 2  # ContentProperties.ImageProperties
_COLORS: dict[int, Literal["RGB", "GRAY"]] = {1: "RGB", 2: "GRAY"}  # ColorSpaceType
_AXIS_LABELS, _VALUE_LABELS = 2, 3  # AssociatedFileType


class TfliteMetadata(msgspec.Struct, frozen=True):
    """What the metadata says of the first input and of the outputs. Empty or None where it is silent.

    `mean` and `std` act on 0–255 pixels, before quantisation.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    color: Literal["RGB", "GRAY"] | None = None
    labels_file: str | None = None
    threshold: float | None = None


def read_tflite_metadata(model: bytes, where: str) -> TfliteMetadata | None:
    """The metadata of the model, or None when it carries none. Raises `ModelError` when it cannot be read."""
    if model[4:8] != b"TFL3":
        return None
    try:
        content = _find(model)
        return _read(_root(content)) if content is not None else None
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ModelError(
            "the model's metadata cannot be read", where=where, got=error, remedy="the file is damaged: fetch it again"
        ) from error


class _Table:
    """One table of a FlatBuffer; `field` numbers count from 0."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at
        self._vtable = at - struct.unpack_from("<i", content, at)[0]
        if self._vtable < 0:
            raise ValueError("a vtable outside the file")
        self._fields = (struct.unpack_from("<H", content, self._vtable)[0] - 4) // 2

    def _place(self, field: int) -> int:
        if field >= self._fields:
            return 0
        offset: int = struct.unpack_from("<H", self._content, self._vtable + 4 + 2 * field)[0]
        return self._at + offset if offset else 0

    def number(self, field: int, kind: str) -> int | float | None:
        place = self._place(field)
        return struct.unpack_from("<" + kind, self._content, place)[0] if place else None

    def integer(self, field: int, kind: str) -> int:
        """An integer field; 0, the default of all that are read here, where it is not written."""
        return int(self.number(field, kind) or 0)

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return _Table(self._content, self._follow(place)) if place else None

    def tables(self, field: int) -> list[_Table]:
        start, count = self._vector(field, 4)
        return [_Table(self._content, self._follow(start + 4 * i)) for i in range(count)]

    def floats(self, field: int) -> tuple[float, ...]:
        start, count = self._vector(field, 4)
        return struct.unpack_from(f"<{count}f", self._content, start)

    def raw(self, field: int) -> bytes:
        start, count = self._vector(field, 1)
        return self._content[start : start + count]

    def text(self, field: int) -> str:
        return self.raw(field).decode()

    def _follow(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self._content, place)[0])

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        place = self._place(field)
        if not place:
            return 0, 0
        start = self._follow(place)
        count = int(struct.unpack_from("<I", self._content, start)[0])
        if start + 4 + count * size > len(self._content):
            raise ValueError("a vector reaches beyond the file")
        return start + 4, count


def _root(content: bytes) -> _Table:
    return _Table(content, struct.unpack_from("<I", content)[0])


def _find(model: bytes) -> bytes | None:
    """The buffer that the entry called TFLITE_METADATA points to."""
    root = _root(model)
    for entry in root.tables(6):
        if entry.text(0) == _NAME:
            buffer = root.tables(4)[entry.integer(1, "I")]
            data = buffer.raw(0)
            if data:
                return data
            start, size = buffer.integer(1, "Q"), buffer.integer(2, "Q")  # models over 2 GB keep buffers behind
            return model[start : start + size]
    return None


def _read(metadata: _Table) -> TfliteMetadata:
    """ModelMetadata: subgraphs 3; SubGraphMetadata: inputs 2, outputs 3; TensorMetadata: content 3, units 4, files 6.

    A tensor without normalisation leaves `mean` and `std` empty.
    """
    subgraphs = metadata.tables(3)
    if not subgraphs:
        return TfliteMetadata()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    color = threshold = labels = None
    for tensor in subgraphs[0].tables(2)[:1]:
        for options in _units(tensor, _NORMALISATION):
            mean, std = options.floats(0), options.floats(1)
        content = tensor.table(3)
        properties = content.table(1) if content is not None and content.integer(0, "B") == _IMAGE else None
        color = _COLORS.get(properties.integer(0, "b")) if properties is not None else None
    for tensor in subgraphs[0].tables(3):
        for options in _units(tensor, _THRESHOLDING):
            threshold = options.number(0, "f")
        for file in tensor.tables(6):
            if labels is None and file.integer(2, "b") in (_AXIS_LABELS, _VALUE_LABELS):
                labels = file.text(0)
    return TfliteMetadata(mean, std, color, labels, threshold)


def _units(tensor: _Table, kind: int) -> list[_Table]:
    """The options of a tensor's process units that are of this kind."""
    found = [unit.table(1) for unit in tensor.tables(4) if unit.integer(0, "B") == kind]
    return [options for options in found if options is not None]
