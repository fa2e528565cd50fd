"""SSD detectors that leave their boxes encoded against anchors (TensorFlow Object Detection API)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.decode.answer import Limits, class_names, strongest
from edgerun.decode.tensors import (
    Buffer,
    ScoreMap,
    dequantise,
    describe,
    match,
    not_numbers,
    shape_text,
    softmax,
    wrong_size,
)
from edgerun.errors import ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor, TensorSpec

_WHERE = "decoder ssd-anchors"
_Share = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The anchors the model was trained with; the defaults are those of `ssd_mobilenet_v2` at 300×300 (1917 anchors).

    `background` is the class that means nothing is there, None where the model has none. `boxes_output` and
    `scores_output` name the tensors where their shapes do not tell (a model with four classes).
    """

    num_layers: _Count = 6
    min_scale: float = 0.2
    max_scale: float = 0.95
    aspect_ratios: tuple[Annotated[float, Meta(gt=0)], ...] = (1.0, 2.0, 0.5, 3.0, 0.3333)
    feature_sizes: tuple[_Count, ...] = (19, 10, 5, 3, 2, 1)
    reduce_boxes_in_lowest_layer: bool = True
    interpolated_scale_aspect_ratio: float = 1.0
    box_scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score: Literal["sigmoid", "none", "softmax"] = "sigmoid"
    background: int | None = 0
    iou: _Share = 0.6
    max_detections: _Count = 100
    max_candidates: _Count = 1000
    boxes_output: str = ""
    scores_output: str = ""


def anchors(options: Options) -> NDArray[np.float64]:
    """N×4 (cy, cx, h, w) in 0..1 of the input: layer by layer, row by row, cell by cell.

    Liu et al., *SSD: Single Shot MultiBox Detector* (2016), section 2.2, as laid out by the Object Detection API's
    `create_ssd_anchors`: scales spread evenly from `min_scale` to `max_scale`; each cell has one box per aspect ratio
    and one of the geometric mean of its scale and the next (1.0 after the last). With `reduce_boxes_in_lowest_layer`
    the first layer has three: scale 0.1, and its own at aspect ratios 2 and ½. For square inputs.
    """
    steps = max(1, options.num_layers - 1)
    spread = options.max_scale - options.min_scale
    scales = [options.min_scale + spread * layer / steps for layer in range(options.num_layers)] + [1.0]
    layers = []
    for layer, side in enumerate(options.feature_sizes):
        if layer == 0 and options.reduce_boxes_in_lowest_layer:
            shapes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            shapes = [(scales[layer], ratio) for ratio in options.aspect_ratios]
            if options.interpolated_scale_aspect_ratio > 0:
                shapes.append((sqrt(scales[layer] * scales[layer + 1]), options.interpolated_scale_aspect_ratio))
        centres = (np.arange(side) + 0.5) / side
        grid = np.empty((side, side, len(shapes), 4))
        grid[..., 0] = centres[:, None, None]
        grid[..., 1] = centres[None, :, None]
        grid[..., 2] = [scale / sqrt(ratio) for scale, ratio in shapes]
        grid[..., 3] = [scale * sqrt(ratio) for scale, ratio in shapes]
        layers.append(grid.reshape(-1, 4))
    return np.concatenate(layers)


