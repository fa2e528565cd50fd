"""What a bare model file says of itself, in one shape for both formats."""

from __future__ import annotations

import ast
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgerun.errors import ModelError
from edgerun.models.archive import SAFE_COMPRESSION
from edgerun.models.artifact import Artifact
from edgerun.models.calibration import Calibration, parse_calibration
from edgerun.models.labels import MAX_BYTES, check_labels, parse_labels
from edgerun.models.manifest import MAX_SIDE, PictureInput, Signal
from edgerun.models.mltk import read_parameters
from edgerun.models.onnx_metadata import read_metadata_props
from edgerun.models.tflite_metadata import TfliteMetadata, read_tflite_metadata
from edgerun.types import TensorSpec

_TASKS = {"detect": "detect", "classify": "classify", "segment": "segment", "pose": "pose"}
_DECODERS = {
    "detect": "yolo",
    "classify": "classify",
    "segment": "yolo-segment",
    "pose": "yolo-pose",
}

_LONGEST_LITERAL = 4 << 20
_MOST_ATTACHED = 100


class Facts(msgspec.Struct, frozen=True):
    """What one source states; None or empty where it says nothing. `origin` names the source, for messages.

    `outputs` says what the outputs are, in the maker's words; `obstacles` what the model needs and edgerun cannot give.
    """

    picture: PictureInput = PictureInput()
    signal: Signal | None = None
    labels: tuple[str, ...] | None = None
    task: str | None = None
    threshold: float | None = None
    decoder: str | None = None
    decoder_options: Mapping[str, Any] = {}
    calibration: Calibration | None = None
    constants: Mapping[str, Any] | None = None
    state: tuple[tuple[str, str], ...] | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    outputs: tuple[str, ...] = ()
    about: Mapping[str, str] = {}
    obstacles: tuple[str, ...] = ()
    origin: str = "no metadata"
    ultralytics: bool = False


def read_facts(artifact: Artifact, where: str) -> tuple[Facts, ...]:
    """What the model file says of itself, the most trusted source first.

    What Ultralytics' exporter writes into TFLite and ONNX files, TFLite Metadata, MLTK's parameters. Metadata that
    cannot be read is an error, not an absence. Raises `ModelError`.
    """
    if artifact.format == "onnx":
        props = read_metadata_props(artifact.model, where)
        return (_ultralytics(props, where),) if "names" in props and "imgsz" in props else ()
    attached = _attached(artifact.model, where)
    found = []
    for name in ("metadata.json", "temp_meta.txt"):
        if name in attached:
            found.append(_ultralytics(_mapping(attached[name], f"{where}: {name}"), where))
            break
    metadata = read_tflite_metadata(artifact.model, where)
    if metadata is not None:
        found.append(_of_metadata(metadata, attached, where))
    parameters = read_parameters(artifact.model, where)
    if parameters is not None:
        found.append(_of_mltk(parameters, artifact.structure.inputs[:1] if artifact.structure is not None else ()))
    return tuple(found)


def _of_metadata(metadata: TfliteMetadata, attached: Mapping[str, bytes], where: str) -> Facts:
    labels = calibration = None
    if metadata.labels_file:
        content = _associated(metadata.labels_file, attached, "labels", where)
        labels = parse_labels(content, f"{where}: {metadata.labels_file}")
    if metadata.calibration_file:
        content = _associated(metadata.calibration_file, attached, "a score calibration", where)
        place = f"{where}: {metadata.calibration_file}"
        calibration = parse_calibration(content, metadata.calibration_of, metadata.calibration_default, place)
    picture = PictureInput(
        color=metadata.color, size=metadata.size, mean=metadata.mean or None, std=metadata.std or None
    )
    listens = metadata.rate_hz is not None
    return Facts(
        picture=picture,
        signal=Signal(rate_hz=metadata.rate_hz, channels=metadata.channels) if listens else None,
        labels=labels,
        threshold=metadata.threshold,
        calibration=calibration,
        outputs=tuple(": ".join(part for part in (one.name, one.description) if part) for one in metadata.outputs),
        about=metadata.about,
        origin="TFLite Metadata",
    )


def _associated(name: str, attached: Mapping[str, bytes], what: str, where: str) -> bytes:
    if name not in attached:
        raise ModelError(f"the metadata names {what} that is not in the file", where=where, expected=repr(name))
    return attached[name]


