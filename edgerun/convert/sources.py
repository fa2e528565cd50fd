"""What is to be converted: a model file, a bundle of one, or a name that Python imports."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgerun.convert.routes import is_torch
from edgerun.convert.sets import digest_of
from edgerun.errors import ConfigError
from edgerun.models import Bundle, load
from edgerun.models.bundle import MANIFEST

_MOST_BYTES = 2 << 30
_LICENSE = "LICENSE"
_LICENSE_BYTES = 1 << 20


class Source(msgspec.Struct, frozen=True):
    """The source as a path (or name) for an importer, and what lies around it.

    `bundle` is what its files say, None where only the importer can read it. `origin` is for the manifest.
    """

    path: str
    name: str
    origin: str
    sha256: str
    size_bytes: int
    bundle: Bundle | None = None
    folder: Path | None = None

    def shapes(self, size: tuple[int, int] | None, channels: int) -> dict[str, tuple[int, ...]]:
        """Input → its shape, where the source leaves sides open and the manifest or `size` (width, height) tells."""
        if is_torch(self.path):
            return {"input": (1, channels, size[1], size[0])} if size is not None else {}
        structure = self.bundle.main.structure if self.bundle is not None else None
        if self.bundle is None or structure is None:
            return {}
        wanted = size or self.bundle.picture.size
        found: dict[str, tuple[int, ...]] = {}
        for spec in structure.inputs:
            if -1 not in spec.shape[1:]:
                continue
            stated = self.bundle.shapes.get(spec.name)
            if stated is None and wanted is not None and len(spec.shape) == 4:
                sides = (wanted[1], wanted[0])
                if spec.shape[3] in (1, 3):
                    stated = (1, *sides, spec.shape[3])
                elif spec.shape[1] in (1, 3):
                    stated = (1, spec.shape[1], *sides)
            if stated is not None:
                found[spec.name] = tuple(stated)
        return found

    def licence(self, given: str | None) -> tuple[bytes | None, str | None]:
        """The text of the licence, where there is one, and its name: as given (a file, or a name), or the source's."""
        if given is not None:
            path = Path(given)
            if not path.is_file():
                return self._own_text(), given
            text = path.read_bytes()
            if len(text) > _LICENSE_BYTES:
                raise ConfigError("too large for a licence", where=path, expected=f"≤ {_LICENSE_BYTES} bytes")
            return text, self._own_name() or "see LICENSE"
        return self._own_text(), self._own_name()

    def _own_text(self) -> bytes | None:
        path = self.folder / _LICENSE if self.folder is not None else None
        return path.read_bytes() if path is not None and path.is_file() else None

    def _own_name(self) -> str | None:
        return _said_of_source(self.folder, "license") if self.folder is not None else None


@contextmanager
def open_source(text: str) -> Iterator[Source]:
    """What `text` names. Raises `ConfigError` where there is nothing, `ModelError` for a model that cannot be read."""
    path = Path(text)
    if is_torch(text) and not path.exists():
        place = Path(text.rpartition(":")[0])
        digest = digest_file(place) if place.is_file() else hashlib.sha256(text.encode()).hexdigest()
        yield Source(text, text.rpartition(":")[2], text, digest, 0)
        return
    if not path.exists():
        raise ConfigError(
            "there is no such model",
            where=text,
            expected=".onnx, .tflite, .keras, a SavedModel, .pt2, module:factory, or a bundle",
            remedy="check the path",
        )
    _refuse_huge(path)
    if path.is_dir() and not (path / MANIFEST).is_file():  # a SavedModel, or nothing the importers know
        files = sorted(one for one in path.rglob("*") if one.is_file())
        state = hashlib.sha256(b"".join(digest_of(one) for one in files))
        yield Source(text, path.name, path.name, state.hexdigest(), sum(one.stat().st_size for one in files))
        return
    if path.is_dir() or path.suffix.lower() == ".zip":
        bundle = load(path)
        with tempfile.TemporaryDirectory(prefix="edgerun-convert-") as folder:
            file = Path(folder) / Path(bundle.main.file).name
            file.write_bytes(bundle.model)
            origin = _said_of_source(path, "from") or f"bundle {bundle.name} {bundle.version}"
            own = path if path.is_dir() else None
            yield Source(str(file), bundle.name, origin, bundle.sha256, len(bundle.model), bundle, own)
        return
    known = load(path) if path.suffix.lower() in (".onnx", ".tflite") else None
    yield Source(text, path.stem, path.name, digest_file(path), path.stat().st_size, known)


def _said_of_source(folder: Path, key: str) -> str | None:
    """What the manifest of a bundle says of where its model comes from."""
    if not (folder / MANIFEST).is_file():
        return None
    said: Mapping[str, Any] = json.loads((folder / MANIFEST).read_bytes()).get("source") or {}
    value = said.get(key)
    return value if isinstance(value, str) else None


def digest_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_huge(path: Path) -> None:
    if path.is_file() and path.stat().st_size > _MOST_BYTES:
        raise ConfigError(
            "too large to be converted",
            where=path,
            expected="at most 2 GiB: no .tflite or .onnx file can hold more",
            got=f"{path.stat().st_size / 1e9:.1f} GB",
            remedy="prune it first, or choose a smaller model of its family",
        )
