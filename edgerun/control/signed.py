"""Signed commands: Ed25519 (RFC 8032) by a key the device knows, for this device, this verb, once, and not for long.

A signed command is a JSON object with one member (besides `id`):

    {"signed": {"key": "9f86d081884c7d65", "nonce": "4f1c…", "expires": 1795230060,
                "arguments": "{\\"stream\\":\\"dock\\"}", "signature": "base64 of 64 bytes"}}

`key` is the id of the public key (`PublicKey.id`). `arguments` is JSON *as text*: what is signed is this text, byte for
byte, so that no two programs need agree on how JSON is written. Signed is `signed_bytes(…)`: a fixed first line, and
each field with its length before it.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgerun.clock import Clock
from edgerun.decoding import convert, decode
from edgerun.errors import ConfigError
from edgerun.security.keys import PrivateKey, PublicKey
from edgerun.validate import show

LONGEST_LIFE_S = 3600
"""A command that is valid for longer is refused: its nonce would have to be remembered for as long."""
_NONCES = 4096
PLAUSIBLE_S = 1_735_689_600
"""2025-01-01: a clock that says less has not been set since the board was switched on."""
_FIRST_LINE = b"edgerun command v1\n"


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The signed part of a message. `expires`: Unix seconds."""

    key: Annotated[str, Meta(min_length=1, max_length=64)]
    nonce: Annotated[str, Meta(pattern=r"^[0-9A-Za-z_-]{16,64}\Z")]
    expires: Annotated[int, Meta(ge=0, le=1 << 53)]
    arguments: str
    signature: Annotated[str, Meta(max_length=128)]


def signed_bytes(device: str, verb: str, nonce: str, expires: int, arguments: str) -> bytes:
    """What is signed."""
    fields = (device, verb, nonce, str(expires), arguments)
    framed = (len(data).to_bytes(4, "big") + data for data in (field.encode() for field in fields))
    return _FIRST_LINE + b"".join(framed)


def sign(key: PrivateKey, device: str, verb: str, arguments: str, expires: int, nonce: str) -> dict[str, Any]:
    """The message that carries the command. `arguments`: JSON as text; `nonce`: 16 to 64 characters, never used before
    with this key, such as `secrets.token_hex(16)`.
    """
    signature = key.sign(signed_bytes(device, verb, nonce, expires, arguments))
    signed = Signed(key.public.id, nonce, expires, arguments, base64.b64encode(signature).decode())
    return {"signed": msgspec.to_builtins(signed)}


class Nonces:
    """Which nonces were used, on disk before their command is done, so that a restart forgets none.

    `file` holds `[floor, {key/nonce: expires}]`. Nothing that expires at or before `floor` is taken any more: it rises
    with everything that is forgotten, so a clock that is set back brings no old command back to life. A file that is
    damaged or cannot be read counts as if everything had been used that could have been.
    """

    def __init__(self, file: Path | None, clock: Clock) -> None:
        """`file` None: remembered until the end of the process, which refuses what was valid when it began."""
        self._file, self._clock = file, clock
        self._used: dict[str, int] = {}
        self._floor = 0
        try:
            if file is None:
                raise ValueError("nothing was kept")
            self._floor, self._used = decode(file.read_bytes(), tuple[int, dict[str, int]])
        except FileNotFoundError:
            pass
        except (OSError, ValueError):  # msgspec's errors are ValueErrors
            self._floor = int(clock.unix_s()) + LONGEST_LIFE_S

    def use(self, key: str, nonce: str, expires: int) -> str | None:
        """Take it, once; or why not. Raises `OSError` when that cannot be kept: then the command is not to be done."""
        now_s = int(self._clock.unix_s())
        stale = [mark for mark, until in self._used.items() if until <= now_s]
        for mark in stale:
            self._floor = max(self._floor, self._used.pop(mark))
        mark = f"{key}/{nonce}"
        if mark in self._used:
            return "this command was given before: its nonce is used up"
        if expires <= self._floor:
            return "it expires too early: commands of that time are no longer told apart; sign a new one"
        if len(self._used) >= _NONCES:
            return f"more than {_NONCES} signed commands in their time of validity"
        self._used[mark] = expires
        try:
            self._keep()
        except OSError:
            del self._used[mark]
            raise
        return None

    def _keep(self) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._file.with_name(f".{self._file.name}.part")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode((self._floor, self._used)))
            file.flush()
            os.fsync(fd)
        partial.replace(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Signatures:
    """Checks signed commands to `device` against the `keys` that are trusted with them. Thread-safe where calls do not
    overlap. Raises `MissingError` without the extra `security` where there are keys.
    """

    def __init__(self, device: str, keys: Sequence[PublicKey], nonces: Nonces, clock: Clock) -> None:
        self._device, self._nonces, self._clock = device, nonces, clock
        self._keys = {key.id: key for key in keys}
        for key in keys:
            key.accepts(b"", b"")  # what it needs is missing now or never

    def read(self, verb: str, payload: Any) -> tuple[PublicKey, dict[str, Any]]:
        """Who signed the command `verb`, and its arguments. `payload` is the message's member `signed`.

        Raises `ConfigError` for what is not signed as it should be, not valid now, or was given before. The nonce is
        used up by a right signature, whatever becomes of the command.
        """
        try:
            signed = convert(payload, Signed)
            signature = base64.b64decode(signed.signature, None, True)
            message = signed_bytes(self._device, verb, signed.nonce, signed.expires, signed.arguments)
        except (msgspec.ValidationError, binascii.Error, ValueError) as error:
            raise ConfigError(f"not a signed command: {error}") from None
        key = self._keys.get(signed.key)
        if key is None:
            raise ConfigError("signed by a key that is not trusted with commands here", got=show(signed.key))
        if not key.accepts(signature, message):
            raise ConfigError("the signature is not right", expected=f"{key.id}'s for {self._device} and {verb}")
        now_s = self._clock.unix_s()
        if now_s < PLAUSIBLE_S:
            raise ConfigError("this device's clock is not set: whether a signed command still counts cannot be told")
        if signed.expires <= now_s:
            raise ConfigError("the command has expired", expected=f"a time after {now_s:.0f}", got=signed.expires)
        if signed.expires > now_s + LONGEST_LIFE_S:
            raise ConfigError("a signed command counts for an hour at most", got=f"{signed.expires - now_s:.0f} s")
        try:
            arguments = decode(signed.arguments, dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ConfigError(f"the signed arguments are no JSON object: {error}") from None
        try:
            refused = self._nonces.use(key.id, signed.nonce, signed.expires)
        except OSError as error:
            raise ConfigError(f"that it was given cannot be kept, so it is not done: {error.strerror}") from None
        if refused:
            raise ConfigError(refused)
        return key, arguments
