"""Signing bundles: `manifest.sig` over the exact bytes of `manifest.json`, in a folder or a zip."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

from edgerun.errors import ConfigError, ModelError
from edgerun.models.archive import Folder, Zip
from edgerun.models.manifest import parse_manifest
from edgerun.models.strict import check_json
from edgerun.models.verify import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    check_digest,
    check_expiry,
    check_listing,
    read_head,
)
from edgerun.security.keys import PrivateKey
from edgerun.security.signing import SUFFIX, Signature, decode, encode, sign
from edgerun.security.trust import format_time, parse_time

_MAX_PLAIN_BYTES = 1 << 20


def sign_path(path: Path, key: PrivateKey, *, more: bool = False, expires: str | None = None) -> Path:
    """Sign a bundle (folder or .zip) after a look at whether it is whole, or any small file as FILE.sig.

    `more` keeps the signatures of other keys. `expires` is written into the manifest of a folder first, which makes
    other signatures worthless. Returns what was written. Raises `ConfigError`, `ModelError`.
    """
    if path.is_dir():
        return _sign_folder(path, key, more, expires)
    if expires is not None:
        raise ConfigError("only a bundle's folder can be given an expiry", where=path, remedy="unpack it first")
    if path.suffix.lower() == ".zip":
        return _sign_zip(path, key, more)
    content = _read(path)
    target = path.with_name(path.name + SUFFIX)
    old = target.read_bytes() if more and target.exists() else None
    _write(target, _with(content, key, old, target))
    return target


def _sign_folder(path: Path, key: PrivateKey, more: bool, expires: str | None) -> Path:
    manifest = path / MANIFEST
    if expires is not None:
        try:
            until = format_time(parse_time(expires))
        except ValueError as error:
            raise ConfigError("not a time", where="--expires", expected="such as 2028-01-01", got=error) from None
        content = _read(manifest)
        check_json(content, manifest)
        changed = {**json.loads(content), "expires": until}
        _write(manifest, (json.dumps(changed, indent=1, ensure_ascii=False) + "\n").encode())
    held = Folder(path)
    head = read_head(held, path)
    _check(held, path)
    target = path / SIGNATURE
    _write(target, _with(head.manifest, key, head.signature if more else None, target))
    return target


def _sign_zip(path: Path, key: PrivateKey, more: bool) -> Path:
    held = Zip(path)
    try:
        head = read_head(held, path)
        _check(held, path)
        content = {name: held.read(name) for name in head.names if name != SIGNATURE}
    finally:
        held.close()
    content[SIGNATURE] = _with(head.manifest, key, head.signature if more else None, path)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError("the bundle cannot be written", where=path, got=error.strerror or str(error)) from error
    return path


def _check(held: Folder | Zip, path: Path) -> None:
    """What is signed is whole: a signature over a manifest that does not fit would only fail elsewhere."""
    head = read_head(held, path)
    manifest = parse_manifest(head.manifest, f"{path}/{MANIFEST}")
    check_listing(manifest, head.names, path)
    check_expiry(manifest.expires, 0.0, path)
    with open(os.devnull, "wb") as nowhere:
        for name in manifest.files:
            check_digest(manifest, name, *held.copy(name, nowhere), path)


def _with(content: bytes, key: PrivateKey, old: bytes | None, where: object) -> bytes:
    others: tuple[Signature, ...] = decode(old, where) if old is not None else ()
    return encode((*(one for one in others if one.key_id != key.public.id), sign(content, key)))


def _read(path: Path) -> bytes:
    limit = MAX_MANIFEST_BYTES if path.name == MANIFEST else _MAX_PLAIN_BYTES
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError("cannot be read", where=path, got=error.strerror or str(error)) from error
    if len(content) > limit:
        raise ModelError("too large to sign as it is", where=path, expected=f"≤ {limit} bytes, or a bundle")
    return content


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError("cannot be written", where=path, got=error.strerror or str(error)) from error
