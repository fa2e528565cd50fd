"""Access tokens: what a browser or a scraper shows to be let in. Only their hash need be kept.

A token is 32 random bytes in base64url (256 bits: nothing that is tried reaches it, so one SHA-256 is enough, and the
slow hashes made for passwords would only cost whoever asks). Kept is `sha256:` and the hash of the text in hexadecimal,
or the token itself.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets

from edgerun.errors import ConfigError
from edgerun.secret import Secret

_BYTES = 32
_SHORTEST = 16
_HASHED = re.compile(r"sha256:[0-9a-f]{64}")


def new_token() -> str:
    """A new one, 43 characters. Shown once to whoever asked for it."""
    return secrets.token_urlsafe(_BYTES)


def hashed(token: str) -> str:
    """What is kept of `token`: nobody makes the token of it."""
    return "sha256:" + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Gate:
    """Lets in who shows the right token. Made once; `check` may be called by any thread."""

    __slots__ = ("_hash",)

    def __init__(self, kept: str, where: str = "token") -> None:
        """`kept`: the token, or its hash as `hashed` gives it. Raises `ConfigError` for one that could be guessed."""
        if kept.startswith("sha256:") and not _HASHED.fullmatch(kept):
            raise ConfigError(
                "not a hashed token", where=where, expected="sha256: and 64 hexadecimal digits",
                remedy="make one with: edgerun control token",
            )  # fmt: skip
        if len(kept) < _SHORTEST:
            raise ConfigError(
                "a token that could be guessed", where=where, expected=f"at least {_SHORTEST} characters",
                got=f"{len(kept)}", remedy="make one with: edgerun control token",
            )  # fmt: skip
        self._hash = (kept if _HASHED.fullmatch(kept) else hashed(kept)).encode()

    @classmethod
    def of(cls, secret: Secret) -> Gate:
        """Of the token that a config names. Raises `ConfigError`."""
        return cls(secret.reveal(), secret.where)

    def check(self, token: str) -> bool:
        """Whether `token` is the right one; it takes as long for a wrong one, whatever is right about it."""
        return hmac.compare_digest(hashed(token).encode(), self._hash)

    def check_bearer(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header (RFC 6750, 2.1) carries the right token."""
        scheme, _, token = (authorization or "").partition(" ")
        return self.check(token.strip()) and scheme.lower() == "bearer"

    def __repr__(self) -> str:
        return "Gate(***)"


def check_bound(listen: str, has_token: bool, where: str) -> None:
    """Raises `ConfigError` unless `listen` is an IP address that is this machine's alone, or there is a token."""
    try:
        address = ipaddress.ip_address(listen)
    except ValueError:
        raise ConfigError(
            "it is served on an address", where=where, expected="an IP address", got=repr(listen)
        ) from None
    if not has_token and not address.is_loopback:
        raise ConfigError(
            "served to other machines without a token",
            where=where,
            expected="a loopback address, or a token",
            got=listen,
            remedy="add token (make one with: edgerun control token), or listen on 127.0.0.1",
        )
