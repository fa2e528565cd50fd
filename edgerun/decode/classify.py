"""Classifiers: one score per class."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.decode.answer import class_names
from edgerun.decode.tensors import Buffer, dequantise, describe, not_numbers, shape_text, sigmoid, softmax, wrong_size
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Classification, Placement, Tensor, TensorSpec

_WHERE = "decoder classify"

# A probability of 1 that was quantised may come back larger by part of a quantum.
_SLACK = 0.02


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How scores become probabilities.

    `activation = "auto"`: an 8-bit output whose whole range lies in 0..1 holds probabilities, any other quantised one
    logits (softmax); a float output is judged frame by frame, and holds logits when any value lies outside 0..1. A
    single class is never put through softmax, which would make it 1: its logits get the sigmoid.
    `background_first`: the labels have one more entry than the model has classes, a background in front (ImageNet's
    lists of 1001 names); the class reported is the line of the label.
    """

    activation: Literal["auto", "none", "softmax", "sigmoid"] = "auto"
    background_first: bool = False


class ClassifyDecoder:
    """Scores `1×N` or `N` (sides of 1 anywhere) → at most `top_k` classes that reach the threshold, best first.

    `labels` names the classes an answer can hold. Nothing is allocated for a frame but its answer; the cost grows with
    the classes reported.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._options, self._top_k, self._threshold = options, context.top_k, np.float32(context.threshold)
        wanted = len(context.labels) - options.background_first if context.labels else 0
        self._at = _scores_output(context.outputs, wanted)
        self._spec = context.outputs[self._at]
        classes = int(np.prod(self._spec.shape, where=[side > 0 for side in self._spec.shape]))
        first = int(options.background_first)
        remedy = None
        if len(context.labels) == classes + first + 1:
            remedy = "if the first label names a background, set background_first = true; else remove the extra line"
        names = class_names(context.labels, classes + first, _WHERE, remedy)
        self._classes, self._first = classes, first
        self._names, self.labels = names, names[first:]
        self._scores = np.empty(classes, np.float32)
        self._real, self._wide = Buffer(), Buffer()
        self._activation = options.activation
        if options.activation == "auto" and self._spec.scale and self._spec.dtype in ("int8", "uint8"):
            limits = np.iinfo(self._spec.dtype)
            one = TensorSpec("", (), self._spec.dtype, self._spec.scale[:1], self._spec.zero_point[:1])
            low, high = dequantise(np.array([limits.min, limits.max], np.int16), one)
            probabilities = low >= -_SLACK and high <= 1 + _SLACK
            self._activation = "none" if probabilities else self._squash()

    def _squash(self) -> Literal["softmax", "sigmoid"]:
        return "softmax" if self._classes > 1 else "sigmoid"

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; `placement` has no meaning here."""
        raw = outputs[self._at]
        if raw.size != self._classes:
            raise wrong_size(raw, self._spec, shape_text((1, self._classes)), _WHERE)
        scores = self._probabilities(dequantise(raw, self._spec, self._real).reshape(-1))
        best = []
        for _ in range(min(self._top_k, self._classes)):
            index = int(scores.argmax())  # of equal scores the first
            if scores[index] < self._threshold:
                break
            best.append(Classification(self._names[index + self._first], index + self._first, float(scores[index])))
            scores[index] = -1.0
        return Answer(classes=tuple(best))

    def _probabilities(self, real: NDArray[np.float32]) -> NDArray[np.float32]:
        """In the kept array of scores, which is the caller's until the next frame."""
        low, high = float(real.min()), float(real.max())
        if not (isfinite(low) and isfinite(high)):  # NaN anywhere makes both NaN
            raise not_numbers("scores", self._spec, _WHERE)
        inside = low >= -_SLACK and high <= 1 + _SLACK
        activation = self._activation
        if activation == "auto":
            activation = "none" if inside else self._squash()
        if activation == "softmax":
            return softmax(real, out=self._scores)
        if activation == "sigmoid":
            return sigmoid(real, self._scores, self._wide)
        if not inside:
            raise FrameError(
                f"scores of output {self._spec.name} are not probabilities",
                where=_WHERE,
                reason="decode",
                expected="0..1",
                got=f"{low:g}..{high:g}",
                remedy='these look like logits: set activation = "softmax" in the decoder\'s options',
            )
        return np.clip(real, 0.0, 1.0, out=self._scores)


def _scores_output(outputs: Sequence[TensorSpec], wanted: int) -> int:
    """The one output that has scores: a single line of numbers, as many as labels where several outputs are lines."""
    lines = {
        index: max(spec.shape, default=1)
        for index, spec in enumerate(outputs)
        if spec.shape and sum(side > 1 for side in spec.shape) <= 1 and max(spec.shape) > 0
    }
    if len(lines) > 1 and wanted:
        lines = {index: length for index, length in lines.items() if length == wanted}
    if len(lines) != 1:
        raise ModelError(
            "the outputs are not those of a classifier" if not lines else "several outputs could hold the scores",
            where=_WHERE,
            expected=f"one output 1×{wanted or 'N'}",
            got=describe(outputs),
            remedy="choose another decoder for this model, or give it the labels it was trained with",
        )
    return next(iter(lines))
