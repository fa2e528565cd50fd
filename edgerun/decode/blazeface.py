"""BlazeFace and its kin (MediaPipe's short-range and full-range faces, palms): boxes and keypoints against anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.decode.answer import class_names, detections, keypoints_in_frame, to_frame
from edgerun.decode.nms import best_order
from edgerun.decode.tensors import Buffer, ScoreMap, dequantise, describe, not_numbers, shape_text, wrong_size
from edgerun.errors import ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor, TensorSpec

_WHERE = "decoder blazeface"
_Count = Annotated[int, Meta(ge=1)]
_Scores = NDArray[np.float32]
_Boxes = NDArray[np.float64]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The anchors' grids and what counts as one face; the defaults are those of `face_detection_short_range`.

    `strides`: of each layer of anchors, in pixels of the input; layers of the same stride share a grid. `per_cell`:
    anchors that a layer puts into each cell. The short range and the palms have strides 8, 16, 16, 16 with 2 each, the
    back camera's model 16, 32, 32, 32 with 2, the full range one layer of stride 4 with 1. `iou`: from which overlap on
    predictions are blended into one. `input_size` (width, height): where the model does not state it.
    """

    strides: tuple[_Count, ...] = (8, 16, 16, 16)
    per_cell: _Count = 2
    iou: Annotated[float, Meta(ge=0, le=1)] = 0.3
    max_detections: _Count = 100
    max_candidates: _Count = 1000
    input_size: tuple[_Count, _Count] | None = None


