"""Ed25519 keys (RFC 8032): made, written, read. A public key is one line, `edgerun-ed25519 <base64> <comment>`.

A private key is a PKCS #8 PEM file, mode 0600, encrypted when a passphrase is given (PBES2), so that OpenSSL reads it
too. `cryptography` is imported when a key is used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from edgerun.errors import ConfigError, MissingError

KIND = "edgerun-ed25519"
MAX_LINE = 512
_MAX_PRIVATE_BYTES = 16384
_PRIME = 2**255 - 19
_WEAK_Y = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)
"""The y of all points of order 1, 2, 4 and 8 (RFC 7748, 6.1, on the Edwards curve): such a key takes any signature."""


class PublicKey(msgspec.Struct, frozen=True):
    """32 bytes and what people call it."""

    raw: bytes
    comment: str = ""

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of its SHA-256: what signatures name it by."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def line(self) -> str:
        """As `parse_public` reads it, without the newline."""
        return f"{KIND} {base64.b64encode(self.raw).decode()} {self.comment}".rstrip()

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` (64 bytes) over `message` is this key's. Raises `MissingError`."""
        from_raw, invalid = _verifier()
        try:
            from_raw(self.raw).verify(signature, message)
        except (invalid, ValueError):
            return False
        return True


class PrivateKey:
    """A key that signs. Nothing shows its bytes."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Any, comment: str = "") -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw(), comment)

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of RFC 8032, 5.1.6."""
        signature: bytes = self._key.sign(message)
        return signature

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.id})"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")


def parse_public(line: str, where: object = None) -> PublicKey:
    """The public key in `line`. Raises `ConfigError`; also for the weak points, which would take any signature."""
    parts = line.strip().split(" ", 2)
    comment = parts[2].strip() if len(parts) == 3 else ""
    try:
        if len(line) > MAX_LINE or len(parts) < 2 or parts[0] != KIND or not comment.isprintable():
            raise ValueError("not such a line")
        raw = base64.b64decode(parts[1], validate=True)
        if len(raw) != 32 or base64.b64encode(raw).decode() != parts[1]:
            raise ValueError(f"{len(raw)} bytes")
        y = int.from_bytes(raw, "little") & (2**255 - 1)
        if y >= _PRIME or y in _WEAK_Y:
            raise ValueError("a key that anybody could sign for")
    except (ValueError, binascii.Error) as error:
        raise ConfigError(
            "not a public key",
            where=where,
            expected=f"one line: {KIND} <base64 of 32 bytes> <comment>",
            got=str(error),
            remedy="copy the whole .pub file that edgerun models keygen wrote",
        ) from None
    return PublicKey(raw, comment)


def generate(comment: str = "") -> PrivateKey:
    """A new key from the system's randomness. Raises `MissingError`."""
    return PrivateKey(_ed25519().Ed25519PrivateKey.generate(), _checked(comment))


def private_from_bytes(seed: bytes, comment: str = "") -> PrivateKey:
    """The key of a 32-byte seed (RFC 8032, 5.1.5). Raises `MissingError`."""
    return PrivateKey(_ed25519().Ed25519PrivateKey.from_private_bytes(seed), comment)


def write_pair(key: PrivateKey, path: Path, passphrase: str | None = None) -> Path:
    """Write the private key to `path` (0600, never over another file) and the public one to `path`.pub; returns that.

    Raises `ConfigError` when one of them is there already or cannot be written.
    """
    _ed25519()
    from cryptography.hazmat.primitives import serialization as form

    secret = form.BestAvailableEncryption(passphrase.encode()) if passphrase else form.NoEncryption()
    pem = key._key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, secret)
    public = path.with_name(path.name + ".pub")
    if public.exists():
        raise _exists(public)
    try:
        _write_new(path, pem, 0o600)
        _write_new(public, (key.public.line + "\n").encode(), 0o644)
    except FileExistsError as error:
        raise _exists(Path(error.filename)) from None
    except OSError as error:
        raise ConfigError("the key cannot be written", where=path, got=error.strerror or str(error)) from error
    return public


def read_private(path: Path, passphrase: str | None = None) -> PrivateKey:
    """The private key in `path`; its comment is that of `path`.pub, where it lies there.

    Raises `ConfigError` when it cannot be read, can be read by others, or needs another passphrase, `MissingError`.
    """
    kind = _ed25519().Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_PRIVATE_BYTES + 1)
    except OSError as error:
        raise ConfigError("the private key cannot be read", where=path, got=error.strerror or str(error)) from error
    if content.startswith(KIND.encode()):
        remedy = f"name {path.with_suffix('')}" if path.suffix == ".pub" else "name the file beside it, without .pub"
        raise ConfigError("this is the public key", where=path, expected="the private one", remedy=remedy)
    if stat.S_ISREG(mode) and mode & 0o077:
        raise ConfigError(
            "other users can reach the private key",
            where=path,
            expected="mode 0600",
            got=f"{mode & 0o777:04o}",
            remedy=f"run chmod 600 {path}; if others may have read it, make a new one and revoke this",
        )
    try:
        key = load_pem_private_key(content, passphrase.encode() if passphrase else None)
    except TypeError as error:
        raise _unusable(path, str(error)) from None
    except ValueError:
        raise _unusable(path, "a wrong passphrase" if passphrase else "no PEM file of a private key") from None
    if not isinstance(key, kind):
        raise _unusable(path, f"a key of another kind ({type(key).__name__.lstrip('_')})")
    public = path.with_name(path.name + ".pub")
    found = PrivateKey(key)
    if public.is_file():
        beside = read_public(public)
        if beside.raw == found.public.raw:
            found.public = beside
    return found


def read_public(path: Path) -> PublicKey:
    """The public key in a .pub file. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LINE + 1)
    except OSError as error:
        raise ConfigError("the public key cannot be read", where=path, got=error.strerror or str(error)) from error
    lines = content.decode("utf-8", "replace").splitlines() or [""]
    return parse_public(lines[0], path)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _checked(comment: str) -> str:
    if not comment.isprintable() or len(comment) > 200:
        raise ConfigError("not a usable comment", expected="up to 200 printable characters", got=repr(comment[:80]))
    return comment.strip()


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        "there is a file already, and a key is never overwritten",
        where=path,
        remedy="choose another name with -o, or move the old key away",
    )


def _unusable(path: Path, got: str) -> ConfigError:
    return ConfigError("the private key cannot be used", where=path, expected="an Ed25519 key (PKCS #8)", got=got)


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise missing() from error
    return ed25519


def _verifier() -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature
    except ImportError as error:
        raise missing() from error
    return _ed25519().Ed25519PublicKey.from_public_bytes, InvalidSignature


def missing() -> MissingError:
    """The error for a device without `cryptography`."""
    return MissingError(
        "keys and signatures need a library that is not installed",
        expected="cryptography",
        remedy="pip install 'edgerun[security]'",
    )
