"""A bundle with everything filled in that the model file itself tells; what it does not tell is asked for by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from edgerun.errors import ModelError
from edgerun.models.bundle import Bundle
from edgerun.models.facts import Facts, read_facts
from edgerun.models.manifest import PictureInput
from edgerun.types import TensorSpec

_log = logging.getLogger(__name__)

DEFAULT_THRESHOLD = {"detect": 0.5, "classify": 0.0}
"""Lowest score reported where nothing says: detectors 0.5; a classification is always its best classes."""

_YOLO_STRIDES = (8, 16, 32)
_TASK_OF = {"classify": "classify", "ssd-anchors": "detect", "tflite-detection-postprocess": "detect", "yolo": "detect"}


def complete(
    bundle: Bundle,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    decoder: str | None = None,
    labels: Sequence[str] | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
) -> Bundle:
    """`bundle` with its picture input, decoder, task, labels and threshold known.

    Arguments win over the manifest, the manifest over the file's metadata, that over shapes and types. `inputs` and
    `outputs` are the engine's specs. What has to be assumed is logged as one warning. Raises `ModelError` that names
    the flag or manifest key to give for what cannot be known.
    """
    spec = _picture_spec(bundle, inputs)
    facts = read_facts(bundle.main, bundle.name) if bundle.bare else Facts()
    assumed: list[str] = []
    layout, width, height, channels = _shape(bundle, spec, facts)
    kind = decoder or bundle.decoder or _decoder(bundle, facts, outputs, (width, height))
    task = bundle.task or facts.task or _TASK_OF.get(kind)
    picture = _picture(bundle, facts, spec, kind, channels, assumed)
    picture = msgspec.structs.replace(picture, name=spec.name, size=(width, height), layout=layout)
    if assumed:
        _log.warning(
            "model %s does not say all of how it wants pictures; assumed: %s (a bundle's manifest.json can say it)",
            bundle.name,
            "; ".join(assumed),
        )
    names = tuple(labels) if labels is not None else bundle.labels if bundle.labels is not None else facts.labels
    if names is None:
        names = ()
        _log.warning("model %s has no label names: classes are reported by number; give --labels FILE", bundle.name)
    levels = (threshold, bundle.threshold, facts.threshold, DEFAULT_THRESHOLD.get(task or "", 0.5))
    return msgspec.structs.replace(
        bundle,
        task=task,
        picture=picture,
        decoder=kind,
        decoder_options=bundle.decoder_options if kind == bundle.decoder else {},
        labels=names,
        threshold=next(level for level in levels if level is not None),
        top_k=bundle.top_k if top_k is None else top_k,
    )


def _picture_spec(bundle: Bundle, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """The model's picture input: its only one, which must have four sides."""
    got = ", ".join(f"{spec.name} {_sides(spec.shape)} {spec.dtype}" for spec in inputs) or "no inputs"
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ModelError(
            "this is not a model for pictures",
            where=bundle.name,
            expected="one input 1×height×width×channels or 1×channels×height×width",
            got=got,
            remedy="this version runs picture models: detectors and classifiers",
        )
    wanted = bundle.picture.name
    if wanted is not None and wanted != inputs[0].name and not bundle.bare:
        raise ModelError(
            "the manifest describes another input",
            where=bundle.name,
            expected=f"inputs[0].name {inputs[0].name!r}",
            got=wanted,
        )
    return inputs[0]


def _shape(bundle: Bundle, spec: TensorSpec, facts: Facts) -> tuple[Literal["NHWC", "NCHW"], int, int, int]:
    """Layout, width, height and channels: the channels are where a side is 1 or 3."""
    shape = spec.shape
    layout = bundle.picture.layout
    if layout is None:
        last, second = shape[3] in (1, 3), shape[1] in (1, 3)
        if last == second:
            raise ModelError(
                "where the input keeps its channels cannot be told from its shape",
                where=bundle.name,
                expected='inputs[0].layout "NHWC" or "NCHW" in a manifest.json',
                got=_sides(shape),
            )
        layout = "NHWC" if last else "NCHW"
    height, width, channels = (shape[1], shape[2], shape[3]) if layout == "NHWC" else (shape[2], shape[3], shape[1])
    size = bundle.picture.size or facts.picture.size
    if (width < 1 or height < 1) and size is None:
        raise ModelError(
            "the input's size is open",
            where=bundle.name,
            expected="inputs[0].size [width, height] in a manifest.json, or a model exported with a fixed size",
            got=_sides(shape),
        )
    if size is not None:
        width, height = (stated if stated > 0 else given for stated, given in zip((width, height), size, strict=True))
    return layout, width, height, channels