def anchors(size: tuple[int, int], strides: Sequence[int], per_cell: int) -> _Boxes:
    """N×2 centres (x, y) in 0..1 of an input of `size` (width, height): grid by grid, row by row, cell by cell.

    As MediaPipe's `ssd_anchors_calculator` lays them out with `fixed_anchor_size` (then all anchors are as large as the
    input) and `anchor_offset` ½; layers of equal stride that follow each other are one grid with the anchors of all.
    """
    grids = []
    layer = 0
    while layer < len(strides):
        same = layer
        while same < len(strides) and strides[same] == strides[layer]:
            same += 1
        columns, rows = (-(-side // strides[layer]) for side in size)
        grid = np.empty((rows, columns, (same - layer) * per_cell, 2))
        grid[..., 0] = ((np.arange(columns) + 0.5) / columns)[None, :, None]
        grid[..., 1] = ((np.arange(rows) + 0.5) / rows)[:, None, None]
        grids.append(grid.reshape(-1, 2))
        layer = same
    return np.concatenate(grids) if grids else np.empty((0, 2))


class BlazeFaceDecoder:
    """Regressors `1×N×(4+2K)` and logits `1×N×1` → detections with K keypoints, overlapping predictions blended.

    A row is (cx, cy, w, h, x1, y1 … xK, yK) in pixels of the input, centres and points as seen from the anchor's
    centre; score = sigmoid(logit) (Bazarevsky et al., *BlazeFace*, 2019; MediaPipe's
    `tensors_to_detections_calculator` with `reverse_output_order`). Instead of suppressing them, predictions that
    overlap the best one are averaged with it, weighted by their scores (the paper's section 3.3, *tie resolution*).
    A face's keypoints are right eye, left eye, nose tip, mouth, right ear, left ear, with the face's own score.
    Without labels the one class is called "face". Only what reaches the threshold is decoded and allocated.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._options = options
        self._size = options.input_size or context.input_size
        if min(self._size) <= 0:
            raise ModelError(
                "the size of the model's input is not known, and its anchors depend on it",
                where=_WHERE,
                expected="input_size [width, height] in the decoder's options",
                got=f"{self._size[0]}×{self._size[1]}",
            )
        self._anchors = anchors(self._size, options.strides, options.per_cell)
        self._boxes_at, self._scores_at = _roles(context.outputs, len(self._anchors))
        self._boxes, self._scores = context.outputs[self._boxes_at], context.outputs[self._scores_at]
        self._names = class_names(context.labels or ("face",), 1, _WHERE)
        self.labels = self._names
        spec = self._scores
        if len(spec.scale) > 1:
            raise _not_ours(context.outputs, len(self._anchors))
        self._map = ScoreMap(spec, context.threshold, "sigmoid", _WHERE)
        self._codes = Buffer()

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; the cost grows with what reaches the threshold."""
        raw = outputs[self._scores_at]
        if raw.size != len(self._anchors):
            raise wrong_size(raw, self._scores, shape_text((1, len(self._anchors), 1)), _WHERE)
        found, scores = self._map.reaching(self._map.comparable(raw.reshape(-1)), self._map.below)
        if not len(found):
            return Answer(detections=())
        boxes, points = self._decode_rows(outputs[self._boxes_at], found)
        one = np.zeros(len(found), np.intp)
        order = best_order(boxes.astype(np.float32), scores, one, self._options.max_candidates)
        boxes, points, scores = self._blend(boxes[order], points[order], scores[order])
        placed, whole = to_frame(boxes, placement)
        kept = np.flatnonzero(whole)
        figures = np.empty((len(kept), points.shape[1], 3))
        figures[..., :2] = points[kept]
        figures[..., 2] = scores[kept, None]
        return detections(placed[kept], scores[kept], one[kept], self._names, keypoints_in_frame(figures, placement))

    def _decode_rows(self, raw: Tensor, rows: NDArray[np.intp]) -> tuple[_Boxes, _Boxes]:
        """Boxes K×4 (x0, y0, x1, y1) and points K×P×2 of the anchors `rows`, in 0..1 of the input."""
        width = self._boxes.shape[-1]
        if raw.size != len(self._anchors) * width:
            raise wrong_size(raw, self._boxes, shape_text((1, len(self._anchors), width)), _WHERE)
        if len(self._boxes.scale) < 2:
            codes = dequantise(raw.reshape(-1, width)[rows], self._boxes)
        else:
            codes = dequantise(raw, self._boxes, self._codes).reshape(-1, width)[rows]
        if not np.isfinite(codes).all():
            raise not_numbers("boxes", self._boxes, _WHERE)
        pairs = codes.reshape(len(rows), -1, 2) / self._size
        centre = self._anchors[rows]
        middle, half = centre + pairs[:, 0], pairs[:, 1] / 2
        return np.concatenate((middle - half, middle + half), axis=1), pairs[:, 2:] + centre[:, None]

    def _blend(self, boxes: _Boxes, points: _Boxes, scores: _Scores) -> tuple[_Boxes, _Boxes, _Scores]:
        """Best first: each is averaged with what overlaps it by more than `iou`, which is then used up."""
        left = np.arange(len(boxes))
        areas = (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
        out_boxes, out_points = [], []
        best: list[int] = []
        while len(left) and len(best) < self._options.max_detections:
            top = left[0]
            low = np.maximum(boxes[left, :2], boxes[top, :2])
            high = np.minimum(boxes[left, 2:], boxes[top, 2:])
            inner = (high - low).clip(0).prod(axis=1)
            union = areas[left] + areas[top] - inner
            together = inner > self._options.iou * union
            together[0] = True
            group = left[together]
            weights = scores[group].astype(np.float64)
            weights /= weights.sum()
            out_boxes.append(weights @ boxes[group])
            out_points.append(np.tensordot(weights, points[group], 1))
            best.append(int(top))
            left = left[~together]
        return np.array(out_boxes), np.array(out_points), scores[best]


def _roles(outputs: Sequence[TensorSpec], count: int) -> tuple[int, int]:
    """Which output holds the regressors, and which the logits. Raises `ModelError`."""
    rows = [(at, spec.shape[-1]) for at, spec in enumerate(outputs) if spec.shape[-2:-1] in ((count,), (-1,))]
    boxes = [at for at, width in rows if width >= 4 and width % 2 == 0]
    scores = [at for at, width in rows if width == 1]
    if len(boxes) != 1 or len(scores) != 1:
        raise _not_ours(outputs, count)
    return boxes[0], scores[0]


def _not_ours(outputs: Sequence[TensorSpec], count: int) -> ModelError:
    return ModelError(
        "the outputs are not those of BlazeFace",
        where=_WHERE,
        expected=f"1×{count}×(4 + 2 per keypoint) and 1×{count}×1 with one scale (for {count} anchors)",
        got=describe(outputs),
        remedy="set strides, per_cell and input_size as the model was trained, or use another decoder",
    )
