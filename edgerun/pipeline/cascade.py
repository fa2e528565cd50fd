"""Cascades: which of a model's detections a second model looks at, and which part of the frame it is given."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgerun.types import Box, Detection


class CascadePlan(msgspec.Struct, frozen=True):
    """What the config says of `[streams.x.then]`.

    `on`: labels of the detections to crop, empty for all. `max_crops` a frame, the surest first. `margin` widens the
    box by that share of its sides. `every_ns`: a tracked object is looked at again only after this time, one without
    a number not at all; 0: always.
    """

    on: frozenset[str] = frozenset()
    max_crops: int = 4
    margin: float = 0.1
    every_ns: int = 0


class CropChooser:
    """Chooses the crops of one lane, remembering when each track was cropped last. Used by one thread."""

    def __init__(self, plan: CascadePlan) -> None:
        self._plan = plan
        self._cropped_ns: dict[int, int] = {}

    def choose(self, detections: Sequence[Detection], captured_ns: int) -> tuple[list[Detection], int]:
        """The detections to crop, at most `max_crops`, and how many that were meant are left out."""
        plan = self._plan
        meant = [one for one in detections if not plan.on or one.label in plan.on]
        due = [one for one in meant if not self._is_known(one, captured_ns)]
        chosen = sorted(due, key=lambda one: -one.score)[: plan.max_crops]
        if plan.every_ns:
            self._forget(captured_ns)
            self._cropped_ns.update({one.track: captured_ns for one in chosen if one.track is not None})
        return chosen, len(meant) - len(chosen)

    def _is_known(self, one: Detection, captured_ns: int) -> bool:
        """Whether it was looked at a moment ago; one that has no number yet is waited for."""
        if not self._plan.every_ns:
            return False
        if one.track is None:
            return True
        before_ns = self._cropped_ns.get(one.track)
        return before_ns is not None and captured_ns - before_ns < self._plan.every_ns

    def _forget(self, captured_ns: int) -> None:
        old = [track for track, at_ns in self._cropped_ns.items() if captured_ns - at_ns >= self._plan.every_ns]
        for track in old:
            del self._cropped_ns[track]


def widen(box: Box, margin: float) -> Box:
    """`box` with `margin` of its sides added on every side, kept within the frame."""
    x0, y0, x1, y1 = box
    dx, dy = (x1 - x0) * margin, (y1 - y0) * margin
    return max(0.0, x0 - dx), max(0.0, y0 - dy), min(1.0, x1 + dx), min(1.0, y1 + dy)