class SsdAnchorsDecoder:
    """Encoded boxes `1×N×4` (ty, tx, th, tw) and class scores `1×N×C` → detections, suppressed class by class.

    Every class of an anchor that reaches the threshold is a candidate of its own. `labels` names the classes an answer
    can hold. Only the boxes of candidates are decoded and checked for NaN; memory is allocated for them alone.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._options = options
        self._limits = Limits(options.iou, options.max_candidates, options.max_detections)
        if len(options.feature_sizes) != options.num_layers:
            raise ModelError(
                "the anchors' layers do not fit together",
                where=_WHERE,
                expected=f"{options.num_layers} feature_sizes (num_layers)",
                got=f"{len(options.feature_sizes)}",
            )
        self._anchors = anchors(options)
        count = len(self._anchors)
        self._boxes_at, self._scores_at = _roles(options, context.outputs, count)
        self._boxes, self._scores = context.outputs[self._boxes_at], context.outputs[self._scores_at]
        classes = self._scores.shape[-1]
        if options.background is not None and not 0 <= options.background < classes:
            raise ModelError(
                "the background class is none of the model's classes",
                where=_WHERE,
                expected=f"background in 0..{classes - 1}, or null",
                got=f"{options.background}",
            )
        remedy = "labels name every column of the scores in order, the background's too"
        self._names = class_names(context.labels, classes, _WHERE, remedy)
        self.labels = tuple(name for index, name in enumerate(self._names) if index != options.background)
        self._shape = (count, classes)
        spec = self._scores
        if options.score == "softmax":
            # Softmax mixes the classes of an anchor: it is worked out in real values, before the threshold.
            spec = TensorSpec(spec.name, spec.shape, "float32")
        self._map = ScoreMap(spec, context.threshold, "sigmoid" if options.score == "sigmoid" else "none", _WHERE)
        self._below = self._floor()
        self._logits, self._softmax, self._codes = Buffer(), Buffer(), Buffer()

    def _floor(self) -> NDArray[Any]:
        """`ScoreMap.below` for each score, out of reach in the background's column: one comparison does both."""
        floor = np.full(self._shape, self._map.below, self._map.dtype)
        if self._options.background is not None:
            top = np.inf if floor.dtype.kind == "f" else np.iinfo(floor.dtype).max
            floor[:, self._options.background] = top
        return floor

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; the cost grows with what reaches the threshold."""
        raw = outputs[self._scores_at]
        if raw.size != self._below.size:
            raise wrong_size(raw, self._scores, shape_text((1, *self._shape)), _WHERE)
        if self._options.score == "softmax":
            out = self._softmax.of(self._shape, np.float32)
            raw = softmax(dequantise(raw, self._scores, self._logits).reshape(self._shape), out=out)
        found, scores = self._map.reaching(self._map.comparable(raw).reshape(self._shape), self._below)
        if not len(found):
            return Answer(detections=())
        rows, classes = np.divmod(found, self._shape[1])
        boxes = self._decode_boxes(outputs[self._boxes_at], rows)
        return strongest(boxes, scores, classes, placement, self._names, self._limits)

    def _decode_boxes(self, raw: Tensor, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Boxes (x0, y0, x1, y1) of the anchors `rows`, in 0..1 of the input, neither clipped nor bounded.

        Faster R-CNN's box coder (Ren et al. 2015, equation 2) with the Object Detection API's scale factors:
        cy = ty/sy · ha + ya, h = e^(th/sh) · ha, and the same for x.
        """
        if raw.size != len(self._anchors) * 4:
            raise wrong_size(raw, self._boxes, shape_text((1, len(self._anchors), 4)), _WHERE)
        per_tensor = len(self._boxes.scale) < 2
        if per_tensor:
            codes = dequantise(raw.reshape(-1, 4)[rows], self._boxes)
        else:
            codes = dequantise(raw, self._boxes, self._codes).reshape(-1, 4)[rows]
        if not np.isfinite(codes).all():
            raise not_numbers("boxes", self._boxes, _WHERE)
        anchor = self._anchors[rows]
        scaled = codes / self._options.box_scales
        centre = scaled[:, :2] * anchor[:, 2:] + anchor[:, :2]
        with np.errstate(over="ignore"):
            half = np.exp(scaled[:, 2:]) * anchor[:, 2:] / 2
        return np.concatenate(((centre - half)[:, ::-1], (centre + half)[:, ::-1]), axis=1)


def _roles(options: Options, outputs: Sequence[TensorSpec], count: int) -> tuple[int, int]:
    """Which output holds the boxes, and which the scores, by shape; by name where the shape fits several."""

    def rows(spec: TensorSpec) -> bool:
        sides = [side for side in spec.shape[:-1] if side not in (1, -1)]
        return len(spec.shape) >= 2 and spec.shape[-1] > 0 and (sides == [count] or (not sides and -1 in spec.shape))

    boxes = match(
        outputs, lambda spec: rows(spec) and spec.shape[-1] == 4, ("box", "loc", "regress"), options.boxes_output
    )
    scores = match(outputs, rows, ("class", "score", "conf", "cls"), options.scores_output)
    if len(boxes) == 1 and len(scores) == 2:
        scores = [index for index in scores if index != boxes[0]]
    if len(scores) == 1 and len(boxes) == 2:
        boxes = [index for index in boxes if index != scores[0]]
    if len(boxes) != 1 or len(scores) != 1 or boxes == scores:
        several = len(boxes) > 1 or len(scores) > 1
        raise ModelError(
            "cannot tell the boxes from the scores" if several else "the outputs are not those of an SSD head",
            where=_WHERE,
            expected=f"boxes 1×{count}×4 and scores 1×{count}×classes (the options describe {count} anchors)",
            got=describe(outputs),
            remedy="name them in the decoder's options: boxes_output, scores_output"
            if several
            else "set feature_sizes, aspect_ratios … as the model was trained, or use another decoder",
        )
    return boxes[0], scores[0]
