"""YOLO detectors: v5 and v8/v11, exported without their own suppression, and the end-to-end v10 and v26."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Protocol

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.decode.answer import Limits, class_names, strongest
from edgerun.decode.tensors import Buffer, ScoreMap, dequantise, describe, not_numbers, wrong_size
from edgerun.decode.yolo_end import EndToEnd, find_rows
from edgerun.decode.yolo_maps import ANCHORS, BINS, AnchorMaps, Candidates, DistributionMaps, find_maps
from edgerun.decode.yolo_units import Units, in_pixels, input_size, known_units
from edgerun.errors import ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor, TensorSpec

_WHERE = "decoder yolo"
_EXPECTED = (
    "one output 1×A×(5+classes) (v5), 1×(4+classes)×A or 1×A×(4+classes) (v8, v11), "
    "three feature maps 1×3×H×W×(5+classes) (v5), 1×(64+classes)×H×W (v8, v11), or rows 1×N×6 (v10, v26)"
)
_Count = Annotated[int, Meta(ge=1)]
_Pair = tuple[Annotated[float, Meta(gt=0)], Annotated[float, Meta(gt=0)]]
_Anchors = Annotated[tuple[Annotated[tuple[_Pair, ...], Meta(min_length=1)], ...], Meta(min_length=1)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which YOLO, and what its numbers mean.

    `version`: "5" has an objectness before the class scores, "8" (also v9 and v11) has none, "10" (also v26, and
    exports with `nms=True`) is end-to-end: its rows are the answer, not suppressed any further. "auto" goes by the
    number of anchors, of which v5 has three times as many as the grids have cells and v8 one, else by the number of
    labels; rows of 6 that fit no grid are end-to-end.
    `box_units`: "pixels" of the model's input (ONNX exports) or "normalised" to 0..1 (TFLite exports). "auto": an 8-bit
    output whose range ends at 2 or below is normalised, one that goes beyond holds pixels; float outputs are judged
    on each frame with detections, by the largest centre over all anchors: anchors cover the whole picture, so it lies
    near 1 or near the input's size, and the border is 2.
    `anchors`: width and height in pixels of v5's feature maps' anchors, finest map first; not used where the model
    decodes its boxes itself.
    """

    version: Literal["auto", "5", "8", "10"] = "auto"
    box_units: Units = "auto"
    iou: Annotated[float, Meta(ge=0, le=1)] = 0.45
    max_detections: _Count = 300
    max_candidates: _Count = 1000
    anchors: _Anchors = ANCHORS


class _Head(Protocol):
    """Reads the candidates out of one kind of head."""

    classes: int

    def candidates(self, outputs: Sequence[Tensor]) -> Candidates: ...


class YoloDecoder:
    """`1×A×(5+C)`, `1×(4+C)×A`, `1×A×(4+C)` or feature maps → detections, suppressed class by class; or rows `1×N×6`.

    Feature maps are v5's `1×3×H×W×(5+C)`, `1×H×W×3(5+C)`, `1×3(5+C)×H×W`, and v8's `1×(64+C)×H×W`, `1×H×W×(64+C)`.
    An anchor counts as its best class, with that class's score (v5: times the objectness), as in the original
    projects' prediction. Rows are (x0, y0, x1, y1, score, class), see `yolo_end.EndToEnd`.
    `labels` names the classes an answer can hold; empty for rows without labels, which do not tell how many there are.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._limits = Limits(options.iou, options.max_candidates, options.max_detections)
        if len({len(shapes) for shapes in options.anchors}) != 1:
            raise ModelError(
                "the anchors do not fit together",
                where=_WHERE,
                expected="as many anchors for each feature map",
                got=", ".join(str(len(shapes)) for shapes in options.anchors),
            )
        size = input_size(context)
        self._end = _end_head(options, context, size)
        if self._end is not None:
            self.labels = context.labels
            return
        self._head: _Head = _maps_head(options, context, size) or _Flat(options, context, size)
        self._names = class_names(context.labels, self._head.classes, _WHERE)
        self.labels = self._names

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; the cost is one pass over the scores, and then grows with what reaches the threshold."""
        if self._end is not None:
            return self._end.decode(outputs, placement)
        centred, scores, classes = self._head.candidates(outputs)
        if not len(scores):
            return Answer(detections=())
        half = centred[:, 2:] / 2
        corners = np.concatenate((centred[:, :2] - half, centred[:, :2] + half), axis=1)
        return strongest(corners, scores, classes, placement, self._names, self._limits)


