"""Signature files: one line for each signature, `edgerun-signature <key id> <base64>`, over the exact bytes of a file.

The signed message is the file itself (Ed25519, RFC 8032, without a hash before it), so that any tool can check it. What
is signed with one key for several purposes must therefore tell its purpose itself: a manifest is a JSON object with
`files`, a public key's file begins with the kind of key.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

import msgspec

from edgerun.errors import ModelError
from edgerun.security.keys import PrivateKey

SUFFIX = ".sig"
MAX_BYTES = 4096
MAX_SIGNATURES = 16
_LINE = re.compile(rb"edgerun-signature ([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)")


class Signature(msgspec.Struct, frozen=True):
    """64 bytes, and the id of the key they are said to be made with."""

    key_id: str
    raw: bytes

    @property
    def line(self) -> str:
        return f"edgerun-signature {self.key_id} {base64.b64encode(self.raw).decode()}\n"


def sign(message: bytes, key: PrivateKey) -> Signature:
    """The key's signature over `message`."""
    return Signature(key.public.id, key.sign(message))


def encode(signatures: Sequence[Signature]) -> bytes:
    """A signature file."""
    return "".join(one.line for one in signatures).encode()


def decode(content: bytes, where: object) -> tuple[Signature, ...]:
    """The signatures in a file, which has exactly one spelling: any other byte is refused. Raises `ModelError`."""
    lines = content.split(b"\n")
    found = []
    if len(content) <= MAX_BYTES and lines.pop() == b"" and 0 < len(lines) <= MAX_SIGNATURES:
        found = [_LINE.fullmatch(line) for line in lines]
    signatures = []
    for match in found:
        raw = _decoded(match[2]) if match is not None else None
        if match is None or raw is None:
            break
        signatures.append(Signature(match[1].decode(), raw))
    if not signatures or len(signatures) < len(lines) or len({one.key_id for one in signatures}) < len(lines):
        raise ModelError(
            "not a signature file",
            where=where,
            expected="lines: edgerun-signature <key id> <base64 of 64 bytes>",
            remedy="sign it again, or fetch it again; it was damaged or changed",
        )
    return tuple(signatures)


def _decoded(text: bytes) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return raw if base64.b64encode(raw) == text else None
