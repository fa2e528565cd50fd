"""HTTP authentication: Basic (RFC 7617) and Digest (RFC 7616), which most IP cameras ask for."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable

_ALGORITHMS: dict[str, Callable[[bytes], str]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
}
_PAIR = re.compile(r'([A-Za-z\-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def authorization(credentials: tuple[str, str], challenge: str, target: str, cnonce: str | None = None) -> str:
    """The `Authorization` value for a GET of `target`: Digest when `challenge` (a `WWW-Authenticate` value) asks for
    it in an algorithm we know, else Basic. `cnonce` is random unless given.
    """
    user, password = credentials
    asked = _digest_challenge(challenge)
    algorithm = asked.get("algorithm", "MD5").upper()
    if not asked or algorithm not in _ALGORITHMS:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    digest = _ALGORITHMS[algorithm]
    realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
    secret = digest(f"{user}:{realm}:{password}".encode())
    request = digest(f"GET:{target}".encode())
    fields = {"username": user, "realm": realm, "nonce": nonce, "uri": target}
    plain = {"algorithm": algorithm}
    if "auth" in [word.strip() for word in asked.get("qop", "").split(",")]:
        cnonce = cnonce or os.urandom(8).hex()
        fields["cnonce"] = cnonce
        plain |= {"qop": "auth", "nc": "00000001"}
        proof = digest(f"{secret}:{nonce}:00000001:{cnonce}:auth:{request}".encode())
    else:  # RFC 2069, still sent by old cameras
        proof = digest(f"{secret}:{nonce}:{request}".encode())
    fields["response"] = proof
    if "opaque" in asked:
        fields["opaque"] = asked["opaque"]
    quoted = [f'{name}="{_escape(value)}"' for name, value in fields.items()]
    return "Digest " + ", ".join([*quoted, *(f"{name}={value}" for name, value in plain.items())])


def _digest_challenge(challenge: str) -> dict[str, str]:
    start = challenge.lower().find("digest")
    if start < 0:
        return {}
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        for name, quoted, plain in _PAIR.findall(challenge[start + len("digest") :])
    }


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
