"""What all detection decoders end with: boxes of the frame, names of classes, `Detection`s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgerun.decode.nms import suppress
from edgerun.errors import ModelError
from edgerun.types import Answer, Detection, Keypoints, Placement


def class_names(labels: Sequence[str], classes: int, where: str, remedy: str | None = None) -> tuple[str, ...]:
    """The name of each class: its label, or its index as text when there are no labels at all.

    Raises `ModelError` when there are fewer labels than classes, or more: then they are another model's, or shifted.
    """
    if not labels:
        return tuple(str(index) for index in range(classes))
    if len(labels) != classes:
        raise ModelError(
            f"there are {'fewer' if len(labels) < classes else 'more'} labels than the model has classes",
            where=where,
            expected=f"{classes} labels",
            got=f"{len(labels)}",
            remedy=remedy or "give the label file the model was trained with: one line per class, in the model's order",
        )
    return tuple(labels)


def to_frame(boxes: NDArray[np.float64], placement: Placement) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes in 0..1 of the model's input → 0..1 of the frame, cut at its border.

    `boxes` is K×4 (x0, y0, x1, y1), may reach beyond the picture or to infinity, and holds no NaN. Returns K×4
    float32 and which of them still have an area.
    """
    scale = (placement.scale_x, placement.scale_y, placement.scale_x, placement.scale_y)
    shift = (placement.shift_x, placement.shift_y, placement.shift_x, placement.shift_y)
    placed = (boxes * scale + shift).clip(0.0, 1.0).astype(np.float32)
    return placed, (placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1])


class Limits(NamedTuple):
    """Of a detector without its own NMS: the IoU above which a box is another's double, and how many are looked at and
    reported.
    """

    iou: float
    max_candidates: int
    max_detections: int


def strongest(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    placement: Placement,
    names: Sequence[str],
    limits: Limits,
) -> Answer:
    """K×4 boxes in 0..1 of the model's input → the answer: placed in the frame, doubles suppressed, strongest first."""
    kept, placed = without_doubles(boxes, scores, classes, placement, limits)
    return detections(placed, scores[kept], classes[kept], names)


def without_doubles(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    placement: Placement,
    limits: Limits,
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Which of K×4 boxes in 0..1 of the model's input stay, strongest first, and those boxes in 0..1 of the frame."""
    placed, whole = to_frame(boxes, placement)
    if whole.all():
        kept = suppress(placed, scores, classes, **limits._asdict())
        return kept, placed[kept]
    inside = np.flatnonzero(whole)
    kept = inside[suppress(placed[inside], scores[inside], classes[inside], **limits._asdict())]
    return kept, placed[kept]


def detections(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    names: Sequence[str],
    points: Sequence[Keypoints] = (),
) -> Answer:
    """K×4 boxes of the frame with scores and classes, in their order; `names[class]` is the label.

    `points` has the keypoints of each, or is empty. A class beyond `names` is not expected here; with no names at all
    the label is the class as text.
    """
    found = zip(boxes.tolist(), scores.tolist(), classes.tolist(), points or ((),) * len(boxes), strict=True)
    detections = [
        Detection(
            names[index] if names else str(index),
            index,
            score,
            (box[0], box[1], box[2], box[3]),
            keypoints=keypoints,
        )
        for box, score, index, keypoints in found
    ]
    return Answer(detections=tuple(detections))


def keypoints_in_frame(points: NDArray[np.float64], placement: Placement) -> tuple[Keypoints, ...]:
    """K×P×3 (x, y in 0..1 of the model's input, score) → those of each figure in 0..1 of the frame.

    A point that lies outside the frame is moved to its border and has the score 0: nothing is known of it there. Scores
    are cut to 0..1. `points` may be infinite and holds no NaN.
    """
    placed = points.copy()
    placed[..., 0] = points[..., 0] * placement.scale_x + placement.shift_x
    placed[..., 1] = points[..., 1] * placement.scale_y + placement.shift_y
    outside = ((placed[..., :2] < 0) | (placed[..., :2] > 1)).any(axis=-1)
    placed[..., 2][outside] = 0.0
    np.clip(placed, 0.0, 1.0, out=placed)
    return tuple([tuple([(x, y, score) for x, y, score in figure]) for figure in placed.tolist()])
