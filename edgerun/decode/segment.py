"""Semantic segmentation: one class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.decode.answer import class_names
from edgerun.decode.tensors import Buffer, ScoreMap, dequantise, describe, not_numbers, shape_text, wrong_size
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Polygon, Runs, Segment, Tensor, TensorSpec

_WHERE = "decoder segment"
_Share = Annotated[float, Meta(ge=0, le=1)]
_Window = tuple[slice, slice]

_MOST_CLASSES = 65536
"""Of a map without labels."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is told of each class.

    `background`: a class that is not reported, None to report all (a mask of one channel has none). `min_share`: of the
    picture, below which a class is left out, and an outline too. `polygons`: at most so many outlines of each class, 0
    for none; `tolerance`: how far they may lie from the pixels' true border, as a share of the picture's longer side.
    `runs`: the mask itself as well. `layout`: where the classes stand, if the shape leaves a doubt. `score`: what turns
    the values of a mask of one channel into probabilities.
    """

    background: int | None = 0
    min_share: _Share = 0.001
    polygons: Annotated[int, Meta(ge=0)] = 8
    tolerance: _Share = 0.005
    runs: bool = False
    layout: Literal["auto", "nhwc", "nchw"] = "auto"
    score: Literal["none", "sigmoid"] = "none"


class _Layout(NamedTuple):
    """`channels` is 1 for a mask and 0 for a map of class numbers; `last`: they come after the sides."""

    output: int
    height: int
    width: int
    channels: int
    last: bool


class SegmentDecoder:
    """Scores or logits `1×H×W×C` or `1×C×H×W` → each class's share, and its outlines, largest first.

    A pixel belongs to the class with the largest value (Long et al., *Fully Convolutional Networks*, 2015; DeepLab). An
    integer output without quantisation, `1×H×W` (with a 1 anywhere), holds the class numbers already; any other single
    channel is a mask of one class, where its score reaches the threshold, which otherwise has no meaning here. What a
    letterbox added around the picture does not count. Outlines (Suzuki 1985, simplified by Douglas–Peucker 1973, both
    as OpenCV has them) run through the centres of the outermost pixels and ignore holes. `labels` names the classes an
    answer can hold. One array of the size of the map is kept from frame to frame.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        import cv2

        self._cv2: Any = cv2
        self._options = options
        self._layout = layout = _find_layout(context.outputs, len(context.labels), options.layout)
        self._spec = context.outputs[layout.output]
        self._background = options.background if layout.channels != 1 else None
        classes = layout.channels or len(context.labels)
        if self._background is not None and classes and not 0 <= self._background < classes:
            raise ModelError(
                "the background class is none of the model's classes",
                where=_WHERE,
                expected=f"background in 0..{classes - 1}, or null",
                got=f"{self._background}",
            )
        self._names = class_names(context.labels, layout.channels, _WHERE) if layout.channels else context.labels
        self.labels = tuple(name for at, name in enumerate(self._names) if at != self._background)
        self._mask = ScoreMap(self._spec, context.threshold, options.score, _WHERE) if layout.channels == 1 else None
        self._classes, self._real, self._one, self._scores = Buffer(), Buffer(), Buffer(), Buffer()

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; also raises `FrameError` for a class that no label names."""
        raw, layout = outputs[self._layout.output], self._layout
        if raw.size != layout.height * layout.width * max(1, layout.channels):
            raise wrong_size(raw, self._spec, shape_text(self._spec.shape), _WHERE)
        if len(self._spec.scale) > 1:
            raw = dequantise(raw, self._spec, self._real)
        window = _window(layout, placement)
        classes = self._map(raw, window)
        if not classes.size:
            return Answer(segments=())
        counts = np.bincount(classes.reshape(-1))
        present = [
            (int(counts[at]), int(at))
            for at in np.flatnonzero(counts >= max(1.0, self._options.min_share * classes.size))
            if at != self._background and not (layout.channels == 1 and at == 1)
        ]
        present.sort(key=lambda one: (-one[0], one[1]))
        return Answer(segments=tuple([self._segment(at, count, classes, window, placement) for count, at in present]))

    def _map(self, raw: Tensor, window: _Window) -> NDArray[np.intp]:
        """The class of each pixel of the window, in the kept array. A mask's own class is 0, what is outside it 1."""
        layout = self._layout
        sides = (layout.height, layout.width)
        if layout.channels > 1:
            scores = raw.reshape((*sides, layout.channels) if layout.last else (layout.channels, *sides))
            scores = scores[window] if layout.last else scores[:, window[0], window[1]]
            if scores.size and scores.dtype.kind == "f" and not np.isfinite(scores.max()):
                raise not_numbers("scores", self._spec, _WHERE)
            axis, shape = (2, scores.shape[:2]) if layout.last else (0, scores.shape[1:])
            if not scores.size:
                return np.empty(0, np.intp)
            return scores.argmax(axis=axis, out=self._classes.of(shape, np.intp))
        seen = raw.reshape(sides)[window]
        classes = self._classes.of(seen.shape, np.intp)
        if self._mask is None:
            np.copyto(classes, seen, casting="unsafe")
            if classes.size:
                self._check(int(classes.min()), int(classes.max()))
            return classes
        if seen.size:
            values = self._mask.comparable(seen)
            top = np.asarray(values.max())
            self._mask.scores(top[None])  # says so when they are not probabilities
            np.less_equal(values, self._mask.below, out=classes, casting="unsafe")
        return classes

    def _check(self, lowest: int, highest: int) -> None:
        """Raises `FrameError` for class numbers that cannot be such."""
        known = len(self._names) or _MOST_CLASSES
        if lowest < 0 or highest >= known:
            raise FrameError(
                "the model reports a class that no label names" if self._names else "the map holds no class numbers",
                where=_WHERE,
                reason="decode",
                expected=f"classes 0..{known - 1}",
                got=f"{lowest if lowest < 0 else highest}",
                remedy="give the label file the model was trained with",
            )

    def _segment(
        self, at: int, count: int, classes: NDArray[np.intp], window: _Window, placement: Placement
    ) -> Segment:
        polygons: tuple[Polygon, ...] = ()
        runs = None
        if self._options.polygons or self._options.runs:
            inside = np.equal(classes, at, out=self._one.of(classes.shape, np.bool_))
            if self._options.polygons:
                polygons = self._polygons(inside, window, placement)
            if self._options.runs:
                runs = self._runs(inside, window, placement)
        name = self._names[at] if self._names else str(at)
        return Segment(name, at, count / classes.size, polygons, runs)

    def _polygons(self, inside: NDArray[np.bool_], window: _Window, placement: Placement) -> tuple[Polygon, ...]:
        cv2 = self._cv2
        contours, _ = cv2.findContours(inside.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        least = self._options.min_share * inside.size
        sized = [(cv2.contourArea(contour), at) for at, contour in enumerate(contours)]
        largest = sorted(((area, at) for area, at in sized if area > 0 and area >= least), key=lambda one: -one[0])
        found = []
        for _, at in largest[: self._options.polygons]:
            corners = cv2.approxPolyDP(contours[at], self._options.tolerance * max(inside.shape), True)[:, 0]
            if len(corners) < 3:
                continue
            x = self._to_frame(corners[:, 0] + window[1].start + 0.5, self._layout.width, placement, 0)
            y = self._to_frame(corners[:, 1] + window[0].start + 0.5, self._layout.height, placement, 1)
            found.append((*zip(x.tolist(), y.tolist(), strict=True),))
        return tuple(found)

    def _runs(self, inside: NDArray[np.bool_], window: _Window, placement: Placement) -> Runs:
        pixels = inside.T.reshape(-1)
        edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        counts = np.diff(edges, prepend=0, append=len(pixels)).tolist()
        if pixels[0]:
            counts.insert(0, 0)
        x = self._to_frame(np.array([window[1].start, window[1].stop]), self._layout.width, placement, 0).tolist()
        y = self._to_frame(np.array([window[0].start, window[0].stop]), self._layout.height, placement, 1).tolist()
        height, width = inside.shape
        return Runs((height, width), tuple(counts), (x[0], y[0], x[1], y[1]))

    def _to_frame(self, pixels: NDArray[Any], side: int, placement: Placement, axis: int) -> NDArray[np.float64]:
        scale, shift = _along(placement, axis)
        placed: NDArray[np.float64] = (pixels / side * scale + shift).clip(0.0, 1.0)
        return placed


def _along(placement: Placement, axis: int) -> tuple[float, float]:
    return (placement.scale_y, placement.shift_y) if axis else (placement.scale_x, placement.shift_x)


def _window(layout: _Layout, placement: Placement) -> _Window:
    """Rows and columns whose centres lie in the frame."""
    slices = []
    for axis, side in ((1, layout.height), (0, layout.width)):
        scale, shift = _along(placement, axis)
        first = max(0, ceil((0.0 - shift) / scale * side - 0.5))
        last = min(side - 1, floor((1.0 - shift) / scale * side - 0.5))
        slices.append(slice(first, max(first, last + 1)))
    return slices[0], slices[1]


def _find_layout(outputs: Sequence[TensorSpec], labels: int, wanted: str) -> _Layout:
    """The one output that is a map: its channels as many as the labels, else its smallest side at either end."""
    found = [layout for at, spec in enumerate(outputs) if (layout := _read(at, spec, labels, wanted)) is not None]
    if len(found) > 1:
        found = [one for one in found if one.channels == labels] or found
    if len(found) != 1:
        raise ModelError(
            "several outputs could be the map" if found else "the outputs are not those of a segmentation model",
            where=_WHERE,
            expected="one output 1×H×W×classes, 1×classes×H×W, or 1×H×W of class numbers or of one class's scores",
            got=describe(outputs),
            remedy="export the model with one fixed-size output, and give the labels it was trained with",
        )
    return found[0]


def _read(at: int, spec: TensorSpec, labels: int, wanted: str) -> _Layout | None:
    shape = spec.shape[1:] if len(spec.shape) in (3, 4) and spec.shape[0] in (1, -1) else ()
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or min(shape) < 1 or sorted(shape)[1] < 2:
        return None
    last = shape[2] < shape[0]
    if labels and (shape[0] == labels) != (shape[2] == labels):
        last = shape[2] == labels
    last = wanted == "nhwc" if wanted != "auto" else last
    height, width, channels = shape if last else (shape[1], shape[2], shape[0])
    if channels == 1 and spec.dtype in ("uint8", "int8", "int16", "int32", "int64", "bool") and not spec.scale:
        channels = 0
    return _Layout(at, height, width, channels, last)
