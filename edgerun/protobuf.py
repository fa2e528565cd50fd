"""The wire format of Protocol Buffers, read field by field (protobuf.dev, "Encoding").

For the few facts of an ONNX file that its runtime does not tell; what is not asked for is stepped over. `ValueError` or
`IndexError` where the bytes end early or are no such message.
"""

from __future__ import annotations

from collections.abc import Iterator

MOST_FIELDS = 1 << 21
"""Of one message: far more nodes or weights than any graph has, and few enough to be read in seconds."""


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of every length-delimited and fixed-width field, as they lie."""
    for field, kind, _, part in records(message):
        if kind != 0:
            yield field, part


def numbers(message: memoryview) -> Iterator[tuple[int, int]]:
    """Number and value (unsigned) of every varint field."""
    for field, kind, number, _ in records(message):
        if kind == 0:
            yield field, number


def varints(packed: memoryview) -> Iterator[int]:
    """The values (unsigned) of a packed repeated field."""
    at = 0
    while at < len(packed):
        number, at = _varint(packed, at)
        yield number


def signed(number: int) -> int:
    """A varint as the two's complement int64 it encodes."""
    return number - (1 << 64) if number >= 1 << 63 else number


def records(message: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """Number, wire type, value (varint fields, unsigned) and bytes of every field, as they lie."""
    at, end, left = 0, len(message), MOST_FIELDS
    while at < end:
        left -= 1
        if left < 0:
            raise ValueError(f"a message of more than {MOST_FIELDS} fields")
        tag, at = _varint(message, at)
        kind, number = tag & 7, 0
        if kind == 0:
            number, after = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            after = at + size
        elif kind in (1, 5):
            after = at + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind} does not exist")
        if after > end:
            raise ValueError("a field reaches beyond its message")
        yield tag >> 3, kind, number, message[at:after]
        at = after


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number, at
    raise ValueError("a number longer than 64 bits")
