"""YOLO heads that need no suppression (v10, v26, and exports with `nms=True`): the model's own best boxes, in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgerun.decode.answer import detections, keypoints_in_frame, to_frame
from edgerun.decode.tensors import Buffer, dequantise, not_numbers, shape_text, wrong_size
from edgerun.decode.yolo_units import Units, in_pixels, known_units
from edgerun.errors import FrameError
from edgerun.types import Answer, Placement, Tensor, TensorSpec

ROW = 6
"""x0, y0, x1, y1, score, class."""


class Rows(NamedTuple):
    """Where such a head lies: which output, how many rows (0: open), how many keypoints each row has."""

    output: int
    length: int
    points: int


def find_rows(outputs: Sequence[TensorSpec], points: int) -> list[Rows]:
    """The outputs that are `1×N×6`, with three more columns for each of `points` keypoints."""
    found = []
    for at, spec in enumerate(outputs):
        if len(spec.shape) in (2, 3) and spec.shape[-1] == ROW + 3 * points and spec.shape[:-2] in ((), (1,), (-1,)):
            found.append(Rows(at, max(spec.shape[-2], 0), points))
    return found


class EndToEnd:
    """Rows (x0, y0, x1, y1, score, class, then x, y, score of each keypoint) → detections.

    Wang et al., *YOLOv10: Real-Time End-to-End Object Detection* (2024), section 3.1; Ultralytics' `v10Detect` and
    `Detect.postprocess`. Scores are probabilities. Rows may be in any order; those past the last object have a score
    of 0. `names`: of the classes, empty when they have none. Only rows that reach the threshold are looked at closely.
    """

    def __init__(
        self,
        rows: Rows,
        spec: TensorSpec,
        size: tuple[int, int],
        units: Units,
        threshold: float,
        names: Sequence[str],
        max_detections: int,
        where: str,
    ) -> None:
        self._rows, self._spec, self._size, self._where = rows, spec, size, where
        # What a quantised output can hold tells nothing of its boxes: the class numbers share their scale.
        self._units = known_units(units, TensorSpec(spec.name, spec.shape, "float32"), size, where)
        self._threshold, self._names, self._most = np.float32(threshold), names, max_detections
        self._real = Buffer()

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """Raises `FrameError` for scores, boxes or classes that cannot be such."""
        raw = outputs[self._rows.output]
        columns = ROW + 3 * self._rows.points
        count = self._rows.length or raw.size // columns
        if raw.size != count * columns:
            raise wrong_size(raw, self._spec, shape_text((1, self._rows.length or -1, columns)), self._where)
        rows = dequantise(raw, self._spec, self._real).reshape(-1, columns)
        scores = rows[:, 4]
        if count and not np.isfinite(scores.max()):
            raise not_numbers("scores", self._spec, self._where)
        found = np.flatnonzero(scores >= self._threshold)
        if not len(found):
            return Answer(detections=())
        pixels = in_pixels(self._units, rows[:, 2], rows[:, 3], self._spec, self._where)
        best = rows[found[np.argsort(-scores[found], kind="stable")[: self._most]]].astype(np.float64)
        self._check(best)
        divide = np.array(self._size if pixels else (1, 1), np.float64)
        placed, whole = to_frame(best[:, :4] / (*divide, *divide), placement)
        kept = np.flatnonzero(whole)
        best = best[kept]
        points = best[:, ROW:].reshape(len(best), self._rows.points, 3)
        points[..., :2] /= divide
        return detections(
            placed[kept],
            best[:, 4].clip(0, 1).astype(np.float32),
            best[:, 5].astype(np.intp),
            self._names,
            keypoints_in_frame(points, placement) if self._rows.points else (),
        )

    def _check(self, best: NDArray[np.float64]) -> None:
        if not np.isfinite(best).all():
            raise not_numbers("boxes", self._spec, self._where)
        if best[0, 4] > 1.02:  # quantisation may round a probability of 1 up by part of a quantum
            raise FrameError(
                f"scores of output {self._spec.name} are not probabilities",
                where=self._where,
                reason="decode",
                expected="0..1",
                got=f"{best[0, 4]:g}",
                remedy="the rows may have another order than x0, y0, x1, y1, score, class: choose another decoder",
            )
        classes = best[:, 5]
        wrong = (classes < 0) | (classes != np.floor(classes)) | (classes >= (len(self._names) or 2**31))
        if wrong.any():
            raise FrameError(
                "the model reports a class that no label names",
                where=self._where,
                reason="decode",
                expected=f"whole numbers 0..{len(self._names) - 1}" if self._names else "whole numbers from 0",
                got=f"{classes[wrong][0]:g}",
                remedy="give the label file the model was trained with",
            )
