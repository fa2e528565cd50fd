"""Files sealed with AES-256-GCM: nobody without the key reads them, and no change to them goes unseen.

A sealed file is a header and chunks, each encrypted on its own (STREAM of Hoang, Reyhanitabar, Rogaway and Vizár,
CRYPTO 2015, with the nonce laid out as age does), so that a file of any size needs one chunk of memory:

    8 bytes   `MAGIC`, its last byte the version of the format
    1 byte    length of a chunk of plain text, as a power of 2
    8 bytes   key id: the first bytes of SHA-256 of "edgerun key id" and the key
    32 bytes  salt, random
    then      chunks: cipher text as long as the plain text, and the tag (16 bytes)

Each file has a key of its own: HKDF-SHA-256 (RFC 5869) of the key, the salt and the header's first 17 bytes. A chunk's
nonce is its number (11 bytes, big-endian) and 1 for the last chunk, else 0; the associated data of every chunk are the
header and, each with its length before it, the purpose and the name that the file was sealed under. So a chunk that is
changed, moved, repeated or left out is refused, and so is a file cut at a chunk's end, lengthened, sealed with another
key, or put in the place of another file of the same key. What is still seen is the length, and that it is sealed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from edgerun.errors import MissingError, SealError
from edgerun.secret import Secret

MAGIC = b"EDGESEA1"
_FAMILY = MAGIC[:-1]
SUFFIX = ".sealed"
"""What names of sealed files end in, where edgerun gives the name."""
KEY_BYTES = 32
_CHUNK_POWER, _POWERS = 16, range(9, 25)
_HEAD = struct.Struct(">8sB8s32s")
_TAG_BYTES, _SALT_BYTES = 16, 32
_RECORD_SALT = 24
MAX_BYTES = 1 << 30
"""Longest plain text that is opened into memory, unless the caller says otherwise."""


class SealingKey:
    """A key of 32 random bytes. No `repr` or encoder shows it; `id` names it without telling anything of it."""

    __slots__ = ("_bytes", "id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SealError("not a sealing key", expected=f"{KEY_BYTES} bytes", got=f"{len(key)} bytes")
        self._bytes = key
        self.id = hashlib.sha256(b"edgerun key id" + key).digest()[:8]

    @classmethod
    def new(cls) -> SealingKey:
        """From the system's randomness."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def read(cls, secret: Secret) -> SealingKey:
        """The key that `secret` names: 64 hexadecimal digits, or 32 bytes in base64. Raises `ConfigError` where there
        is none, `SealError` for what is no key: a passphrase is not taken, because it could be guessed. Raises
        `MissingError` where nothing could be sealed with it.
        """
        text = secret.reveal().strip()
        try:
            key = bytes.fromhex(text) if re.fullmatch(r"[0-9A-Fa-f]{64}", text) else base64.b64decode(text, None, True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise SealError(
                "not a sealing key",
                where=secret.where,
                expected="32 random bytes as 64 hexadecimal digits or in base64",
                got=f"{len(text)} characters that are none",
                remedy="make one with: edgerun control key",
            )
        _cryptography()
        return cls(key)

    def text(self) -> str:
        """The key itself, as `read` takes it: for the file or credential that it is to lie in."""
        return self._bytes.hex()

    def derive(self, salt: bytes, info: bytes) -> Any:
        """The cipher (`AESGCM`) of a key that HKDF-SHA-256 makes of this one. Raises `MissingError`."""
        aes, hkdf, sha256 = _cryptography()
        return aes(
            hkdf(algorithm=sha256(), length=KEY_BYTES, salt=salt, info=b"edgerun seal " + info).derive(self._bytes)
        )

    def __repr__(self) -> str:
        return f"SealingKey({self.id.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("a SealingKey is not pickled")


def is_sealed(head: bytes) -> bool:
    """Whether what begins with `head` (at least 8 bytes) is sealed, by this version or another."""
    return head.startswith(_FAMILY)


def seal(plain: bytes, key: SealingKey, purpose: str, name: str) -> bytes:
    """`plain`, sealed as what it is for and what it is called. Raises `MissingError` without the extra `security`."""
    return b"".join(_sealed(_split(plain), key, purpose, name))


def seal_as(key: SealingKey, plain: bytes, purpose: str, name: str) -> bytes:
    """`seal` with the key first, to be bound: `ports.Seal`."""
    return seal(plain, key, purpose, name)


def unseal(sealed: bytes, key: SealingKey, purpose: str, name: str, where: object = None) -> bytes:
    """What was sealed with the same key, purpose and name. Raises `SealError`; `where` names it to the operator."""
    return b"".join(_opened(memoryview(sealed), key, purpose, name, where))


def seal_file(source: Path, target: Path, key: SealingKey, purpose: str, name: str) -> None:
    """Write what `source` holds sealed to `target` (mode 0600), which is there whole or not at all. Raises `OSError`.

    `target` may be `source`: its plain text is then overwritten by nothing, only unlinked, and may be found on the
    medium until it is used again.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with source.open("rb") as plain, open(fd, "wb") as file:
            for piece in _sealed(_read(plain), key, purpose, name):
                file.write(piece)
            file.flush()
            os.fsync(fd)
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def open_sealed(path: Path, key: SealingKey, purpose: str, name: str, max_bytes: int = MAX_BYTES) -> bytes:
    """What the sealed file at `path` holds; in memory only. Raises `OSError`, `SealError`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes + _HEAD.size + (max_bytes // (1 << _POWERS[0]) + 1) * _TAG_BYTES:
            raise SealError("too large", where=path, expected=f"at most {max_bytes} bytes", got=f"{size} bytes")
        content = file.read()
    return unseal(content, key, purpose, name, path)


class RecordSealer:
    """Many short pieces under one key: a salt drawn at construction, and a counter, make every nonce new.

    A sealed piece is salt (24 bytes), number (8, big-endian), cipher text and tag (16). `purpose` is that of all of
    them; `about` of each is what it must not be parted from (its place, its number). Thread-safe where calls do not
    overlap.
    """

    def __init__(self, key: SealingKey, purpose: str) -> None:
        self._key, self._info = key, b"record " + purpose.encode()
        self._salt, self._number = os.urandom(_RECORD_SALT), 0
        self._ciphers = {self._salt: key.derive(self._salt, self._info)}

    def seal(self, plain: bytes, about: bytes) -> bytes:
        self._number += 1
        number = self._number.to_bytes(8, "big")
        sealed: bytes = self._ciphers[self._salt].encrypt(b"\0\0\0\0" + number, plain, about)
        return self._salt + number + sealed

    def unseal(self, sealed: bytes, about: bytes) -> bytes:
        """Raises `SealError`."""
        head = _RECORD_SALT + 8
        if len(sealed) < head + _TAG_BYTES:
            raise _damaged(None)
        salt = sealed[:_RECORD_SALT]
        cipher = self._ciphers.get(salt)
        if cipher is None:
            cipher = self._key.derive(salt, self._info)
            if len(self._ciphers) >= 16:  # of earlier processes
                self._ciphers = {self._salt: self._ciphers[self._salt]}
            self._ciphers[salt] = cipher
        return _decrypt(cipher, b"\0\0\0\0" + sealed[_RECORD_SALT:head], sealed[head:], about, None)


def _sealed(pieces: Iterator[tuple[bytes, bool]], key: SealingKey, purpose: str, name: str) -> Iterator[bytes]:
    head = _HEAD.pack(MAGIC, _CHUNK_POWER, key.id, os.urandom(_SALT_BYTES))
    cipher = key.derive(head[-_SALT_BYTES:], head[:-_SALT_BYTES])
    about = head + _framed(purpose) + _framed(name)
    yield head
    for number, (piece, last) in enumerate(pieces):
        yield cipher.encrypt(_nonce(number, last), piece, about)


def _opened(sealed: memoryview, key: SealingKey, purpose: str, name: str, where: object) -> Iterator[bytes]:
    head = bytes(sealed[: _HEAD.size])
    if not is_sealed(head):
        raise SealError("not sealed", where=where, expected="a file that edgerun sealed")
    if head[: len(MAGIC)] != MAGIC:
        raise SealError("sealed by another version of edgerun", where=where, remedy="update edgerun")
    if len(head) < _HEAD.size:
        raise _damaged(where)
    _, power, key_id, salt = _HEAD.unpack(head)
    if key_id != key.id:
        raise SealError(
            "sealed with another key", where=where, expected=f"key {key.id.hex()}", got=f"key {key_id.hex()}",
            remedy="give the key that it was sealed with, or seal it again",
        )  # fmt: skip
    if power not in _POWERS:
        raise _damaged(where)
    cipher = key.derive(salt, head[:-_SALT_BYTES])
    about = head + _framed(purpose) + _framed(name)
    step, at, number = (1 << power) + _TAG_BYTES, _HEAD.size, 0
    while True:
        last = at + step >= len(sealed)
        yield _decrypt(cipher, _nonce(number, last), sealed[at : at + step], about, where)
        at, number = at + step, number + 1
        if last:
            return


def _decrypt(cipher: Any, nonce: bytes, piece: bytes | memoryview, about: bytes, where: object) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        plain: bytes = cipher.decrypt(nonce, piece, about)
    except (InvalidTag, ValueError):  # ValueError: shorter than a tag
        raise _damaged(where) from None
    return plain


def _damaged(where: object) -> SealError:
    return SealError(
        "it was damaged or changed since it was sealed, or is not the file that should be there",
        where=where,
        expected="every chunk as it was sealed, under this name and for this purpose",
        remedy="put the right file there, or seal it again",
    )


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _framed(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return len(data).to_bytes(4, "big") + data


def _split(plain: bytes) -> Iterator[tuple[bytes, bool]]:
    step = 1 << _CHUNK_POWER
    for at in range(0, max(1, len(plain)), step):
        yield plain[at : at + step], at + step >= len(plain)


def _read(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    piece = file.read(1 << _CHUNK_POWER)
    while True:
        ahead = file.read(1 << _CHUNK_POWER)
        yield piece, not ahead
        if not ahead:
            return
        piece = ahead


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise MissingError(
            "sealing needs the package cryptography", remedy="pip install 'edgerun[security]'"
        ) from error
    return AESGCM, HKDF, SHA256