def _end_head(options: Options, context: DecoderContext, size: tuple[int, int]) -> EndToEnd | None:
    """The end-to-end head, where one is asked for, or no other reading is possible."""
    found = find_rows(context.outputs, 0) if options.version in ("auto", "10") else []
    if options.version == "auto" and found and (min(size) <= 0 or _readings(options, context.outputs, size)):
        return None
    if options.version == "10" and len(found) != 1:
        raise _unreadable(len(found) > 1, context, size)
    if len(found) != 1:
        return None
    rows = found[0]
    return EndToEnd(
        rows,
        context.outputs[rows.output],
        size,
        options.box_units,
        context.threshold,
        context.labels,
        options.max_detections,
        _WHERE,
    )


def _maps_head(options: Options, context: DecoderContext, size: tuple[int, int]) -> _Head | None:
    """The head of the feature maps, where the outputs are such; of two readings the one the labels speak for."""
    outputs, threshold = context.outputs, context.threshold
    found: list[_Head] = []
    if options.version != "8":
        levels, anchors = len(options.anchors), len(options.anchors[0])
        if maps := find_maps(outputs, size, levels=levels, anchors=anchors, least=5):
            found.append(AnchorMaps(outputs, maps, size, options.anchors, threshold, _WHERE))
    if options.version != "5" and (maps := find_maps(outputs, size, levels=3, anchors=1, least=4 * BINS)):
        found.append(DistributionMaps(outputs, maps, threshold, _WHERE))
    if len(found) > 1:
        found = [head for head in found if head.classes == len(context.labels)]
        if not found:
            raise _unreadable(True, context, size)
    return found[0] if found else None


def _unreadable(several: bool, context: DecoderContext, size: tuple[int, int]) -> ModelError:
    input_size = f", input {size[0]}×{size[1]}" if min(size) > 0 else ""
    labels = f", {len(context.labels)} labels" if context.labels else ""
    return ModelError(
        "cannot tell how to read the YOLO head" if several else "the outputs are not those of a YOLO head",
        where=_WHERE,
        expected=_EXPECTED + ", with anchors for every cell of the input's grids",
        got=describe(context.outputs) + input_size + labels,
        remedy="set version in the decoder's options, and give the labels it was trained with"
        if several
        else "export the model without its own NMS, or choose another decoder",
    )


class _Layout(msgspec.Struct, frozen=True):
    """Where in the outputs a decoded head lies: `anchors` is 0 where the model leaves their number open."""

    output: int
    channels: int
    anchors: int
    channels_last: bool
    objectness: bool


