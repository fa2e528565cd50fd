"""Whether a bundle may be let in: size limits, then the manifest's signature, then strict JSON, then each file's hash.

Nothing of a bundle reaches a parser of models, labels or arrays before all of that has passed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from edgerun.errors import ModelError
from edgerun.models import archive as archives
from edgerun.models.archive import MAX_FILE_BYTES, Archive, Folder
from edgerun.models.manifest import Manifest, parse_manifest
from edgerun.models.sealed import Unsealing
from edgerun.models.strict import check_collisions
from edgerun.security.sealing import SealingKey, is_sealed
from edgerun.security.signing import MAX_BYTES as MAX_SIGNATURE_BYTES
from edgerun.security.trust import Trust, parse_time

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
OPENSSF = "model.sig"
"""Where the `model_signing` command line leaves its bundle."""
MAX_MANIFEST_BYTES = 4 << 20
MAX_OPENSSF_BYTES = 4 << 20
BESIDE = (MANIFEST, SIGNATURE, OPENSSF)
"""What lies in a bundle and is not listed in its manifest."""


class Policy(msgspec.Struct, frozen=True):
    """Who is let in: `trust` None means that no signature is looked at, `device` None that any device is meant.

    `now` in Unix seconds is what expiry is held against.
    """

    now: float
    trust: Trust | None = None
    require_signed: bool = True
    device: str | None = None


class Head(msgspec.Struct, frozen=True):
    """A bundle's outside: its files' names, the manifest as bytes, what signs it."""

    names: tuple[str, ...]
    manifest: bytes
    signature: bytes | None
    openssf: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()


def read_head(archive: Archive, where: object) -> Head:
    """Names, manifest and signature, within their limits, unparsed. Raises `ModelError`."""
    names = tuple(archive.names())
    if MANIFEST not in names:
        raise ModelError(
            "no manifest, so not a bundle",
            where=where,
            expected=f"{MANIFEST} at the top of the folder or zip",
            remedy="name the bundle itself, not the folder around it, or a bare .tflite or .onnx file",
        )
    signature = archive.read(SIGNATURE, MAX_SIGNATURE_BYTES) if SIGNATURE in names else None
    if OPENSSF in names:
        archive.read(OPENSSF, MAX_OPENSSF_BYTES)
    return Head(names, archive.read(MANIFEST, MAX_MANIFEST_BYTES), signature, OPENSSF in names)


def check_signature(head: Head, policy: Policy, where: object, *, required: bool) -> str | None:
    """The id of the trusted key that signed the manifest's bytes; None where there is no signature to look at.

    Raises `ModelError` for one that is wrong or of a revoked key, and where one is `required` for one of a key that is
    not known: where none is, that says no more than no signature.
    """
    if head.signature is None or policy.trust is None:
        return None
    if not required and not policy.trust.knows(head.signature, f"{where}/{SIGNATURE}"):
        return None
    return policy.trust.verify(head.manifest, head.signature, f"{where}/{SIGNATURE}", policy.now).key.id


def check_manifest(head: Head, policy: Policy, where: object) -> Manifest:
    """The manifest, which lists all files and no others, has not expired and means this device. Raises `ModelError`."""
    manifest = parse_manifest(head.manifest, f"{where}/{MANIFEST}")
    check_listing(manifest, head.names, where)
    check_expiry(manifest.expires, policy.now, where)
    device = policy.device
    if device is not None and manifest.devices and not any(fnmatchcase(device, one) for one in manifest.devices):
        raise ModelError(
            "the bundle is for other devices",
            where=where,
            expected=", ".join(manifest.devices),
            got=device,
            remedy="fetch the one for this device",
        )
    return manifest


def check_listing(manifest: Manifest, names: Iterable[str], where: object) -> None:
    """Raises `ModelError` unless the files there are those the manifest lists, and `BESIDE`."""
    for name in manifest.files:
        archives.check_name(name, where)
    check_collisions((*manifest.files, *BESIDE), where)
    there = set(names) - set(BESIDE)
    for wrong, what in ((there - set(manifest.files), "a file that the manifest does not list"),
                        (set(manifest.files) - there, "a file of the bundle is missing")):  # fmt: skip
        if wrong:
            raise ModelError(
                what,
                where=where,
                expected="exactly the files of the manifest",
                got=", ".join(sorted(wrong))[:200],
                remedy="fetch the bundle again; it was changed after it was made",
            )


def check_expiry(expires: str | None, now: float, where: object) -> None:
    """Raises `ModelError` when that time (RFC 3339) has come, or is none."""
    if expires is None:
        return
    try:
        until = parse_time(expires)
    except ValueError as error:
        raise ModelError("the manifest is not valid", where=where, expected="expires: a time", got=error) from error
    if now >= until:
        raise ModelError(
            "the bundle has expired", where=where, expected=f"it before {expires}", remedy="fetch a newer version"
        )


def check_digest(manifest: Manifest, name: str, digest: str, size: int, where: object) -> None:
    """Raises `ModelError` unless the file is the one the manifest lists."""
    entry = manifest.files[name]
    if digest != entry.sha256.lower() or entry.bytes not in (None, size):
        raise ModelError(
            "a file of the bundle is not the one its manifest lists",
            where=f"{where}/{name}",
            expected=f"sha256 {entry.sha256}" + ("" if entry.bytes is None else f", {entry.bytes} bytes"),
            got=f"sha256 {digest}, {size} bytes",
            remedy="fetch the bundle again; it was damaged or changed after it was made",
        )


def check_store_folder(
    folder: Path, manifest_sha256: str | None, key: SealingKey | None = None
) -> tuple[Manifest, str, int]:
    """Look at a version in the store: its manifest (by hash, where known), its files, and that no other name leads to
    them (a hard link would let them be changed from outside). Returns manifest, its hash and the bytes of all files.

    A sealed file is held against the manifest where `key` is there to open it; else its seal, which nobody can make
    without the key, is left to whoever opens it. Raises `ModelError`.
    """
    held = Folder(folder)
    head = read_head(held, folder)
    if manifest_sha256 is not None and head.sha256 != manifest_sha256:
        raise ModelError(
            "the manifest is not the one that was installed",
            where=folder / MANIFEST,
            expected=f"sha256 {manifest_sha256}",
            got=f"sha256 {head.sha256}",
            remedy="fetch the model again, or run edgerun models rollback",
        )
    manifest = parse_manifest(head.manifest, folder / MANIFEST)
    check_listing(manifest, head.names, folder)
    total = 0
    for name in head.names:
        found = os.lstat(folder / name)
        if found.st_nlink != 1:
            raise ModelError("a file of the store is linked from elsewhere", where=folder / name, got=found.st_nlink)
        total += found.st_size
    with open(os.devnull, "wb") as nowhere:
        for name in manifest.files:
            if not is_sealed(held.head(name)):
                check_digest(manifest, name, *held.copy(name, nowhere, MAX_FILE_BYTES), folder)
            elif key is not None:
                content = Unsealing(held, key, folder).read(name)
                check_digest(manifest, name, hashlib.sha256(content).hexdigest(), len(content), folder)
    return manifest, head.sha256, total
