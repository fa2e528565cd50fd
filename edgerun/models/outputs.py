"""Which decoder a model's outputs leave no doubt about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerun.registry import BUILTIN, kinds
from edgerun.types import TensorSpec

_YOLO_STRIDES = (8, 16, 32)

TASK_OF = {
    "classify": "classify", "ssd-anchors": "detect", "tflite-detection-postprocess": "detect", "yolo": "detect",
    "blazeface": "detect", "centernet": "detect", "grid": "detect", "yolo-pose": "pose", "pose": "pose",
    "segment": "segment",
    "embedding": "embed", "anomaly": "anomaly", "keyword": "keyword", "vad": "vad", "regress": "regress",
}  # fmt: skip
"""Decoder → the task it does."""


def is_decoder(kind: str) -> bool:
    """Whether this edgerun has a decoder of that kind, its own or a plug-in."""
    return kind in BUILTIN["decoder"] or kind in kinds("decoder")


def read_by(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    size: tuple[int, int],
    task: str | None,
    labels: int | None,
) -> str | None:
    """The decoder that fits the outputs, or None where none does or two might.

    `size` (width, height) is that of the picture input, (0, 0) where the model takes none; `labels` how many classes
    have names, None where that is not known.
    """
    shapes = [spec.shape for spec in outputs]
    picture = size != (0, 0)
    if picture and len(outputs) == 4 and _is_postprocess(outputs):
        return "tflite-detection-postprocess"
    if len(shapes) != 1:
        return None
    if picture and task in (None, "detect") and _is_yolo(shapes[0], size):
        return "yolo"
    same = len(inputs) == 1 and shapes[0] == inputs[0].shape  # rebuilt; of a picture, it may be a mask as well
    if picture and task in (None, "segment") and _is_mask(shapes[0], size) and not (same and task is None):
        return "segment"
    if same and (task == "anomaly" or (task is None and not picture)):
        return "anomaly"
    return "classify" if task in (None, "classify", "keyword") and _is_scores(shapes[0], labels) else None


def _is_scores(shape: tuple[int, ...], labels: int | None) -> bool:
    """One score per class: 1×N, or 1×1×1×N in any order; as many as there are names, or one less (a background)."""
    long = [side for side in shape[1:] if side != 1]
    if len(shape) not in (2, 4) or shape[0] not in (1, -1) or len(long) != 1 or long[0] < 2:
        return False
    return labels is None or labels - long[0] in (0, 1)


def _is_mask(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """A score per pixel and class, at the input's size or an integer fraction of it."""
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
        return False
    for height, width, classes in ((shape[1], shape[2], shape[3]), (shape[2], shape[3], shape[1])):
        if (
            classes > 1
            and min(height, width) >= 8
            and any(_shrunk(size, by) == (width, height) for by in (1, 2, 4, 8, 16))
        ):
            return True
    return False


def _shrunk(size: tuple[int, int], by: int) -> tuple[int, int]:
    return -(-size[0] // by), -(-size[1] // by)


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
