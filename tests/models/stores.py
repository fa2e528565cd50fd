"""Signed bundles, and a store that takes them, for one test each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgerun.models.install import Told, install
from edgerun.models.record import Installed
from edgerun.models.store import Store
from edgerun.models.verify import Policy
from edgerun.security.keys import PrivateKey, private_from_bytes
from edgerun.security.signing import encode, sign
from edgerun.security.trust import Trust
from tests.models.bundles import files, manifest, write_folder, write_zip

NOW = 1_795_000_000.0
KEY, OTHER, STRANGE = (private_from_bytes(bytes([number] * 32), f"key {number}") for number in (1, 2, 3))


def trusting(folder: Path, *keys: PrivateKey) -> Trust:
    trust = Trust.open(folder)
    for key in keys:
        trust = trust.add(key.public)
    return trust


def strict(folder: Path, **changes: Any) -> Policy:
    """Signatures of `KEY` are taken, and nothing without one from elsewhere."""
    return Policy(**{"now": NOW, "trust": trusting(folder, KEY), "require_signed": True, **changes})


def lenient() -> Policy:
    return Policy(NOW, None, False)


def signed(contents: dict[str, bytes], described: Any, *keys: PrivateKey) -> dict[str, bytes]:
    """All files of a bundle, with its manifest and the keys' signatures."""
    text = json.dumps(described).encode() if not isinstance(described, bytes) else described
    found = {**contents, "manifest.json": text}
    return {**found, "manifest.sig": encode([sign(text, key) for key in keys])} if keys else found


def bundle(folder: Path, version: str = "1", *keys: PrivateKey, **changes: Any) -> Path:
    """A bundle's folder; another version is another model: its labels differ."""
    contents = {**files(), "labels.txt": f"person\ncar {version}\n".encode()}
    path = write_folder(folder / f"net-{version}", contents, {})
    for name, content in signed(contents, manifest(contents, version=version, **changes), *keys).items():
        (path / name).write_bytes(content)
    return path


def zipped(folder: Path, version: str = "1", *keys: PrivateKey, **changes: Any) -> Path:
    contents = {**files(), "labels.txt": f"person\ncar {version}\n".encode()}
    content = signed(contents, manifest(contents, version=version, **changes), *keys)
    described = json.loads(content.pop("manifest.json"))
    return write_zip(folder / f"net-{version}.zip", content, described)


def put(store: Store, path: Path, **how: Any) -> Installed:
    return install(store, str(path), lenient(), **how)


def put_bare(store: Store, path: Path, name: str, version: str | None = None, **keys: Any) -> Installed:
    return install(store, str(path), lenient(), told=Told(name, version, keys))


def contents_of(store: Path) -> set[str]:
    """Every file and folder below a store, its lock file left out."""
    return {str(path.relative_to(store)) for path in store.rglob("*")} - {".edgerun-store"}
