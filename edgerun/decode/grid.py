"""Detectors of one grid, described by the manifest: FastestDet, and others with one box per cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.decode.answer import Limits, class_names, strongest
from edgerun.decode.tensors import Buffer, dequantise, describe, not_numbers, shape_text, sigmoid, softmax, wrong_size
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor

_WHERE = "decoder grid"
_Count = Annotated[int, Meta(ge=1)]
_Channel = Annotated[int, Meta(ge=0)]
_Power = Annotated[float, Meta(ge=0)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each channel of a cell means; the defaults are FastestDet's.

    `objectness`: its channel, None where there is none. `box`: the first of four channels x, y, w, h. `classes`: the
    first class's channel; the classes go on to the last channel. `*_score`: what the model has left to be done to them.
    `centre`: f in (f(x) + column + centre_shift) / W, and the same for y. `size`: f in f(w), which is in 0..1 of the
    input, or in `cells`. The score is objectness^objectness_power · class^class_power.
    """

    objectness: _Channel | None = 0
    box: _Channel = 1
    classes: _Channel = 5
    objectness_score: Literal["none", "sigmoid"] = "none"
    class_score: Literal["none", "sigmoid", "softmax"] = "none"
    centre: Literal["tanh", "sigmoid", "none"] = "tanh"
    centre_shift: float = 0.0
    size: Literal["sigmoid", "exp", "none"] = "sigmoid"
    size_units: Literal["normalised", "cells"] = "normalised"
    objectness_power: _Power = 0.6
    class_power: _Power = 0.4
    layout: Literal["auto", "nhwc", "nchw"] = "auto"
    iou: Annotated[float, Meta(ge=0, le=1)] = 0.45
    max_detections: _Count = 100
    max_candidates: _Count = 1000


class GridDecoder:
    """One map `1×(5+C)×H×W` or `1×H×W×(5+C)` → detections, suppressed class by class.

    A cell counts as its best class. With the defaults: score = objectness^0.6 · class^0.4, centre
    (tanh(x) + column) / W, width σ(w), and the same for y and h (FastestDet, utils/tool.py, `handle_preds`).
    `labels` names the classes an answer can hold.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._options, self._threshold = options, np.float32(context.threshold)
        self._limits = Limits(options.iou, options.max_candidates, options.max_detections)
        least = max(options.box + 4, options.classes + 1, (options.objectness or 0) + 1)
        self._at, self._last = _find(options, context, least)
        self._spec = context.outputs[self._at]
        sides = self._spec.shape[1:]
        self._sides = sides if self._last else (sides[1], sides[2], sides[0])
        self._names = class_names(context.labels, self._sides[2] - options.classes, _WHERE)
        self.labels = self._names
        self._real, self._scores, self._wide = Buffer(), Buffer(), Buffer()
        self._shares, self._objectness = Buffer(), Buffer()

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; the cost is one pass over the map, and then grows with what reaches the threshold."""
        raw = outputs[self._at]
        height, width, channels = self._sides
        if raw.size != height * width * channels:
            raise wrong_size(raw, self._spec, shape_text(self._spec.shape), _WHERE)
        real = dequantise(raw, self._spec, self._real)
        cells = real.reshape(height * width, channels) if self._last else real.reshape(channels, height * width).T
        scores = self._score(cells)
        found = np.flatnonzero(scores >= self._threshold)
        if not len(found):
            return Answer(detections=())
        classes = cells[found, self._options.classes :].argmax(axis=1)
        boxes = self._boxes(cells[found, self._options.box : self._options.box + 4].astype(np.float64), found)
        return strongest(boxes, scores[found], classes, placement, self._names, self._limits)

    def _score(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """The score of every cell, in a kept array."""
        options, count = self._options, len(cells)
        rest = cells[:, options.classes :]
        scores = rest.max(axis=1, out=self._scores.of((count,), np.float32))
        if options.class_score == "softmax":
            shares = self._shares.of(rest.shape, np.float32)
            scores = softmax(rest, out=shares).max(axis=1, out=scores)
        elif options.class_score == "sigmoid":
            scores = sigmoid(scores, scores, self._wide)
        self._check(scores)
        np.power(scores.clip(0, 1, out=scores), options.class_power, out=scores)
        if options.objectness is not None:
            objectness = cells[:, options.objectness]
            if options.objectness_score == "sigmoid":
                objectness = sigmoid(objectness, self._objectness.of((count,), np.float32), self._wide)
            self._check(objectness)
            factor = np.clip(objectness, 0, 1, out=self._objectness.of((count,), np.float32))
            scores *= np.power(factor, options.objectness_power, out=factor)
        return scores

    def _check(self, scores: NDArray[np.float32]) -> None:
        low, high = float(scores.min()), float(scores.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise not_numbers("scores", self._spec, _WHERE)
        if low < -0.02 or high > 1.02:  # part of a quantum beyond 0..1 may come of quantisation
            raise FrameError(
                f"scores of output {self._spec.name} are not probabilities",
                where=_WHERE,
                reason="decode",
                expected="0..1",
                got=f"{low:g}..{high:g}",
                remedy='these look like logits: set objectness_score or class_score = "sigmoid" in the options',
            )

    def _boxes(self, codes: NDArray[np.float64], cells: NDArray[np.intp]) -> NDArray[np.float64]:
        """K×4 (x0, y0, x1, y1) in 0..1 of the input."""
        if not np.isfinite(codes).all():
            raise not_numbers("boxes", self._spec, _WHERE)
        options, (height, width, _) = self._options, self._sides
        centre, size = codes[:, :2], codes[:, 2:]
        if options.centre != "none":
            centre = np.tanh(centre) if options.centre == "tanh" else 0.5 + 0.5 * np.tanh(centre / 2)
        if options.size == "sigmoid":
            size = 0.5 + 0.5 * np.tanh(size / 2)
        elif options.size == "exp":
            with np.errstate(over="ignore"):
                size = np.exp(size)
        row, column = np.divmod(cells, width)
        centre = (centre + np.stack((column, row), axis=1) + options.centre_shift) / (width, height)
        half = size / 2 / ((width, height) if options.size_units == "cells" else 1.0)
        return np.concatenate((centre - half, centre + half), axis=1)


def _find(options: Options, context: DecoderContext, least: int) -> tuple[int, bool]:
    """Which output is the grid, and whether its channels come last. Raises `ModelError`."""
    wanted = options.classes + len(context.labels) if context.labels else 0
    found = []
    for at, spec in enumerate(context.outputs):
        if len(spec.shape) != 4 or spec.shape[0] not in (1, -1) or min(spec.shape[1:]) < 1:
            continue
        for last in (True, False):
            channels = spec.shape[3] if last else spec.shape[1]
            if options.layout in ("auto", "nhwc" if last else "nchw") and channels >= least:
                found.append((at, last, channels))
    if len(found) > 1:
        found = [one for one in found if one[2] == wanted] or found
    if len(found) != 1:
        raise ModelError(
            "cannot tell how to read the grid" if found else "the outputs are not those of a grid of boxes",
            where=_WHERE,
            expected=f"one output 1×{wanted or f'({options.classes}+classes)'}×H×W, or with the channels last",
            got=describe(context.outputs),
            remedy="set layout in the decoder's options, or give the labels it was trained with"
            if found
            else "describe the channels in the decoder's options, or use another decoder",
        )
    return found[0][0], found[0][1]
