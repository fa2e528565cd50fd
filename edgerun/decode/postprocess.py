"""Models that end in `TFLite_Detection_PostProcess`: boxes already decoded and suppressed by the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.decode.answer import detections, to_frame
from edgerun.decode.tensors import dequantise, describe, not_numbers, shape_text
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Answer, Placement, Tensor, TensorSpec

_WHERE = "decoder tflite-detection-postprocess"
_EXPECTED = "boxes 1×N×4, classes 1×N, scores 1×N and count 1, in any order"

# Parts of tensor names that mean one role wherever they appear (TF1's converter and signature names). TF2's
# `StatefulPartitionedCall:k` means another output in another export, so it is not here.
_NAMES = {
    "boxes": ("detection_boxes", "location"),
    "classes": ("detection_classes", "category", "TFLite_Detection_PostProcess:1"),
    "scores": ("detection_scores", "score", "TFLite_Detection_PostProcess:2"),
    "count": ("num_detections", "number of detections", "TFLite_Detection_PostProcess:3"),
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`class_offset` is added to the model's class to find its label: 1 where the labels begin with a background."""

    class_offset: int = 0


class DetectionPostprocessDecoder:
    """Boxes `1×N×4` (ymin, xmin, ymax, xmax in 0..1), classes `1×N`, scores `1×N`, count `1` → detections.

    Exports order the four outputs differently and may state no shapes, so each is known by what it holds: boxes and
    count by their real shape; classes and scores by name, else by value: scores are fractions of 1, classes whole
    numbers. The first frame whose values leave only one reading decides, and stays decided. Before that a frame on
    which both readings have nothing to report is empty, any other raises `FrameError(reason="decode")`.

    The class reported is the model's plus `class_offset`. `labels` names the classes an answer can hold; empty when
    there are no labels, because this kind of model does not say how many classes it has.
    """

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_inputs: bool = False

    def __init__(self, options: Options, context: DecoderContext) -> None:
        self._offset = options.class_offset
        self._specs = context.outputs
        self._threshold = np.float32(context.threshold)
        if len(self._specs) != 4 or not _possible(self._specs):
            raise ModelError(
                "the outputs are not those of TFLite_Detection_PostProcess",
                where=_WHERE,
                expected=_EXPECTED,
                got=describe(self._specs),
                remedy="choose another decoder for this model",
            )
        if context.labels and not 0 <= self._offset < len(context.labels):
            raise ModelError(
                "class_offset leaves no labels",
                where=_WHERE,
                expected=f"0..{len(context.labels) - 1}",
                got=f"{self._offset}",
            )
        self._names = context.labels
        self.labels = tuple(context.labels[self._offset :])
        self._named = _by_name(self._specs)
        self._decided: tuple[int, int] | None = None

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`. Also raises `FrameError` for a class that no label names."""
        boxes_at, count_at, pair = self._shapes(outputs)
        real = [dequantise(raw, spec).ravel() for raw, spec in zip(outputs, self._specs, strict=True)]
        count = self._count(real[count_at], len(real[pair[0]]))
        a, b = (real[index][:count] for index in pair)
        for values, index in ((a, pair[0]), (b, pair[1])):
            if not np.isfinite(values).all():
                raise not_numbers("scores or classes", self._specs[index], _WHERE)
        classes, scores = (a, b) if self._order(pair, a, b) else (b, a)
        found = np.flatnonzero(scores >= self._threshold)
        if not len(found):
            return Answer(detections=())
        boxes = real[boxes_at].reshape(-1, 4)[found][:, (1, 0, 3, 2)]
        if not np.isfinite(boxes).all():
            raise not_numbers("boxes", self._specs[boxes_at], _WHERE)
        placed, whole = to_frame(boxes.astype(np.float64), placement)
        order = np.flatnonzero(whole)
        order = order[np.argsort(-scores[found][order], kind="stable")]
        ids = classes[found][order].astype(np.intp) + self._offset
        if self._names and len(ids) and not 0 <= ids.min() <= ids.max() < len(self._names):
            raise FrameError(
                "the model reports a class that no label names",
                where=_WHERE,
                reason="decode",
                expected=f"classes 0..{len(self._names) - 1 - self._offset}",
                got=f"{int(ids.max() if ids.min() >= 0 else ids.min()) - self._offset}",
                remedy="give the label file the model was trained with, or correct class_offset",
            )
        return detections(placed[order], scores[found][order], ids, self._names)

    def _shapes(self, outputs: Sequence[Tensor]) -> tuple[int, int, tuple[int, int]]:
        """Indices of the boxes and the count by real shape, and of the other two, in the order of the outputs."""
        boxes = [index for index, raw in enumerate(outputs) if raw.ndim >= 2 and raw.shape[-1] == 4]
        for box in boxes:
            rows = outputs[box].size // 4
            others = [index for index in range(len(outputs)) if index != box]
            counts = [index for index in others if outputs[index].size == 1 and outputs[index].ndim <= 1]
            if len(counts) != 1:
                counts = [index for index in others if outputs[index].size == 1]
            if len(counts) == 3 and (named := self._named.get("count")) is not None:
                counts = [named]
            if len(counts) != 1:
                continue
            pair = [index for index in others if index != counts[0]]
            if all(outputs[index].size == rows for index in pair):
                return box, counts[0], (pair[0], pair[1])
        raise FrameError(
            "the outputs do not fit together",
            where=_WHERE,
            reason="decode",
            expected=_EXPECTED,
            got=", ".join(shape_text(raw.shape) for raw in outputs),
        )

    def _count(self, values: NDArray[np.float32], rows: int) -> int:
        value = float(values[0])
        if not (value >= 0 and value == int(min(value, 1e9))):
            raise FrameError(
                "the count of detections is not a count",
                where=_WHERE,
                reason="decode",
                expected=f"a whole number, 0..{rows}",
                got=f"{value:g}",
            )
        return min(int(value), rows)

    def _order(self, pair: tuple[int, int], a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
        """Whether the first of the pair holds the classes (and the second the scores)."""
        a_first, b_first = _reads(a, b), _reads(b, a)
        if self._decided is None:
            if "classes" in self._named and self._named["classes"] in pair:
                self._decided = (self._named["classes"], sum(pair) - self._named["classes"])
            elif "scores" in self._named and self._named["scores"] in pair:
                self._decided = (sum(pair) - self._named["scores"], self._named["scores"])
            elif a_first != b_first:
                self._decided = pair if a_first else (pair[1], pair[0])
        if self._decided is None and a_first and b_first:
            if not (a >= self._threshold).any() and not (b >= self._threshold).any():
                return True
            got = "values that could be either"
        elif self._decided is not None and (a_first if self._decided == pair else b_first):
            return self._decided == pair
        else:
            got = "values that are neither" if not (a_first or b_first) else "the two the other way round than before"
        raise FrameError(
            "cannot tell classes from scores",
            where=_WHERE,
            reason="decode",
            expected="whole numbers from 0 (classes) and fractions in 0..1 (scores)",
            got=f"{got}: {a[:4].tolist()} and {b[:4].tolist()}",
        )


def _reads(classes: NDArray[np.float32], scores: NDArray[np.float32]) -> bool:
    """Whether the values can be classes and scores."""
    whole = (classes >= 0).all() and (classes == np.floor(classes)).all()
    return bool(whole and (scores >= 0).all() and (scores <= 1).all())


def _possible(specs: Sequence[TensorSpec]) -> bool:
    """Whether one of the outputs can hold boxes and three others cannot be anything larger.

    Unspecified shapes (empty, or with open sides) can be anything.
    """
    stated = [spec.shape for spec in specs if spec.shape and min(spec.shape) > 0]
    boxes = [shape for shape in stated if len(shape) >= 2 and shape[-1] == 4]
    flat = [shape for shape in stated if sum(side > 1 for side in shape) <= 1]
    if len(stated) < len(specs):
        return all(shape in boxes or shape in flat for shape in stated)
    sizes = sorted(int(np.prod(shape)) for shape in stated)
    return bool(boxes) and sizes[0] == 1 and sizes[1] == sizes[2] and sizes[3] == 4 * sizes[2]


def _by_name(specs: Sequence[TensorSpec]) -> dict[str, int]:
    """The roles that a name gives away, where exactly one output is called so."""
    roles = {}
    for role, words in _NAMES.items():
        found = [i for i, spec in enumerate(specs) if any(word.lower() in spec.name.lower() for word in words)]
        if len(found) == 1:
            roles[role] = found[0]
    return roles
