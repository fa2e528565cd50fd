"""YOLO heads as they leave the network: three feature maps, boxes encoded, nothing activated."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.decode.tensors import Buffer, ScoreMap, dequantise, not_numbers, shape_text, sigmoid, softmax, wrong_size
from edgerun.types import Tensor, TensorSpec

ANCHORS = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
"""YOLOv5's anchors for COCO: width and height in pixels, at strides 8, 16 and 32 (models/yolov5s.yaml)."""


BINS = 16
"""Steps of the distribution that v8 gives for each side of a box (`reg_max`)."""

Candidates = tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.intp]]
"""Centres and sizes K×4 (cx, cy, w, h) in 0..1 of the input, scores K, classes K."""


class Map(msgspec.Struct, frozen=True):
    """One feature map: which output, its grid, its channels per anchor, and its layout.

    Layouts: "5d" is 1×A×H×W×C, "nhwc" 1×H×W×(A·C), "nchw" 1×(A·C)×H×W.
    """

    output: int
    height: int
    width: int
    channels: int
    layout: str

    def cells(self, raw: Tensor, anchors: int) -> Tensor:
        """`raw` as a view H×W×A×C."""
        if self.layout == "5d":
            return raw.reshape(anchors, self.height, self.width, self.channels).transpose(1, 2, 0, 3)
        if self.layout == "nhwc":
            return raw.reshape(self.height, self.width, anchors, self.channels)
        return raw.reshape(anchors, self.channels, self.height, self.width).transpose(2, 3, 0, 1)


