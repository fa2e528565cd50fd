"""TFLite Metadata, read straight from the FlatBuffers.

Field numbers are those of `schema.fbs` (Model: buffers 4, metadata 6; Buffer: data 0, offset 1, size 2) and of
`metadata_schema.fbs` 1.5: ModelMetadata name 0, description 1, version 2, subgraph_metadata 3, author 4, license 5;
SubGraphMetadata inputs 2, outputs 3, output_tensor_groups 8; TensorMetadata name 0, description 1, content 3,
process_units 4, associated_files 6; AssociatedFile name 0, type 2, locale 3; Content content_properties 0 (union: type
0, value 1); ImageProperties color_space 0, default_size 1; AudioProperties sample_rate 0, channels 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from edgerun.errors import ModelError
from edgerun.models.flatbuffer import DAMAGED, Table, root

_NAME = "TFLITE_METADATA"
_NORMALISATION, _CALIBRATION, _THRESHOLDING = 1, 2, 3  # ProcessUnitOptions
_IMAGE, _AUDIO = 2, 4  # ContentProperties
_COLORS: dict[int, Literal["RGB", "GRAY"]] = {1: "RGB", 2: "GRAY"}  # ColorSpaceType
_AXIS_LABELS, _VALUE_LABELS, _CALIBRATION_FILE = 2, 3, 4  # AssociatedFileType
_TRANSFORMS: dict[int, Literal["identity", "log", "logit"]] = {0: "identity", 1: "log", 2: "logit"}
_MOST_TENSORS, _MOST_ENTRIES, _MOST_FILES, _MOST_CHANNELS = 1000, 1000, 100, 64
_ABOUT = {"name": 0, "description": 1, "version": 2, "author": 4, "license": 5}


class OutputMetadata(msgspec.Struct, frozen=True):
    """What the metadata says of one output: its name and what it is, in its maker's words; "" where silent."""

    name: str = ""
    description: str = ""


class TfliteMetadata(msgspec.Struct, frozen=True):
    """What the metadata says of the first input and of the outputs. Empty or None where it is silent.

    `mean` and `std` act on 0–255 pixels, before quantisation. `calibration_file` holds one line per class for the
    sigmoid of ScoreCalibrationOptions, applied to `calibration_of` the score; a class without a line gets
    `calibration_default`.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    color: Literal["RGB", "GRAY"] | None = None
    size: tuple[int, int] | None = None
    rate_hz: int | None = None
    channels: int | None = None
    labels_file: str | None = None
    threshold: float | None = None
    calibration_file: str | None = None
    calibration_of: Literal["identity", "log", "logit"] = "identity"
    calibration_default: float = 0.0
    outputs: tuple[OutputMetadata, ...] = ()
    about: Mapping[str, str] = {}


def read_buffer(model: bytes, name: str, where: str) -> bytes | None:
    """The metadata buffer called `name`, or None when the model carries none. Raises `ModelError`."""
    if model[4:8] != b"TFL3":
        return None
    try:
        return _find(model, name)
    except DAMAGED as error:
        raise _unreadable(where, error) from error


def read_tflite_metadata(model: bytes, where: str) -> TfliteMetadata | None:
    """The metadata of the model, or None when it carries none. Raises `ModelError` when it cannot be read."""
    content = read_buffer(model, _NAME, where)
    try:
        return _read(root(content)) if content is not None else None
    except DAMAGED as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> ModelError:
    return ModelError(
        "the model's metadata cannot be read", where=where, got=error, remedy="the file is damaged: fetch it again"
    )


def _find(model: bytes, name: str) -> bytes | None:
    table = root(model)
    for entry in table.tables(6, _MOST_ENTRIES):
        if entry.text(0) == name:
            buffer = table.tables(4)[entry.integer(1, "I")]
            data = buffer.raw(0)
            if data:
                return data
            start, size = buffer.integer(1, "Q"), buffer.integer(2, "Q")  # models over 2 GB keep buffers behind
            return model[start : start + size]
    return None


def _read(metadata: Table) -> TfliteMetadata:
    about = {key: metadata.text(field) for key, field in _ABOUT.items()}
    about = {key: text for key, text in about.items() if text}
    subgraphs = metadata.tables(3, _MOST_TENSORS)
    if not subgraphs:
        return TfliteMetadata(about=about)
    found: dict[str, object] = {}
    for tensor in subgraphs[0].tables(2, _MOST_TENSORS)[:1]:
        for options in _units(tensor, _NORMALISATION):
            found["mean"], found["std"] = options.floats(0, _MOST_CHANNELS), options.floats(1, _MOST_CHANNELS)
        found |= _content(tensor)
    outputs = []
    for tensor in subgraphs[0].tables(3, _MOST_TENSORS):
        outputs.append(OutputMetadata(tensor.text(0), tensor.text(1)))
        found = _of_output(tensor) | found
    return TfliteMetadata(outputs=tuple(outputs), about=about, **found)  # type: ignore[arg-type]


def _content(tensor: Table) -> dict[str, object]:
    """What the first input is: a picture or sound."""
    content = tensor.table(3)
    properties = content.table(1) if content is not None else None
    if content is None or properties is None:
        return {}
    kind = content.integer(0, "B")
    if kind == _IMAGE:
        size = properties.table(1)
        sides = (size.integer(0, "I"), size.integer(1, "I")) if size is not None else (0, 0)
        return {"color": _COLORS.get(properties.integer(0, "b")), "size": sides if all(sides) else None}
    if kind == _AUDIO:
        return {"rate_hz": properties.integer(0, "I") or None, "channels": properties.integer(1, "I") or None}
    return {}


def _of_output(tensor: Table) -> dict[str, object]:
    found: dict[str, object] = {}
    for options in _units(tensor, _THRESHOLDING):
        found["threshold"] = options.number(0, "f")
    for options in _units(tensor, _CALIBRATION):
        found["calibration_of"] = _TRANSFORMS.get(options.integer(0, "b"), "identity")
        found["calibration_default"] = float(options.number(1, "f") or 0.0)
    for file in tensor.tables(6, _MOST_FILES):
        kind = file.integer(2, "b")
        if kind in (_AXIS_LABELS, _VALUE_LABELS):
            found.setdefault("labels_file", file.text(0))
        elif kind == _CALIBRATION_FILE:
            found.setdefault("calibration_file", file.text(0))
    return found


def _units(tensor: Table, kind: int) -> list[Table]:
    """The options of a tensor's process units that are of this kind."""
    found = [unit.table(1) for unit in tensor.tables(4, _MOST_FILES) if unit.integer(0, "B") == kind]
    return [options for options in found if options is not None]
