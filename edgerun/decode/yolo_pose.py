"""YOLO pose models (v8-pose, v11-pose and the end-to-end v26-pose): people with their keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.decode.answer import Limits, class_names, detections, keypoints_in_frame, without_doubles
from edgerun.decode.tensors import Buffer, ScoreMap, dequantise, describe, not_numbers, wrong_size
from edgerun.decode.yolo_end import ROW, EndToEnd, find_rows
from edgerun.decode.yolo_units import Units, in_pixels, input_size, known_units
from edgerun.errors import ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor, TensorSpec

_WHERE = "decoder yolo-pose"
_Count = Annotated[int, Meta(ge=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`keypoints` of each figure: 17 for people (COCO's: nose, eyes, ears, shoulders, elbows, wrists, hips, knees,
    ankles, left before right). `box_units` as of the decoder `yolo`. Without labels the one class is "person".
    """

    keypoints: _Count = 17
    box_units: Units = "auto"
    iou: Annotated[float, Meta(ge=0, le=1)] = 0.7
    max_detections: _Count = 300
    max_candidates: _Count = 1000


class YoloPoseDecoder:
    """`1×(4+C+3K)×A` or `1×A×(4+C+3K)`, or rows `1×N×(6+3K)` → detections with K keypoints.

    An anchor is (cx, cy, w, h, C class scores, then x, y, score of each keypoint), everything activated by the model
    (Maji et al., *YOLO-Pose*, 2022; Ultralytics' `Pose` head); rows are (x0, y0, x1, y1, score, class, keypoints) and
    are not suppressed any further (`yolo_end.EndToEnd`). Keypoints have the units of the boxes.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        names = context.labels or ("person",)
        self._points, self._size = options.keypoints, input_size(context)
        self._limits = Limits(options.iou, options.max_candidates, options.max_detections)
        self._end: EndToEnd | None = None
        channels = 4 + len(names) + 3 * options.keypoints
        flat = _find(context.outputs, channels)
        rows = find_rows(context.outputs, options.keypoints)
        if len(flat) > 1 or (not flat and len(rows) != 1):
            raise _unreadable(context, options.keypoints, len(names))
        self.labels = self._names = class_names(names, len(names), _WHERE)
        # Six columns before the keypoints are those of two classes too: rows are few, anchors are many.
        if rows and (not flat or 0 < rows[0].length <= options.max_detections):
            spec = context.outputs[rows[0].output]
            size, most = self._size, options.max_detections
            self._end = EndToEnd(rows[0], spec, size, options.box_units, context.threshold, names, most, _WHERE)
            return
        self._at, self._anchors, self._last = flat[0]
        spec = context.outputs[self._at]
        self._stated, self._channels = spec, channels
        if len(spec.scale) > 1:  # nothing can be compared before it is dequantised
            spec = TensorSpec(spec.name, spec.shape, "float32")
        self._spec = spec
        self._map = ScoreMap(spec, context.threshold, "none", _WHERE)
        self._units = known_units(options.box_units, spec, self._size, _WHERE)
        self._real, self._best = Buffer(), Buffer()

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; the cost is one pass over the scores, and then grows with what reaches the threshold."""
        if self._end is not None:
            return self._end.decode(outputs, placement)
        rows = self._rows(outputs[self._at])
        scored = rows[4 : 4 + len(self._names)]
        best = np.max(scored, axis=0, out=self._best.of(rows.shape[1:], rows.dtype))
        found, scores = self._map.reaching(self._map.comparable(best), self._map.below)
        if not len(found):
            return Answer(detections=())
        classes = scored[:, found].argmax(axis=0)
        real = dequantise(rows[:, found], self._spec).T.astype(np.float64)
        if not np.isfinite(real).all():
            raise not_numbers("boxes or keypoints", self._stated, _WHERE)
        points = real[:, 4 + len(self._names) :].reshape(len(found), self._points, 3)
        if in_pixels(self._units, rows[0], rows[1], self._spec, _WHERE):
            real[:, :4] /= (*self._size, *self._size)
            points[..., :2] /= self._size
        return self._answer(real[:, :4], scores, classes, points, placement)

    def _answer(
        self,
        centred: NDArray[np.float64],
        scores: NDArray[np.float32],
        classes: NDArray[np.intp],
        points: NDArray[np.float64],
        placement: Placement,
    ) -> Answer:
        half = centred[:, 2:] / 2
        corners = np.concatenate((centred[:, :2] - half, centred[:, :2] + half), axis=1)
        kept, placed = without_doubles(corners, scores, classes, placement, self._limits)
        figures = keypoints_in_frame(points[kept], placement)
        return detections(placed, scores[kept], classes[kept], self._names, figures)

    def _rows(self, raw: Tensor) -> Tensor:
        """The output as channels × anchors."""
        anchors = self._anchors or raw.size // self._channels
        if raw.size != anchors * self._channels:
            sides = (self._anchors or "A", self._channels) if self._last else (self._channels, self._anchors or "A")
            raise wrong_size(raw, self._stated, f"1×{sides[0]}×{sides[1]}", _WHERE)
        if self._spec is not self._stated:
            raw = dequantise(raw, self._stated, self._real)
        return raw.reshape(anchors, self._channels).T if self._last else raw.reshape(self._channels, anchors)


def _find(outputs: Sequence[TensorSpec], channels: int) -> list[tuple[int, int, bool]]:
    """Every output with as many channels: (output, anchors or 0 where open, whether the channels come last)."""
    found = []
    for at, spec in enumerate(outputs):
        if len(spec.shape) in (2, 3) and spec.shape[:-2] in ((), (1,), (-1,)):
            for last in (True, False):
                anchors, sides = spec.shape[-2:] if last else spec.shape[:-3:-1]
                if sides == channels:
                    found.append((at, max(anchors, 0), last))
    return found


def _unreadable(context: DecoderContext, points: int, classes: int) -> ModelError:
    head, row = 4 + classes + 3 * points, ROW + 3 * points
    return ModelError(
        "the outputs are not those of a YOLO pose model",
        where=_WHERE,
        expected=f"one output 1×{head}×A or 1×A×{head} (4 + {classes} classes + 3 × {points} keypoints), or 1×N×{row}",
        got=describe(context.outputs),
        remedy="set keypoints in the decoder's options, and give the labels the model was trained with",
    )
