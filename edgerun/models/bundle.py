"""Bundles: a model with everything that is needed to run it, verified before any of it is parsed."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from edgerun.errors import ModelError
from edgerun.models.archive import MAX_FILE_BYTES, Archive, Folder, Zip, check_name
from edgerun.models.artifact import Artifact, choose, make_artifact
from edgerun.models.calibration import Calibration
from edgerun.models.labels import parse_labels
from edgerun.models.manifest import Format, Manifest, PictureInput, Signal, parse_manifest
from edgerun.models.onnx_external import join_weights
from edgerun.models.record import check_recorded
from edgerun.models.sealed import Unsealing, open_content
from edgerun.security.sealing import SealingKey
from edgerun.types import Tensor

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
_MANIFEST_BYTES = 4 << 20
_COMPILED_SUFFIX = "_edgetpu"
_FORMATS: dict[str, Format] = {".tflite": "tflite", ".onnx": "onnx"}


class GoldenCase(msgspec.Struct, frozen=True):
    """A picture and what is expected of it.

    `picture` is H×W×3 uint8 RGB in the size of the model's input, before normalisation; `expected` holds real (not
    quantised) values by name: raw outputs, and where it says so decoded `boxes` (N×4, x0 y0 x1 y1 in 0..1), `classes`
    and `scores` (N).
    """

    picture: Tensor
    expected: Mapping[str, Tensor]


class Bundle(msgspec.Struct, frozen=True):
    """A model and what is known of it. None means not known: of a bare file until `derive.complete` has looked.

    `bare` says that there was no manifest. `decoder_options` are those of the decoder's plug-in, unchecked. `signal` is
    set where the model takes no picture. `constants`, `state` and `shapes` are as in `Manifest`.
    """

    name: str
    version: str
    artifacts: tuple[Artifact, ...]
    task: str | None = None
    picture: PictureInput = PictureInput()
    decoder: str | None = None
    decoder_options: Mapping[str, Any] = {}
    labels: tuple[str, ...] | None = None
    threshold: float | None = None
    top_k: int = 5
    golden: bytes | None = None
    bare: bool = False
    signal: Signal | None = None
    constants: Mapping[str, Any] = {}
    state: tuple[tuple[str, str], ...] | None = None
    shapes: Mapping[str, tuple[int, ...]] = {}
    calibration: Calibration | None = None
    reference: Mapping[str, Any] | None = None
    """What scores and shares of classes are usual, as `telemetry.drift` reads it."""

    @property
    def main(self) -> Artifact:
        """The artifact for the CPU, or the first where there is none."""
        return next((one for one in self.artifacts if "cpu" in one.accelerators), self.artifacts[0])

    @property
    def format(self) -> Format:
        return self.main.format

    @property
    def model(self) -> bytes:
        return self.main.model

    @property
    def sha256(self) -> str:
        """Of the main artifact, hexadecimal."""
        return self.main.sha256

    def artifact_for(self, accelerator: str, kind: Format | None = None) -> Artifact:
        """The file to run on `accelerator`, of one format where `kind` says so (the engine's).

        An accelerator that no artifact names takes the CPU's file, but for those that need files compiled for them (the
        Edge TPU); the CPU never gets such a file. Raises `ModelError` when there is none.
        """
        return choose(self.artifacts, accelerator, kind, self.name)

    def of_format(self, kind: Format | None) -> Bundle:
        """The bundle with only its files of one format; itself where `kind` is None.

        The input's name and layout in a manifest are those of one format: where the files left have no input of that
        name, they are read from the file instead. Raises `ModelError` when the bundle has no such file.
        """
        fitting = tuple(one for one in self.artifacts if kind in (None, one.format))
        if len(fitting) == len(self.artifacts):
            return self
        if not fitting:
            raise ModelError(
                f"the bundle has no .{kind} file",
                where=self.name,
                expected=f"one of {', '.join(one.file for one in self.artifacts)}",
                remedy="leave engine out, or add the model in that format to the bundle",
            )
        names = {spec.name for one in fitting if one.structure is not None for spec in one.structure.inputs}
        picture = self.picture
        if picture.name is not None and picture.name not in names:
            picture = msgspec.structs.replace(picture, name=None, layout=None)
        return msgspec.structs.replace(self, artifacts=fitting, picture=picture)


def find_bundled(name: str) -> Path | None:
    """Where the model called `name` that ships with edgerun is kept, or None when none is called so."""
    if not name or name in (".", "..") or Path(name).name != name:
        return None
    for folder in _bundled_folders():
        if os.path.isfile(folder / name / MANIFEST):  # takes a name too long for "not there"
            return folder / name
    return None


def bundled_names() -> tuple[str, ...]:
    """The models that ship with edgerun."""
    found = (path.parent.name for folder in _bundled_folders() for path in folder.glob(f"*/{MANIFEST}"))
    return tuple(sorted(set(found)))


def _bundled_folders() -> tuple[Path, Path]:
    package = Path(__file__).resolve().parent.parent
    return package / "_bundled", package.parent / "models"


def load(path: Path, key: SealingKey | None = None) -> Bundle:
    """The bundle at `path`: a folder or .zip with a manifest, or a bare .tflite or .onnx file.

    Each listed file is read once, opened with `key` where it is sealed, held against its SHA-256, and only then parsed.
    Raises `ModelError`.
    """
    if path.is_dir():
        return _load_bundle(Unsealing(Folder(path), key, path), path)
    kind = _FORMATS.get(path.suffix.lower())
    try:
        if kind is None and path.is_file() and zipfile.is_zipfile(path):
            return _load_bundle(Unsealing(Zip(path), key, path), path)
        if kind is None and path.exists():
            raise ModelError(
                "not a model",
                where=path,
                expected="a bundle (folder or .zip), a .tflite or a .onnx file",
                got=f"a file of kind {path.suffix or '(none)'}",
            )
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        text = error.strerror or str(error)
        raise ModelError(
            "the model cannot be read",
            where=path,
            expected="a bundle (folder or .zip), a .tflite or a .onnx file",
            got=text,
            remedy="check the path, or name a model that ships with edgerun",
        ) from error
    if not content or len(content) > MAX_FILE_BYTES:
        raise ModelError(
            "not a model",
            where=path,
            expected=f"1 to {MAX_FILE_BYTES} bytes",
            got="an empty file" if not content else "more",
        )
    assert kind is not None  # the only way here
    artifact = _bare(path, kind, open_content(content, key, path.name, path), key)
    found = (artifact, *_companion(path, artifact, key))
    return Bundle(path.stem, artifact.sha256[:12], found, bare=True)


def _bare(path: Path, kind: Format, content: bytes, key: SealingKey | None) -> Artifact:
    if kind == "onnx":
        content = join_weights(content, lambda name: _beside(path, name, key), str(path))
    return make_artifact(path.name, kind, None, content, hashlib.sha256(content).hexdigest(), str(path))


def _beside(path: Path, name: str, key: SealingKey | None) -> bytes:
    """A file beside a bare one: its name is the model's, so it must stay inside; a link there is its user's."""
    try:
        with (path.parent / check_name(name, path)).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelError("it cannot be read", where=path.parent / name, got=error.strerror or str(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise ModelError("too large", where=path.parent / name, expected=f"≤ {MAX_FILE_BYTES} bytes")
    return open_content(content, key, name, path.parent / name)


def _companion(path: Path, artifact: Artifact, key: SealingKey | None) -> list[Artifact]:
    """The other half of a pair as the Edge TPU compiler leaves it, `x.tflite` and `x_edgetpu.tflite`, where both lie
    there and have the same inputs and outputs.
    """
    if artifact.format != "tflite" or artifact.structure is None:
        return []
    compiled = path.stem.endswith(_COMPILED_SUFFIX)
    stem = path.stem.removesuffix(_COMPILED_SUFFIX) if compiled else path.stem + _COMPILED_SUFFIX
    other_path = path.with_name(stem + path.suffix)
    if compiled != artifact.structure.edge_tpu or not other_path.is_file():
        return []
    try:
        with other_path.open("rb") as file:
            content = open_content(file.read(MAX_FILE_BYTES + 1), key, other_path.name, other_path)
        other = _bare(other_path, "tflite", content, key)
    except (OSError, ModelError) as error:
        _log.warning("%s lies beside %s and is left out: %s", other_path.name, path, error)
        return []
    if other.structure is None or other.structure.edge_tpu == compiled or _edges(other) != _edges(artifact):
        _log.warning("%s lies beside %s, has other inputs or outputs, and is left out", other_path.name, path)
        return []
    return [other]


def _edges(artifact: Artifact) -> list[tuple[tuple[int, ...], str]]:
    assert artifact.structure is not None
    return [(spec.shape, spec.dtype) for spec in (*artifact.structure.inputs, *artifact.structure.outputs)]


def golden_cases(bundle: Bundle) -> list[GoldenCase]:
    """The bundle's golden pictures with what is expected of them; empty when it has none.

    `golden.npz` holds `input_<case>` and any number of `<name>_<case>`, cases counted from 0. Raises `ModelError`.
    """
    if bundle.golden is None:
        return []
    where = f"{bundle.name}: {GOLDEN}"
    try:
        with np.load(io.BytesIO(bundle.golden), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError, AttributeError) as error:
        raise ModelError("the golden file cannot be read", where=where, got=error) from error
    count = sum(f"input_{case}" in arrays for case in range(len(arrays)))
    cases: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for key, array in arrays.items():
        name, _, case = key.rpartition("_")
        if not name or not case.isdecimal() or int(case) >= count:
            raise _no_cases(where, arrays)
        cases[int(case)][name] = array
    if not cases or any("input" not in case or len(case) < 2 for case in cases):
        raise _no_cases(where, arrays)
    pictures = [case.pop("input") for case in cases]
    if any(picture.dtype != np.uint8 for picture in pictures):
        raise _no_cases(where, arrays)
    return [GoldenCase(picture, case) for picture, case in zip(pictures, cases, strict=True)]


def _no_cases(where: str, arrays: Mapping[str, Tensor]) -> ModelError:
    return ModelError(
        "the golden file does not hold cases",
        where=where,
        expected="input_0, input_1 … uint8 and for each at least one <name>_<case>",
        got=", ".join(sorted(arrays)) or "nothing",
    )


def _load_bundle(archive: Archive, path: Path) -> Bundle:
    try:
        if not archive.has(MANIFEST):
            raise ModelError(
                "no manifest, so not a bundle",
                where=path,
                expected=f"{MANIFEST} at the top of the folder or zip",
                remedy="name the bundle itself, not the folder around it, or a bare .tflite or .onnx file",
            )
        content = archive.read(MANIFEST, _MANIFEST_BYTES)
        check_recorded(path, content)
        manifest = parse_manifest(content, f"{path}/{MANIFEST}")
        contents = _verified(archive, manifest, path)
    finally:
        archive.close()
    return _assemble(manifest, contents, path)


def _verified(archive: Archive, manifest: Manifest, path: Path) -> dict[str, bytes]:
    """Every file the manifest lists, held against its hash and size."""
    for name in manifest.files:
        check_name(name, path)
    contents = {}
    left = MAX_FILE_BYTES
    for name, entry in manifest.files.items():
        content = contents[name] = archive.read(name, left)
        left -= len(content)
        got = hashlib.sha256(content).hexdigest()
        if got != entry.sha256.lower() or entry.bytes not in (None, len(content)):
            raise ModelError(
                "a file of the bundle is not the one its manifest lists",
                where=f"{path}/{name}",
                expected=f"sha256 {entry.sha256}" + ("" if entry.bytes is None else f", {entry.bytes} bytes"),
                got=f"sha256 {got}, {len(content)} bytes",
                remedy="fetch the bundle again; it was damaged or changed after it was made",
            )
    return contents


def _assemble(manifest: Manifest, contents: dict[str, bytes], path: Path) -> Bundle:
    artifacts = []
    for entry in manifest.artifacts:
        content = _listed(contents, entry.file, "artifacts", path)
        kind = _FORMATS.get(PurePosixPath(entry.file).suffix.lower())
        if kind is None:
            raise ModelError(
                "a model file of an unknown kind", where=f"{path}/{entry.file}", expected=".tflite or .onnx"
            )
        digest = manifest.files[entry.file].sha256.lower()
        where = f"{path}/{entry.file}"
        if kind == "onnx":
            folder = PurePosixPath(entry.file).parent
            content = join_weights(content, _weights(contents, folder, path), where)
        artifacts.append(make_artifact(entry.file, kind, entry.accelerators, content, digest, where))
    labels = None
    if manifest.labels is not None:
        labels = parse_labels(_listed(contents, manifest.labels, "labels", path), f"{path}/{manifest.labels}")
    if len(manifest.inputs) > 1:
        raise ModelError("several inputs", where=f"{path}/{MANIFEST}", expected="one picture", got=len(manifest.inputs))
    decoder = dict(manifest.decoder) if manifest.decoder is not None else {}
    return Bundle(
        name=manifest.name,
        version=manifest.version,
        artifacts=tuple(artifacts),
        task=manifest.task,
        picture=manifest.inputs[0] if manifest.inputs else PictureInput(),
        decoder=decoder.pop("kind", None),
        decoder_options=decoder,
        labels=labels,
        threshold=manifest.threshold,
        golden=contents.get(GOLDEN),
        signal=manifest.signal,
        reference=manifest.reference,
        constants=manifest.constants,
        state=manifest.state,
        shapes=manifest.shapes,
    )


def _weights(contents: dict[str, bytes], folder: PurePosixPath, path: Path) -> Callable[[str], bytes]:
    """Reads what an ONNX file of the bundle keeps in another one: listed and verified like every file."""

    def read(name: str) -> bytes:
        check_name(name, path)
        return _listed(contents, str(folder / name), "the ONNX model", path)

    return read


def _listed(contents: dict[str, bytes], name: str, key: str, path: Path) -> bytes:
    if name not in contents:
        raise ModelError(
            f"{key} names a file that the manifest does not list",
            where=f"{path}/{MANIFEST}",
            expected="a name under files, with its sha256",
            got=repr(name),
        )
    return contents[name]
