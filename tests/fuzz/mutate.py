"""Edits as fuzzers make them: flipped bits, numbers at their limits, pieces cut out, doubled, moved or exchanged."""

from __future__ import annotations

import random

_ODD = (
    b"",
    b"\x00",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 40,
    b"null",
)
_ODD_TEXT = (b"../", b"/etc/passwd", b"\r\n", b'"', b"\\", b"{", b"[" * 64, b"\xc3\x28", b"\xef\xbb\xbf", b"%s", b"=")


def mutated(dice: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """`data` with one to six edits, or nothing but noise."""
    if dice.random() < 0.03:
        return dice.randbytes(dice.randrange(300))
    out = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        _edit(dice, out, others)
    return bytes(out)


def _edit(dice: random.Random, out: bytearray, others: list[bytes]) -> None:
    at = dice.randrange(len(out) + 1)
    size = min(len(out) - at, 1 << dice.randrange(9))
    match dice.randrange(7):
        case 0 if out:
            out[at % len(out)] ^= 1 << dice.randrange(8)
        case 1:
            out[at : at + size] = b""
        case 2:
            out[at:at] = out[at : at + size] * dice.choice((1, 1, 2, 9))
        case 3:
            out[at : at + dice.choice((0, 1, 4, 8))] = dice.choice(_ODD)
        case 4:
            out[at:at] = dice.choice(_ODD_TEXT)
        case 5:
            del out[at:]
        case _:
            other = dice.choice(others)
            begin = dice.randrange(len(other) + 1)
            out[at : at + size] = other[begin : begin + (1 << dice.randrange(10))]