class _Flat:
    """One tensor of anchors × channels, boxes decoded by the model: cx, cy, w, h, (objectness,) class scores."""

    def __init__(self, options: Options, context: DecoderContext, size: tuple[int, int]) -> None:
        self._layout = layout = _find_layout(options, context, size)
        self._first = 5 if layout.objectness else 4
        self.classes = layout.channels - self._first
        spec = context.outputs[layout.output]
        self._whole: TensorSpec | None = None
        if len(spec.scale) > 1:
            # One scale per channel: nothing can be compared before it is dequantised.
            self._whole, spec = spec, TensorSpec(spec.name, spec.shape, "float32")
        self._spec, self._size = spec, size
        self._real, self._best_class = Buffer(), Buffer()
        self._map = ScoreMap(spec, context.threshold, "none", _WHERE)
        self._units = known_units(options.box_units, spec, size, _WHERE)

    def candidates(self, outputs: Sequence[Tensor]) -> Candidates:
        """Raises `FrameError` when scores, or boxes of candidates, are not numbers."""
        raw = outputs[self._layout.output]
        layout = self._layout
        anchors = layout.anchors or raw.size // layout.channels
        if raw.size != anchors * layout.channels:
            side = str(layout.anchors or "A")
            shape = (side, str(layout.channels)) if layout.channels_last else (str(layout.channels), side)
            raise wrong_size(raw, self._spec, "1×" + "×".join(shape), _WHERE)
        if self._whole is not None:
            raw = dequantise(raw, self._whole, self._real)
        rows = raw.reshape(anchors, layout.channels).T if layout.channels_last else raw.reshape(-1, anchors)
        found, scores, classes = self._objects(rows) if layout.objectness else self._best(rows)
        if not len(found):
            return np.empty((0, 4)), scores, classes
        boxes = dequantise(rows[:4, found], self._spec).T.astype(np.float64)
        if not np.isfinite(boxes).all():
            raise not_numbers("boxes", self._spec, _WHERE)
        if in_pixels(self._units, rows[0], rows[1], self._spec, _WHERE):
            boxes /= (*self._size, *self._size)
        return boxes, scores, classes

    def _best(self, rows: Tensor) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]:
        """v8: anchors whose best class reaches the threshold."""
        best = np.max(rows[4:], axis=0, out=self._best_class.of(rows.shape[1:], rows.dtype))
        best = self._map.comparable(best)
        found, scores = self._map.reaching(best, self._map.below)
        return found, scores, rows[4:, found].argmax(axis=0)

    def _objects(self, rows: Tensor) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]:
        """v5: anchors whose objectness reaches the threshold, and still does times their best class."""
        found, objectness = self._map.reaching(self._map.comparable(rows[4]), self._map.below)
        classes = rows[5:, found].argmax(axis=0)
        best = self._map.comparable(rows[5 + classes, found])
        scores = objectness * self._map.scores(best)
        enough = scores >= self._map.threshold
        return found[enough], scores[enough], classes[enough]


def _cells(size: tuple[int, int]) -> set[int]:
    """How many cells a head's grids can have together: strides 8, 16, 32, or any run of two or more out of 4 … 64."""
    counts = [-(-size[0] // stride) * -(-size[1] // stride) for stride in (4, 8, 16, 32, 64)]
    return {sum(counts[first:last]) for first in range(5) for last in range(first + 2, 6)}


def _readings(options: Options, outputs: Sequence[TensorSpec], size: tuple[int, int]) -> list[_Layout]:
    """Every way to read an output as a decoded head whose anchors fill the grids of an input of `size`."""
    cells = _cells(size) if min(size) > 0 else None
    found = []
    for output, spec in enumerate(outputs):
        if len(spec.shape) not in (2, 3) or (len(spec.shape) == 3 and spec.shape[0] not in (1, -1)):
            continue
        for channels_last in (True, False):
            anchors, channels = spec.shape[-2:] if channels_last else spec.shape[:-3:-1]
            for objectness in (True, False):
                per_cell = len(options.anchors[0]) if objectness else 1
                fits = anchors <= 0 or cells is None or (anchors % per_cell == 0 and anchors // per_cell in cells)
                # v5 was only ever exported with its channels last.
                if objectness and (options.version == "8" or not channels_last):
                    continue
                if not objectness and options.version == "5":
                    continue
                if fits and channels > 4 + objectness:
                    found.append(_Layout(output, channels, max(anchors, 0), channels_last, objectness))
    return found


def _find_layout(options: Options, context: DecoderContext, size: tuple[int, int]) -> _Layout:
    """The only way to read one of the outputs as a decoded head. Raises `ModelError` when there is none, or several."""
    labels = len(context.labels)
    found = _readings(options, context.outputs, size)
    if len(found) > 1:
        found = [one for one in found if one.channels == labels + 4 + one.objectness] or found
    if len(found) > 1:
        found = [one for one in found if not one.anchors or one.anchors > one.channels] or found
    if len(found) != 1:
        raise _unreadable(bool(found), context, size)
    return found[0]