def _of_mltk(parameters: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> Facts:
    """MLTK feeds pixels as they are, to int8 inputs less 128, unless `samplewise_norm` says otherwise; `fe.*` is its
    audio front end. `detection_threshold` is out of 255.
    """
    labels = tuple(str(name) for name in parameters.get("classes") or ()) or None
    front = {key.removeprefix("fe."): value for key, value in parameters.items() if key.startswith("fe.")}
    rescale = parameters.get("samplewise_norm.rescale")
    picture, signal = PictureInput(), None
    obstacles: tuple[str, ...] = ()
    if front:
        rate, length = front.get("sample_rate_hz") or 16000, front.get("sample_length_ms") or 1000
        signal = Signal(rate_hz=float(rate), channels=1, samples=rate * length // 1000, features="micro", options=front)
    elif parameters.get("samplewise_norm.mean_and_std"):
        obstacles = ("each picture normalised by its own mean and standard deviation",)
    elif rescale:
        picture = PictureInput(mean=(0.0,), std=(1 / rescale,))
    elif rescale is not None and inputs and inputs[0].dtype.startswith("float"):
        picture = PictureInput(mean=(0.0,), std=(1.0,))
    elif rescale is not None and inputs and inputs[0].dtype == "int8" and len(inputs[0].scale) == 1:
        scale, zero_point = inputs[0].scale[0], (*inputs[0].zero_point, 0)[0]
        picture = PictureInput(mean=(float(zero_point + 128),), std=(1 / scale if scale else 1.0,))
    threshold = parameters.get("detection_threshold")
    about = {key: str(parameters[key]) for key in ("name", "date") if parameters.get(key)}
    return Facts(
        picture=picture,
        signal=signal,
        labels=labels,
        threshold=threshold / 255 if isinstance(threshold, int) and 0 < threshold <= 255 else None,
        about=about,
        obstacles=obstacles,
        origin="MLTK parameters",
    )


def _ultralytics(props: Mapping[str, Any], where: str) -> Facts:
    """`names` {0: "person", …}, `imgsz` [height, width], `task`: what `ultralytics` writes when it exports.

    Its models are trained on RGB in 0..1, letterboxed (classifiers: centre-cropped).
    """
    names, size, task = (_literal(props.get(key)) for key in ("names", "imgsz", "task"))
    labels = None
    if isinstance(names, Mapping) and names:
        by_class = {int(number): str(name) for number, name in names.items() if _is_class(number)}
        if sorted(by_class) != list(range(len(names))):
            raise ModelError("the class names in the metadata have gaps", where=where, expected="classes 0, 1, 2 …")
        labels = tuple(by_class[number] for number in range(len(by_class)))
    elif isinstance(names, list | tuple) and names:
        labels = tuple(str(name) for name in names)
    sides = (size, size) if isinstance(size, int) else size
    whole = isinstance(sides, list | tuple) and len(sides) == 2 and all(_is_side(side) for side in sides)
    picture = PictureInput(
        size=(sides[1], sides[0]) if whole else None,
        color="RGB",
        fit="crop" if task == "classify" else "letterbox",
        mean=(0.0,),
        std=(255.0,),
    )
    points = _literal(props.get("kpt_shape"))
    whole_points = isinstance(points, list | tuple) and len(points) == 2 and all(_is_side(side) for side in points)
    about = {key: str(props[key]) for key in ("description", "author", "version", "license", "date") if props.get(key)}
    return Facts(
        picture=picture,
        labels=check_labels(labels, where) if labels is not None else None,
        task=_TASKS.get(str(task)),
        decoder=_DECODERS.get(str(task)),
        decoder_options={"keypoints": points[0]} if whole_points and task == "pose" else {},
        about=about,
        origin="Ultralytics metadata",
        ultralytics=True,
    )


def _is_class(number: object) -> bool:
    return str(number).isdecimal() and len(str(number)) < 8


def _is_side(side: object) -> bool:
    return isinstance(side, int) and 1 <= side <= MAX_SIDE


def _literal(value: Any) -> Any:
    """ONNX keeps everything as text; Ultralytics writes Python literals."""
    if not isinstance(value, str) or len(value) > _LONGEST_LITERAL:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _mapping(content: bytes, where: str) -> Mapping[str, Any]:
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _literal(text)
    if not isinstance(value, Mapping):
        raise ModelError("the metadata cannot be read", where=where, expected="a JSON object or a Python dictionary")
    return value


def _attached(model: bytes, where: str) -> dict[str, bytes]:
    """The files that TFLite Metadata keeps in a zip archive behind the model. Small ones only: labels, descriptions."""
    tail = io.BytesIO(model)
    if not zipfile.is_zipfile(tail):
        return {}
    found: dict[str, bytes] = {}
    left = MAX_BYTES
    try:
        with zipfile.ZipFile(tail) as archive:
            for entry in archive.infolist()[:_MOST_ATTACHED]:
                if entry.file_size > left or entry.flag_bits & 1 or entry.compress_type not in SAFE_COMPRESSION:
                    continue
                with archive.open(entry) as file:
                    found[entry.filename] = file.read(left)
                left -= len(found[entry.filename])
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, ValueError, EOFError) as error:
        raise ModelError("the files attached to the model cannot be read", where=where, got=error) from error
    except (struct.error, IndexError) as error:  # a damaged directory
        raise ModelError("the files attached to the model cannot be read", where=where, got=error) from error
    return found
