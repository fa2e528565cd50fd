"""What a bare model file says of itself, in one shape for both formats."""

from __future__ import annotations

import ast
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from edgerun.errors import ModelError
from edgerun.models.bundle import Artifact
from edgerun.models.labels import MAX_BYTES, parse_labels
from edgerun.models.manifest import PictureInput
from edgerun.models.onnx_metadata import read_metadata_props
from edgerun.models.tflite_metadata import TfliteMetadata, read_tflite_metadata

_TASKS = {"detect": "detect", "classify": "classify", "segment": "segment", "pose": "pose"}


class Facts(msgspec.Struct, frozen=True):
    """What the file states; None where it says nothing. `origin` names the kind of metadata, for messages."""

    picture: PictureInput = PictureInput()
    labels: tuple[str, ...] | None = None
    task: str | None = None
    threshold: float | None = None
    origin: str = "no metadata"
    ultralytics: bool = False


def read_facts(artifact: Artifact, where: str) -> Facts:
    """The facts in the model file: TFLite Metadata, or what Ultralytics' exporter writes into TFLite and ONNX files.

    Metadata that cannot be read is an error, not an absence. Raises `ModelError`.
    """
    if artifact.format == "onnx":
        props = read_metadata_props(artifact.model, where)
        return _ultralytics(props, where) if "names" in props and "imgsz" in props else Facts()
    attached = _attached(artifact.model, where)
    for name in ("metadata.json", "temp_meta.txt"):
        if name in attached:
            return _ultralytics(_mapping(attached[name], f"{where}: {name}"), where)
    metadata = read_tflite_metadata(artifact.model, where)
    return _of_metadata(metadata, attached, where) if metadata is not None else Facts()


def _of_metadata(metadata: TfliteMetadata, attached: Mapping[str, bytes], where: str) -> Facts:
    labels = None
    if metadata.labels_file:
        if metadata.labels_file not in attached:
            raise ModelError(
                "the metadata names labels that are not in the file", where=where, expected=repr(metadata.labels_file)
            )
        labels = parse_labels(attached[metadata.labels_file], f"{where}: {metadata.labels_file}")
    picture = PictureInput(color=metadata.color, mean=metadata.mean or None, std=metadata.std or None)
    return Facts(picture, labels, None, metadata.threshold, "TFLite Metadata")


def _ultralytics(props: Mapping[str, Any], where: str) -> Facts:
    """`names` {0: "person", …}, `imgsz` [height, width], `task`: what `ultralytics` writes when it exports.

    Its models are trained on RGB in 0..1, letterboxed (classifiers: centre-cropped).
    """
    names, size, task = (_literal(props.get(key)) for key in ("names", "imgsz", "task"))
    labels = None
    if isinstance(names, Mapping) and names:
        by_class = {int(number): str(name) for number, name in names.items() if str(number).isdecimal()}
        if sorted(by_class) != list(range(len(names))):
            raise ModelError("the class names in the metadata have gaps", where=where, expected="classes 0, 1, 2 …")
        labels = tuple(by_class[number] for number in range(len(by_class)))
    elif isinstance(names, list | tuple) and names:
        labels = tuple(str(name) for name in names)
    sides = (size, size) if isinstance(size, int) else size
    whole = isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(side, int) for side in sides)
    picture = PictureInput(
        size=(sides[1], sides[0]) if whole else None,
        color="RGB",
        fit="crop" if task == "classify" else "letterbox",
        mean=(0.0,),
        std=(255.0,),
    )
    return Facts(picture, labels, _TASKS.get(str(task)), None, "Ultralytics metadata", ultralytics=True)


def _literal(value: Any) -> Any:
    """ONNX keeps everything as text; Ultralytics writes Python literals."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _mapping(content: bytes, where: str) -> Mapping[str, Any]:
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except ValueError:
        value = _literal(text)
    if not isinstance(value, Mapping):
        raise ModelError("the metadata cannot be read", where=where, expected="a JSON object or a Python dictionary")
    return value


def _attached(model: bytes, where: str) -> dict[str, bytes]:
    """The files that TFLite Metadata keeps in a zip archive behind the model. Small ones only: labels, descriptions."""
    if not zipfile.is_zipfile(io.BytesIO(model)):
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            small = [entry for entry in archive.infolist()[:100] if entry.file_size <= MAX_BYTES]
            return {entry.filename: archive.read(entry) for entry in small}
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise ModelError("the files attached to the model cannot be read", where=where, got=error) from error
