"""Only the labels a stream asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import msgspec

from edgerun.errors import ConfigError, did_you_mean
from edgerun.ports import Decoder
from edgerun.types import Answer, Placement, Tensor


class Select:
    """A decoder whose answers hold only some labels; of several streams of one model each has its own.

    The filter comes after the decoder's own limits (top_k, max_detections), so it never adds anything.
    Raises `ConfigError` for a label that the model does not have.
    """

    options: ClassVar[type[msgspec.Struct]]

    def __init__(self, decoder: Decoder, labels: Iterable[str]) -> None:
        self._decoder = decoder
        self._labels = frozenset(labels)
        self.options = decoder.options  # type: ignore[misc]
        self.wants_inputs = getattr(decoder, "wants_inputs", False)
        known = decoder.labels
        for label in sorted(self._labels):
            if label in known or (not known and label.isdecimal()):
                continue
            raise ConfigError(
                "the model has no such label",
                where="labels",
                expected=_few(known) if known else "class numbers, because the model has no labels",
                got=f'"{label}"',
                remedy=did_you_mean(label, known),
            )
        self.labels = tuple(name for name in known if name in self._labels) or tuple(sorted(self._labels))

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Answer:
        """What the wrapped decoder finds, without the other labels."""
        answer = self._decoder.decode(outputs, placement)
        wanted = self._labels
        if answer.detections:
            kept = tuple([found for found in answer.detections if found.label in wanted])
            return answer if len(kept) == len(answer.detections) else msgspec.structs.replace(answer, detections=kept)
        if answer.classes:
            named = tuple([found for found in answer.classes if found.label in wanted])
            return answer if len(named) == len(answer.classes) else msgspec.structs.replace(answer, classes=named)
        if answer.segments:
            parts = tuple([found for found in answer.segments if found.label in wanted])
            return answer if len(parts) == len(answer.segments) else msgspec.structs.replace(answer, segments=parts)
        return answer


def _few(known: Sequence[str], most: int = 12) -> str:
    names = ", ".join(known[:most])
    return f"one of {names}" + (f" and {len(known) - most} more" if len(known) > most else "")
