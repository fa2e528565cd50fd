"""Where in a picture lies what nobody may be shown, told beside the answer that is reported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import msgspec
import numpy as np

from edgerun.ports import Decoder
from edgerun.types import Answer, Box, Hidden, Placement, Tensor

LOWEST_SCORE = 0.1
"""Of what is to be hidden: what a model takes for a person with one chance in ten is hidden, though not reported."""


class Conceal:
    """A decoder whose answers also say where objects with `labels` are, however unsure the model is of them.

    `decoder` is one that was opened with the lower of `threshold` and `LOWEST_SCORE`; what is reported has at least
    `threshold`. Greedy suppression takes the surest first, so the unsure change nothing about what is reported.
    Of an answer without detections nothing is told.
    """

    options: ClassVar[type[msgspec.Struct]]

    def __init__(self, decoder: Decoder, labels: Collection[str], threshold: float) -> None:
        self._decoder = decoder
        self._hidden = frozenset(labels)
        self._threshold = float(np.float32(threshold))  # as decoders compare it
        self.options = decoder.options  # type: ignore[misc]
        self.wants_inputs = decoder.wants_inputs
        self.labels = decoder.labels

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """See `ports.Decoder`; `hidden` is set where the answer has detections."""
        answer = self._decoder.decode(outputs, placement)
        if answer.detections is None:
            return answer
        boxes = tuple([one.box for one in answer.detections if one.label in self._hidden])
        reported = tuple([one for one in answer.detections if one.score >= self._threshold])
        return msgspec.structs.replace(
            answer, detections=reported, hidden=Hidden(self._hidden, boxes, _seen(placement))
        )


def _seen(placement: Placement) -> Box:
    """The part of the frame that lies in the model's input."""
    x0, y0 = placement.shift_x, placement.shift_y
    x1, y1 = x0 + placement.scale_x, y0 + placement.scale_y
    return max(0.0, x0), max(0.0, y0), min(1.0, x1), min(1.0, y1)
