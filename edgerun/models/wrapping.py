"""Bundles made here: of a bare model file, and of an entry of the catalog."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgerun.errors import ConfigError, ModelError
from edgerun.models.archive import check_name as check_file
from edgerun.models.bundle import load
from edgerun.models.catalog import CatalogEntry
from edgerun.models.https import Progress, download
from edgerun.models.manifest import VERSION
from edgerun.models.packages import parse_package, take
from edgerun.models.verify import MANIFEST

LABELS = "labels.txt"
BARE = (".tflite", ".onnx")
"""What a model file that is no bundle is called at its end."""


def name_of(path: Path) -> str:
    """What a bare file's model is called where nobody says it."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in path.stem.lower()).strip("-")[:63]


def wrap(path: Path, folder: Path, name: str, version: str, source: str, more: Mapping[str, Any]) -> None:
    """A bundle of one bare file: its copy, and a manifest that says no more than is known, and `more`."""
    file = f"model{path.suffix.lower()}"
    with path.open("rb") as content, (folder / file).open("xb") as out:
        shutil.copyfileobj(content, out, 1 << 20)
    main = load(folder / file).main
    manifest = {
        "v": VERSION,
        "name": name,
        "version": version,
        "artifacts": [{"file": file, "for": list(main.accelerators)}],
        "source": {"from": source},
        **more,
    }
    _write_manifest(folder, manifest)


def check_sha256(path: Path, sha256: str | None, where: str) -> None:
    """Raises `ModelError` unless the file has it, where there is one; `ConfigError` for a folder."""
    if sha256 is None:
        return
    if path.is_dir():
        raise ConfigError("a folder has no SHA-256", where=where, expected="a file", remedy="leave --sha256 out")
    with path.open("rb") as content:
        got = hashlib.file_digest(content, "sha256").hexdigest()
    if got != sha256.lower():
        raise ModelError("not the file that was meant", where=where, expected=f"sha256 {sha256}", got=f"sha256 {got}")


def from_catalog(
    entry: CatalogEntry, folder: Path, partial: Path, room: Callable[[int], None], progress: Progress | None
) -> Path:
    """The entry as a bundle; each file has the hash that the catalog wants. Raises as `models.https.download` and
    `models.packages.take` do.
    """
    inside = folder / "bundle"
    inside.mkdir()
    packages: dict[str, Path] = {}
    for number, one in enumerate(entry.files):
        work = folder / str(number)
        work.mkdir()
        if one.source.startswith("https:"):
            path = download(one.source, partial, work / "file", sha256=one.sha256, progress=progress, room=room)
        else:
            package = parse_package(one.source)
            path = take(package, work, packages)
        check_sha256(path, one.sha256, one.source)
        path.rename(inside / check_file(one.file, str(entry)))
    if entry.labels:
        (inside / LABELS).write_text("\n".join(entry.labels) + "\n", encoding="utf-8")
    models = [one.file for one in entry.files if one.file.endswith(BARE)]
    manifest = {
        "v": VERSION,
        "name": entry.name,
        "version": entry.version,
        "task": entry.task,
        "artifacts": [{"file": file, "for": list(load(inside / file).main.accelerators)} for file in models],
        **({"labels": LABELS} if entry.labels else {}),
        "source": {"from": entry.files[0].source, "sha256": entry.files[0].sha256, "license": entry.license},
        **entry.manifest,
    }
    _write_manifest(inside, manifest)
    return inside


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """List what lies in the folder, and write it."""
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        files[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
    text = json.dumps({**manifest, "files": files}, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
