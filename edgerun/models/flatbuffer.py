"""The wire format of FlatBuffers, read table by table, every step held against the end of the bytes.

After the FlatBuffers internals page: a table begins with the signed distance back to its vtable, whose 16-bit entries
hold the offset of each field or 0; vectors and strings begin with a 32-bit count. Nothing is followed that was not
asked for, and what is read is bounded, so bytes that point at themselves cost no more than the bound. `ValueError`
(or `struct.error`, where the bytes end) is all that damaged bytes can raise.
"""

from __future__ import annotations

import struct

MOST_ELEMENTS = 1 << 18
"""Longest vector that is followed: far more tensors, ops or labels than any model has."""
MOST_TEXT = 1 << 16

DAMAGED = (struct.error, IndexError, ValueError, OverflowError)
"""What reading damaged bytes raises; `UnicodeDecodeError` is a `ValueError`."""


class Table:
    """One table; `field` numbers count from 0, and a field that is not written reads as its default."""

    __slots__ = ("_at", "_content", "_fields", "_vtable")

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
        """A scalar of `struct` type `kind`; None where it is not written."""
        place = self._place(field)
        return struct.unpack_from("<" + kind, self._content, place)[0] if place else None

    def integer(self, field: int, kind: str) -> int:
        """An integer whose default is 0."""
        return int(self.number(field, kind) or 0)

    def table(self, field: int) -> Table | None:
        place = self._place(field)
        return Table(self._content, self._follow(place)) if place else None

    def tables(self, field: int, most: int = MOST_ELEMENTS) -> list[Table]:
        start, count = self._vector(field, 4, most)
        return [Table(self._content, self._follow(start + 4 * i)) for i in range(count)]

    def count(self, field: int) -> int:
        """How many elements of 4 bytes a vector has."""
        return self._vector(field, 4, MOST_ELEMENTS)[1]

    def numbers(self, field: int, kind: str, most: int = MOST_ELEMENTS) -> tuple[int, ...]:
        """A vector of integers of `struct` type `kind`."""
        start, count = self._vector(field, struct.calcsize(kind), most)
        return struct.unpack_from(f"<{count}{kind}", self._content, start)

    def vector_at(self, field: int) -> int:
        """Where the first element of a vector of 4-byte elements lies; 0 where it is not written."""
        return self._vector(field, 4, MOST_ELEMENTS)[0]

    def floats(self, field: int, most: int = MOST_ELEMENTS) -> tuple[float, ...]:
        start, count = self._vector(field, 4, most)
        return struct.unpack_from(f"<{count}f", self._content, start)

    def raw(self, field: int, most: int | None = None) -> bytes:
        start, count = self._vector(field, 1, len(self._content) if most is None else most)
        return self._content[start : start + count]

    def text(self, field: int) -> str:
        return self.raw(field, MOST_TEXT).decode()

    def texts(self, field: int, most: int = MOST_ELEMENTS) -> list[str]:
        """A vector of strings, together at most 1 MiB."""
        start, count = self._vector(field, 4, most)
        found, left = [], 1 << 20
        for i in range(count):
            at = self._follow(start + 4 * i)
            size = int(struct.unpack_from("<I", self._content, at)[0])
            left -= size
            if at + 4 + size > len(self._content) or left < 0:
                raise ValueError("strings reach beyond the file")
            found.append(self._content[at + 4 : at + 4 + size].decode())
        return found

    def _follow(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self._content, place)[0])

    def _vector(self, field: int, size: int, most: int) -> tuple[int, int]:
        place = self._place(field)
        if not place:
            return 0, 0
        start = self._follow(place)
        count = int(struct.unpack_from("<I", self._content, start)[0])
        if start + 4 + count * size > len(self._content):
            raise ValueError("a vector reaches beyond the file")
        if count > most:
            raise ValueError(f"a vector of {count} elements, which is more than {most}")
        return start + 4, count


def root(content: bytes) -> Table:
    """The root table of a buffer."""
    return Table(content, struct.unpack_from("<I", content)[0])