def find_maps(
    outputs: Sequence[TensorSpec], size: tuple[int, int], *, levels: int, anchors: int, least: int
) -> tuple[Map, ...]:
    """The feature maps among the outputs, finest first; nothing unless there is one for each of the `levels`.

    The grids must be the input divided by 8, 16, 32 …, each cell with `anchors` × more than `least` channels. Where a
    decoded head is there too it is read instead.
    """
    if min(size) <= 0 or any(len(spec.shape) in (2, 3) for spec in outputs):
        return ()
    maps = []
    for level in range(levels):
        height, width = (-(-side // (8 << level)) for side in reversed(size))
        for output, spec in enumerate(outputs):
            found = _read(output, spec, height, width, anchors)
            if found is not None and found.channels > least:
                maps.append(found)
                break
    same = len({found.channels for found in maps}) == 1
    return tuple(maps) if same and len(maps) == levels else ()


def _read(output: int, spec: TensorSpec, height: int, width: int, anchors: int) -> Map | None:
    shape = spec.shape[1:]
    if len(shape) == 4 and shape[:3] == (anchors, height, width):
        return Map(output, height, width, shape[3], "5d")
    if len(shape) != 3:
        return None
    for layout, channels, grid in (("nhwc", shape[2], shape[:2]), ("nchw", shape[0], shape[1:])):
        if grid == (height, width) and channels > 0 and channels % anchors == 0:
            return Map(output, height, width, channels // anchors, layout)
    return None


class _Level:
    """One feature map with what it takes to read it."""

    def __init__(self, found: Map, spec: TensorSpec, anchors: int, threshold: float, where: str) -> None:
        self.map, self.spec, self._anchors, self._where = found, spec, anchors, where
        # One scale per channel: nothing can be compared before it is dequantised.
        self._whole = len(spec.scale) > 1
        self.real = TensorSpec(spec.name, spec.shape, "float32") if self._whole else spec
        self.scores = ScoreMap(self.real, threshold, "sigmoid", where)
        self.best, self._values = Buffer(), Buffer()

    def cells(self, outputs: Sequence[Tensor]) -> Tensor:
        """The output as H×W×anchors×channels, to be read with `real` and `scores`."""
        raw = outputs[self.map.output]
        if raw.size != self.map.height * self.map.width * self.map.channels * self._anchors:
            raise wrong_size(raw, self.spec, shape_text(self.spec.shape), self._where)
        return self.map.cells(dequantise(raw, self.spec, self._values) if self._whole else raw, self._anchors)

    def codes(self, raw: Tensor) -> NDArray[np.float32]:
        """Real values of encoded boxes. Raises `FrameError` when they are not numbers."""
        codes = dequantise(raw, self.real)
        if not np.isfinite(codes).all():
            raise not_numbers("boxes", self.spec, self._where)
        return codes


class AnchorMaps:
    """Candidates of v5's feature maps.

    With σ the sigmoid, the cell (i, j) of stride s and the anchor (w, h):
    cx = (2σ(tx) − ½ + j)·s, cy = (2σ(ty) − ½ + i)·s, width = (2σ(tw))²·w, height = (2σ(th))²·h, score = σ(to)·σ(tc)
    (YOLOv5, models/yolo.py, `Detect.forward`).
    """

    def __init__(
        self,
        outputs: Sequence[TensorSpec],
        maps: Sequence[Map],
        size: tuple[int, int],
        anchors: Sequence[Sequence[tuple[float, float]]],
        threshold: float,
        where: str,
    ) -> None:
        self.classes = maps[0].channels - 5
        self._anchors = [np.array(shapes) / size for shapes in anchors]
        pairs = zip(maps, self._anchors, strict=True)
        self._levels = [_Level(found, outputs[found.output], len(a), threshold, where) for found, a in pairs]

    def candidates(self, outputs: Sequence[Tensor]) -> Candidates:
        """Raises `FrameError` when scores, or boxes of candidates, are not numbers."""
        return _joined([self._level(*pair, outputs) for pair in zip(self._levels, self._anchors, strict=True)])

    def _level(self, level: _Level, shapes: NDArray[np.float64], outputs: Sequence[Tensor]) -> Candidates:
        cells, scores = level.cells(outputs), level.scores
        at, objectness = scores.reaching(scores.comparable(cells[..., 4]), scores.below)
        y, x, anchor = np.unravel_index(at, cells.shape[:3])
        rows = cells[y, x, anchor]
        classes = rows[:, 5:].argmax(axis=1)
        total = objectness * scores.scores(scores.comparable(rows[np.arange(len(rows)), 5 + classes]))
        enough = total >= scores.threshold
        y, x, anchor, rows = y[enough], x[enough], anchor[enough], rows[enough]
        twice = 2.0 * sigmoid(level.codes(rows[:, :4])).astype(np.float64)
        boxes = np.empty((len(rows), 4))
        boxes[:, 0] = (twice[:, 0] - 0.5 + x) / level.map.width
        boxes[:, 1] = (twice[:, 1] - 0.5 + y) / level.map.height
        boxes[:, 2:] = twice[:, 2:] ** 2 * shapes[anchor]
        return boxes, total[enough], classes[enough]


class DistributionMaps:
    """Candidates of v8's and v11's feature maps: 4·16 channels of boxes, then the classes' logits.

    Each side (left, top, right, bottom) is the expectation of a softmax over 16 steps, in cells from the cell's centre
    (Li et al., *Generalized Focal Loss*, 2020, equation 4; Ultralytics' `Detect` and `dist2bbox`); score = σ(tc).
    """

    def __init__(self, outputs: Sequence[TensorSpec], maps: Sequence[Map], threshold: float, where: str) -> None:
        self.classes = maps[0].channels - 4 * BINS
        self._levels = [_Level(found, outputs[found.output], 1, threshold, where) for found in maps]

    def candidates(self, outputs: Sequence[Tensor]) -> Candidates:
        """Raises `FrameError` when scores, or boxes of candidates, are not numbers."""
        return _joined([self._level(level, outputs) for level in self._levels])

    def _level(self, level: _Level, outputs: Sequence[Tensor]) -> Candidates:
        cells = level.cells(outputs)[:, :, 0]
        best = level.best.of(cells.shape[:2], cells.dtype)
        best = level.scores.comparable(np.max(cells[..., 4 * BINS :], axis=2, out=best))
        at, scores = level.scores.reaching(best, level.scores.below)
        y, x = np.unravel_index(at, cells.shape[:2])
        rows = cells[y, x]
        steps = softmax(level.codes(rows[:, : 4 * BINS]).reshape(-1, 4, BINS))
        left, top, right, bottom = (steps.astype(np.float64) @ np.arange(BINS)).T
        boxes = np.empty((len(rows), 4))
        boxes[:, 0] = (x + 0.5 + (right - left) / 2) / level.map.width
        boxes[:, 1] = (y + 0.5 + (bottom - top) / 2) / level.map.height
        boxes[:, 2] = (left + right) / level.map.width
        boxes[:, 3] = (top + bottom) / level.map.height
        return boxes, scores, rows[:, 4 * BINS :].argmax(axis=1)


def _joined(parts: Sequence[Candidates]) -> Candidates:
    boxes, scores, classes = zip(*parts, strict=True)
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes)
