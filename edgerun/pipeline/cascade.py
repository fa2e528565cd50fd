"""Cascades: which of what a model found a second model looks at, and which part of the frame it is given."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgerun.types import Answer, Box, Detection

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_PATIENCE_NS = 1_000_000_000  # a crop can be superseded, expire or fail: then it is tried again


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
    score: tuple[float, float] | None = None
    whole: bool = False


class CropChooser:
    """Chooses the crops of one lane. An object counts as looked at when the second model has answered; until then it is
    asked about again after `_PATIENCE_NS`. `choose` is the first worker's, `answered` the second's.
    """

    def __init__(self, plan: CascadePlan) -> None:
        self.plan = plan
        self._asked_ns: dict[int, int] = {}
        self._answered_ns: dict[int, int] = {}

    def choose(self, answer: Answer, captured_ns: int) -> tuple[list[Detection], int]:
        """What the second model is to look at, and how many that were meant are left out.

        At most `max_crops`; one where the whole frame is looked at, and nothing is left out then.
        """
        plan = self.plan
        found: Sequence[Detection] = answer.detections or ()
        if plan.whole and answer.detections is None and answer.classes:
            surest = max(answer.classes, key=lambda one: one.score)
            found = (Detection(surest.label, surest.class_id, surest.score, _WHOLE),)
        meant = [one for one in found if self._is_meant(one)]
        due = [one for one in meant if not self._is_known(one, captured_ns)]
        chosen = sorted(due, key=lambda one: -one.score)[: 1 if plan.whole else plan.max_crops]
        if plan.every_ns:
            _forget(self._asked_ns, captured_ns - _PATIENCE_NS)
            _forget(self._answered_ns, captured_ns - plan.every_ns)
            self._asked_ns.update({one.track: captured_ns for one in chosen if one.track is not None})
        return chosen, 0 if plan.whole else len(meant) - len(chosen)

    def region(self, one: Detection, region: Box | None) -> Box | None:
        """The part of the frame that is looked at because of `one`; `region` is what the first model saw."""
        return region if self.plan.whole else widen(one.box, self.plan.margin)

    def answered(self, one: Detection, captured_ns: int) -> None:
        """The second model has looked at it."""
        if self.plan.every_ns and one.track is not None:
            self._answered_ns[one.track] = captured_ns

    def _is_meant(self, one: Detection) -> bool:
        plan = self.plan
        low, high = plan.score or (0.0, 1.0)
        return low <= one.score <= high and (not plan.on or one.label in plan.on)

    def _is_known(self, one: Detection, captured_ns: int) -> bool:
        """Whether it was looked at a moment ago, or is about to be; one that has no number yet is waited for."""
        if not self.plan.every_ns:
            return False
        if one.track is None:
            return True
        asked_ns, answered_ns = self._asked_ns.get(one.track), self._answered_ns.get(one.track)
        if answered_ns is not None and captured_ns - answered_ns < self.plan.every_ns:
            return True
        return asked_ns is not None and captured_ns - asked_ns < min(self.plan.every_ns, _PATIENCE_NS)


def _forget(times_ns: dict[int, int], before_ns: int) -> None:
    for track, at_ns in tuple(times_ns.items()):
        if at_ns < before_ns:
            times_ns.pop(track, None)


def widen(box: Box, margin: float) -> Box:
    """`box` with `margin` of its sides added on every side, kept within the frame."""
    x0, y0, x1, y1 = box
    dx, dy = (x1 - x0) * margin, (y1 - y0) * margin
    return max(0.0, x0 - dx), max(0.0, y0 - dy), min(1.0, x1 + dx), min(1.0, y1 + dy)
