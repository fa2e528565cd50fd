"""From a source to a version in the store: fetched, let in or refused, staged, committed.

install(store, "https://models.example/detector-3.zip", policy)
install(store, "pypi:my-models==1.2#my_models/detector.zip", policy)
install(store, "catalog:silero-vad", policy)
install(store, "detector.tflite", policy, name="detector", version="3")
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgerun.errors import ConfigError, DeviceError, ModelError, did_you_mean
from edgerun.models import catalog
from edgerun.models.archive import MAX_FILE_BYTES, Archive, Folder, Zip
from edgerun.models.bundle import Bundle, load
from edgerun.models.catalog import CatalogEntry
from edgerun.models.disk import Disk, disk_error
from edgerun.models.https import Progress, check_url, download, shown_url
from edgerun.models.manifest import Manifest
from edgerun.models.openssf import check_openssf, keys_in
from edgerun.models.packages import parse_package, take
from edgerun.models.record import Installed, Trusted
from edgerun.models.sealed import seal_model_file
from edgerun.models.store import Staged, Store
from edgerun.models.verify import (
    MANIFEST,
    Head,
    Policy,
    check_digest,
    check_manifest,
    check_signature,
    read_head,
)
from edgerun.models.versions import check_name
from edgerun.models.wrapping import BARE, check_sha256, from_catalog, name_of, wrap
from edgerun.security.sealing import SealingKey

_REMOTE = ("https:", "pypi:", "npm:", "catalog:")


class Origin(msgspec.Struct, frozen=True):
    """Where something came from: in words without secrets, and whether from outside this device."""

    shown: str
    remote: bool
    entry: CatalogEntry | None = None


class Told(msgspec.Struct, frozen=True):
    """What a bare file does not say of itself: what it is called in the store, and keys of its manifest.

    A bundle, which says it, is refused when it says another name or version.
    """

    name: str | None = None
    version: str | None = None
    manifest: Mapping[str, Any] = {}


_NOTHING = Told()


def install(
    store: Store,
    source: str,
    policy: Policy,
    *,
    told: Told = _NOTHING,
    sha256: str | None = None,
    ca_file: Path | None = None,
    force: bool = False,
    activate: bool = True,
    progress: Progress | None = None,
    before: Callable[[CatalogEntry], None] | None = None,
    seal: SealingKey | None = None,
) -> Installed:
    """Install what `source` names: a path, `https://…`, `pypi:…`, `npm:…` or `catalog:NAME`.

    `sha256` is that of the fetched file. `seal`: the model files lie sealed in the store. `before` is told of the
    catalog's entry before anything is fetched. Raises `ConfigError` for a source that is none, `ModelError` when it is
    not let in, `DeviceError`, `MissingError`.
    """
    how: dict[str, Any] = {"sha256": sha256, "ca_file": ca_file, "progress": progress, "before": before}
    with (
        store.staging() as work,
        fetched(store, source, work, **how) as (path, origin),
        stage(store, path, origin, policy, told=told, force=force, seal=seal) as staged,
    ):
        return store.commit(staged, force=force, activate=activate)


def check_source(source: str) -> str:
    """Its kind: `https:`, `pypi:`, `npm:`, `catalog:`, or what a path begins with. Looks at the words only. Raises
    `ConfigError` for an address or a package that nobody could fetch.
    """
    kind = source.partition(":")[0] + ":"
    if kind in ("http:", "ftp:", "file:") or (kind not in _REMOTE and "://" in source):
        raise ConfigError(
            "not a source of models",
            expected="a path, https://…, pypi:NAME==VERSION#PATH, npm:NAME@VERSION#PATH or catalog:NAME",
            got=repr(shown_url(source)[:200]),
        )
    if kind == "https:":
        check_url(source)
    elif kind in ("pypi:", "npm:"):
        parse_package(source)
    return kind


@contextmanager
def fetched(
    store: Store,
    source: str,
    work: Path,
    *,
    sha256: str | None = None,
    ca_file: Path | None = None,
    progress: Progress | None = None,
    before: Callable[[CatalogEntry], None] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[Path, Origin]]:
    """The bundle or file that `source` names, on this device until the block ends. Raises as `install` does,
    and what `progress` and `pause` (between two attempts at a download) raise.
    """
    kind = check_source(source)
    folder = work / "fetched"
    if kind == "https:":
        how: dict[str, Any] = {"ca_file": ca_file, "progress": progress, "room": _room(store), "pause": pause}
        folder.mkdir()
        name = Path(shown_url(source)).name[-100:]
        into = folder / (name if name.endswith((*BARE, ".zip")) else "bundle.zip")
        yield download(source, store.partial(), into, sha256=sha256, **how), Origin(shown_url(source), True)
    elif kind in ("pypi:", "npm:"):
        folder.mkdir()
        path = take(parse_package(source), folder)
        check_sha256(path, sha256, source)
        yield path, Origin(source, True)
    elif kind == "catalog:":
        entry = catalog.get(source.partition(":")[2])
        if before is not None:
            before(entry)
        folder.mkdir()
        yield (
            from_catalog(entry, folder, store.partial(), _room(store), progress),
            Origin(f"catalog:{entry}", True, entry),
        )
    else:
        path = Path(source)
        if not path.exists():
            raise _no_file(path)
        check_sha256(path, sha256, source)
        yield path, Origin(str(path.absolute()), False)


@contextmanager
def stage(
    store: Store,
    path: Path,
    origin: Origin,
    policy: Policy,
    *,
    told: Told = _NOTHING,
    force: bool = False,
    seal: SealingKey | None = None,
) -> Iterator[Staged]:
    """Let in what lies at `path` (a bundle's folder or zip, or a bare file), verified, as files in a staging folder.

    The order is that of `models.verify`; a model that no parser takes is refused at the end. With `seal` the
    model files are sealed then. Raises `ModelError`, `DeviceError`.
    """
    with store.staging() as folder:
        inside = folder / "bundle"
        inside.mkdir(mode=0o755)
        try:
            if path.is_file() and path.suffix.lower() in BARE:
                _judge(None, origin, policy, where=origin.shown)
                _wrap(store, path, origin, inside, told)
                archive: Archive = Folder(inside)
                staged = _let_in(store, archive, None, inside, origin, policy, force, told)
            else:
                archive = Folder(path) if path.is_dir() else Zip(path)
                try:
                    staged = _let_in(store, archive, inside, inside, origin, policy, force, told)
                finally:
                    archive.close()
            bundle = load(inside)
            _check_formats(bundle, origin.shown)
            if seal is not None:
                for artifact in bundle.artifacts:
                    seal_model_file(inside / artifact.file, seal)
            store.disk.sync_tree(inside)
        except ModelError as error:
            if str(error.where).startswith(str(inside)):  # a name that is gone by the time it is read
                error.where = origin.shown
            raise
        except OSError as error:
            raise error if isinstance(error, DeviceError) else disk_error(error, store.folder) from error
        yield staged


def examine(path: Path, policy: Policy) -> str:
    """Look at a bundle where it lies as `install` would, copying nothing; returns why it would be let in.

    Raises `ModelError`, `MissingError`.
    """
    archive: Archive = Folder(path) if path.is_dir() else Zip(path)
    try:
        head = read_head(archive, path)
        signer = check_signature(head, policy, path, required=True)
        if signer is None and head.openssf and path.is_dir() and policy.trust is not None:
            signer = check_openssf(path, policy.trust.folder, path)
        manifest = check_manifest(head, policy, path)
        with open(os.devnull, "wb") as nowhere:
            for name in manifest.files:
                check_digest(manifest, name, *archive.copy(name, nowhere), path)
    finally:
        archive.close()
    return f"signed {signer}" if signer is not None else "unsigned"


def check_signed_folder(folder: Path, policy: Policy) -> str:
    """The key that signed a bundle in the store, by what is trusted now. Raises `ModelError`, `MissingError`."""
    head = read_head(Folder(folder), folder)
    signer = check_signature(head, policy, folder, required=True)
    if signer is None and head.openssf and policy.trust is not None:
        signer = check_openssf(folder, policy.trust.folder, folder)
    if signer is None:
        raise ModelError("the signature is gone", where=folder, remedy="fetch the model again")
    return signer


def _let_in(
    store: Store,
    archive: Archive,
    target: Path | None,
    folder: Path,
    origin: Origin,
    policy: Policy,
    force: bool,
    told: Told,
) -> Staged:
    """Signature, manifest, then the files: copied to `target` while they are hashed (None: they lie there already)."""
    where = origin.shown
    head = read_head(archive, where)
    signer = check_signature(head, policy, where, required=origin.remote and policy.require_signed)
    disk = store.disk
    copied = False
    if signer is None and head.openssf and policy.trust is not None and keys_in(policy.trust.folder) and target:
        store.make_room("", archive.size())
        _copy(disk, archive, head.names, target)
        copied = True
        signer = check_openssf(folder, policy.trust.folder, where)
    trusted = _judge(signer, origin, policy, where)
    manifest = check_manifest(head, policy, where)
    _check_told(told, manifest, where)
    store.check_upgrade(manifest.name, manifest.version, head.sha256, force=force)
    if target is not None and not copied:
        store.make_room(manifest.name, archive.size())
        found = _copy(disk, archive, head.names, target)
    else:
        with open(os.devnull, "wb") as nowhere:
            held = Folder(folder)
            found = {name: held.copy(name, nowhere) for name in head.names}
    for name in manifest.files:
        check_digest(manifest, name, *found[name], where)
    if found[MANIFEST][0] != head.sha256:
        raise ModelError("the manifest changed while it was read", where=where, remedy="try again")
    size = sum(size for _, size in found.values())
    return Staged(manifest.name, folder, _describe(manifest, head, size, origin, trusted, signer, policy.now))


def _check_told(told: Told, manifest: Manifest, where: str) -> None:
    """A bundle says of itself what it is; who expects something else is told so."""
    if told.name not in (None, manifest.name) or told.version not in (None, manifest.version):
        raise ModelError(
            "the source holds another model than was asked for",
            where=where,
            expected=f"{told.name or '…'}@{told.version or '…'}",
            got=f"{manifest.name}@{manifest.version}",
        )


def _copy(disk: Disk, archive: Archive, names: tuple[str, ...], target: Path) -> dict[str, tuple[str, int]]:
    found, left = {}, MAX_FILE_BYTES
    for name in names:
        found[name] = disk.copy_out(archive, name, target, left)
        left -= found[name][1]
    return found


def _judge(signer: str | None, origin: Origin, policy: Policy, where: str) -> Trusted:
    """Why it is let in. Raises `ModelError` when there is no reason."""
    if signer is not None:
        return "openssf" if signer.startswith("openssf:") else "signed"
    if origin.entry is not None:
        return "catalog"
    if origin.remote and policy.require_signed:
        raise ModelError(
            "not signed, and models from elsewhere must be",
            where=where,
            expected="manifest.sig by a key that is trusted here",
            remedy="sign it with edgerun models sign; --unsigned or [security] require_signed = false takes it so",
        )
    return "unsigned"


def _describe(
    manifest: Manifest, head: Head, size: int, origin: Origin, trusted: Trusted, signer: str | None, now: float
) -> Installed:
    source = manifest.source if isinstance(manifest.source, dict) else {}
    licence = source.get("license")
    return Installed(
        name=manifest.name,
        version=manifest.version,
        manifest_sha256=head.sha256,
        bytes=size,
        installed_at=now,
        source=origin.shown,
        remote=origin.remote,
        trusted=trusted,
        signer=signer,
        task=manifest.task,
        license=licence if isinstance(licence, str) else None,
        expires=manifest.expires,
    )


def _check_formats(bundle: Bundle, where: str) -> None:
    """Raises `ModelError` for a file that is plainly not of the format that its name says."""
    for artifact in bundle.artifacts:
        if artifact.structure is None:
            raise ModelError(
                "not a model of the format that its name says",
                where=where,
                expected="a TensorFlow Lite model" if artifact.format == "tflite" else "an ONNX model",
                got=f"{len(artifact.model)} bytes of something else in {artifact.file}",
                remedy="fetch or export the file again, and see that it is no page or pointer to it",
            )


def _wrap(store: Store, path: Path, origin: Origin, folder: Path, told: Told) -> None:
    name = told.name or name_of(path)
    check_name(name, path)
    wrap(path, folder, name, told.version or _next_version(store, name), origin.shown, told.manifest)


def _next_version(store: Store, name: str) -> str:
    """The number after the highest there was; 1 for a new model."""
    if name not in store.names():
        return "1"
    leading = re.match(r"\d+", store.record(name).highest or "")
    return str(int(leading[0]) + 1) if leading else "1"


def _room(store: Store) -> Callable[[int], None]:
    return lambda need_bytes: store.make_room("", need_bytes)


def _no_file(path: Path) -> ConfigError:
    known = [one.name for one in catalog.entries()]
    remedy = did_you_mean(path.name, known)
    return ConfigError(
        "no such file",
        where=path,
        expected="a bundle, a .tflite or .onnx file, an https address, a package, or catalog:NAME",
        remedy=f"catalog:{path.name} is in the catalog" if str(path) in known else remedy,
    )