def _picture(
    bundle: Bundle, facts: Facts, spec: TensorSpec, kind: str, channels: int, assumed: list[str]
) -> PictureInput:
    stated, found = bundle.picture, facts.picture
    color = stated.color or found.color
    if color is None:
        color = "GRAY" if channels == 1 else "RGB"
        if color == "RGB":
            assumed.append("colour order RGB")
    fit = stated.fit or found.fit
    if fit is None:
        fit = "letterbox" if kind == "yolo" else "stretch"
        assumed.append("letterboxed" if kind == "yolo" else "stretched to the input's size")
    if (stated.mean is None) != (stated.std is None):
        raise ModelError(
            "mean without std or std without mean", where=bundle.name, expected="both in inputs[0], or none"
        )
    mean, std = (stated.mean, stated.std) if stated.mean is not None else (found.mean, found.std)
    if mean is None or std is None:
        mean, std = _normalisation(bundle, spec, kind, assumed)
    return PictureInput(color=color, fit=fit, mean=mean, std=std)


def _normalisation(
    bundle: Bundle, spec: TensorSpec, kind: str, assumed: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std where nothing states them.

    8-bit inputs: pixels fill the input's range as they are (uint8) or less 128 (int8), as in TensorFlow Lite's
    examples; expressed through the quantisation so that quantising gives them back. Float inputs of YOLO: 0..1, as
    every exporter of that family has it. Any other float input could want 0..1, -1..1 or ImageNet's mean, which only
    its maker knows.
    """
    if spec.dtype in ("uint8", "int8"):
        offset = 128 if spec.dtype == "int8" else 0
        assumed.append("pixels less 128" if offset else "raw pixels 0–255")
        if len(spec.scale) == 1:
            return (float(spec.zero_point[0] + offset),), (1 / spec.scale[0],)
        return (float(offset),), (1.0,)
    if kind == "yolo":
        assumed.append("pixels / 255 (0..1)")
        return (0.0,), (255.0,)
    raise ModelError(
        "how pixels are normalised for this model is not known",
        where=bundle.name,
        expected="metadata in the file, or a bundle whose manifest.json has inputs[0].mean and inputs[0].std",
        got=f"a {spec.dtype} input {_sides(spec.shape)} without metadata",
        remedy="pixel values become (pixel - mean) / std: [0] and [255] for models trained on 0..1, [127.5] and "
        "[127.5] for -1..1",
    )


def _decoder(bundle: Bundle, facts: Facts, outputs: Sequence[TensorSpec], size: tuple[int, int]) -> str:
    """The decoder that the outputs leave no doubt about."""
    shapes = [spec.shape for spec in outputs]
    if facts.ultralytics and facts.task == "detect":
        return "yolo"
    if len(outputs) == 4 and bundle.format == "tflite" and _is_postprocess(outputs):
        return "tflite-detection-postprocess"
    if len(shapes) == 1 and _is_yolo(shapes[0], size):
        return "yolo"
    if len(shapes) == 1 and facts.task in (None, "classify"):
        long = [side for side in shapes[0] if side != 1]
        if len(long) == 1 and long[0] > 1 and shapes[0][0] == 1 and len(shapes[0]) in (2, 4):
            return "classify"
    raise ModelError(
        "how to read the outputs cannot be told from the model",
        where=bundle.name,
        expected="--decoder KIND, or decoder in the config: classify, yolo, ssd-anchors, tflite-detection-postprocess",
        got=", ".join(f"{spec.name} {_sides(spec.shape)} {spec.dtype}" for spec in outputs),
        remedy=f"pass --decoder with the kind that fits; this model's task is {facts.task}" if facts.task else None,
    )


def _is_postprocess(outputs: Sequence[TensorSpec]) -> bool:
    """Four outputs named after the op, or boxes 1×N×4, classes and scores 1×N and one count, in any order."""
    if all("TFLite_Detection_PostProcess" in spec.name for spec in outputs):
        return True
    ranks = sorted((len(spec.shape), int(np.prod(spec.shape))) for spec in outputs)
    lines = [spec.shape for spec in outputs if len(spec.shape) == 2]
    boxes = [spec.shape for spec in outputs if len(spec.shape) == 3]
    return (
        len(boxes) == 1
        and boxes[0][0] == 1
        and boxes[0][2] == 4
        and lines.count((1, boxes[0][1])) >= 2
        and ranks[0][1] == 1
    )


def _is_yolo(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """One output with as many rows as the three grids have cells (v8, v11) or three times as many (v5)."""
    if len(shape) != 3 or shape[0] != 1 or any(side % _YOLO_STRIDES[-1] for side in size):
        return False
    cells = sum((size[0] // stride) * (size[1] // stride) for stride in _YOLO_STRIDES)
    return (shape[1] in (cells, 3 * cells) and shape[2] > 4) or (shape[2] == cells and shape[1] > 4)


def _sides(shape: Sequence[int]) -> str:
    return "×".join("?" if side < 0 else str(side) for side in shape) if shape else "unspecified"
