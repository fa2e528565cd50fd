"""MoveNet: the keypoints of one figure, or of up to six."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from edgerun.decode.answer import class_names, detections, keypoints_in_frame, to_frame
from edgerun.decode.tensors import Buffer, dequantise, describe, not_numbers, shape_text, wrong_size
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor, TensorSpec

_WHERE = "decoder pose"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`keypoints` of each figure: 17 for people, in COCO's order (nose, left eye, right eye, ears, shoulders, elbows,
    wrists, hips, knees, ankles). Without labels the one class is "person".
    """

    keypoints: Annotated[int, Meta(ge=1)] = 17


class PoseDecoder:
    """Keypoints `1×1×K×3` (y, x, score) → the answer's `keypoints`; figures `1×N×(3K+5)` → detections with keypoints.

    The layouts of MoveNet's single-pose (Lightning, Thunder) and multi-pose models (model cards and
    tfhub.dev/google/movenet): a figure is K × (y, x, score), then (y0, x0, y1, x1, score), all in 0..1 of the input.
    A single figure is there when the mean score of its keypoints reaches the threshold; else `keypoints` is empty.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._points, self._threshold = options.keypoints, np.float32(context.threshold)
        self.labels = self._names = class_names(context.labels or ("person",), 1, _WHERE)
        single = [at for at, spec in enumerate(context.outputs) if self._ends(spec, (options.keypoints, 3))]
        several = [at for at, spec in enumerate(context.outputs) if self._ends(spec, (-1, 3 * options.keypoints + 5))]
        if len(single) + len(several) != 1:
            raise ModelError(
                "the outputs are not those of a pose model",
                where=_WHERE,
                expected=f"one output 1×1×{options.keypoints}×3, or 1×N×{3 * options.keypoints + 5}",
                got=describe(context.outputs),
                remedy="set keypoints in the decoder's options, or use another decoder (yolo-pose for YOLO)",
            )
        self._single = bool(single)
        self._at = (single or several)[0]
        self._spec = context.outputs[self._at]
        self._real = Buffer()

    @staticmethod
    def _ends(spec: TensorSpec, sides: tuple[int, int]) -> bool:
        """Whether the last two sides are these (-1: any), and those before are single."""
        fits = all(wanted in (-1, side) for side, wanted in zip(spec.shape[-2:], sides, strict=False))
        return len(spec.shape) >= 2 and fits and all(side in (1, -1) for side in spec.shape[:-2])

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`."""
        raw = outputs[self._at]
        width = 3 * self._points + (0 if self._single else 5)
        if raw.size % width or (self._single and raw.size != width):
            shape = (1, 1, self._points, 3) if self._single else (1, -1, width)
            raise wrong_size(raw, self._spec, shape_text(shape), _WHERE)
        rows = dequantise(raw, self._spec, self._real).reshape(-1, width)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = rows[:, 2::3].mean(axis=1) if self._single else rows[:, -1]
        if not np.isfinite(scores).all():
            raise not_numbers("scores", self._spec, _WHERE)
        if len(scores) and scores.max() > 1.02:
            raise FrameError(
                f"scores of output {self._spec.name} are not probabilities",
                where=_WHERE,
                reason="decode",
                expected="0..1",
                got=f"{scores.max():g}",
            )
        found = np.flatnonzero(scores >= self._threshold)
        if not len(found):
            return Answer(keypoints=()) if self._single else Answer(detections=())
        found = found[np.argsort(-scores[found], kind="stable")]
        figures = rows[found].astype(np.float64)
        if not np.isfinite(figures).all():
            raise not_numbers("keypoints", self._spec, _WHERE)
        points = figures[:, : 3 * self._points].reshape(len(found), self._points, 3)[..., (1, 0, 2)]
        if self._single:
            return Answer(keypoints=keypoints_in_frame(points, placement)[0])
        placed, whole = to_frame(figures[:, (-4, -5, -2, -3)], placement)
        placed, found = placed[whole], found[whole]
        sure = scores[found].clip(0, 1).astype(np.float32)
        people = keypoints_in_frame(points[whole], placement)
        return detections(placed, sure, np.zeros(len(found), np.intp), self._names, people)
