"""Signature files have one spelling; a byte that is another, anywhere, is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import ModelError
from edgerun.security.keys import private_from_bytes
from edgerun.security.signing import MAX_BYTES, decode, encode, sign

KEYS = [private_from_bytes(bytes([number] * 32)) for number in range(1, 18)]


@given(st.binary(max_size=200), st.integers(1, 16))
def test_what_is_encoded_is_decoded(message: bytes, count: int) -> None:
    signatures = tuple(sign(message, key) for key in KEYS[:count])
    assert decode(encode(signatures), "x") == signatures
    assert all(key.public.accepts(one.raw, message) for key, one in zip(KEYS, signatures, strict=False))


@given(st.binary(max_size=MAX_BYTES))
def test_no_other_bytes_are_a_signature_file(content: bytes) -> None:
    try:
        found = decode(content, "x")
    except ModelError:
        return
    assert encode(found) == content


def test_limits() -> None:
    line = sign(b"", KEYS[0]).line.encode()
    for wrong in (b"", b"\n", line[:-1], line + b"\n", line + line, line.replace(b"\n", b"\r\n"), b" " + line):
        with pytest.raises(ModelError, match="not a signature file"):
            decode(wrong, "x")
    with pytest.raises(ModelError, match="not a signature file"):
        decode(encode([sign(b"", key) for key in KEYS]), "x")


def test_spare_bits_of_base64_are_zero() -> None:
    line = sign(b"m", KEYS[0]).line
    last = line.rindex("==") - 1
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(line[last]) ^ 1]
    with pytest.raises(ModelError, match="not a signature file"):
        decode((line[:last] + other + line[last + 1 :]).encode(), "x")
