"""How far two models agree about one frame."""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.types import Answer, Box, Detection

IOU = 0.5
"""Intersection over union from which two boxes are of one object (M. Everingham et al., PASCAL VOC, 2010)."""
MARGIN = 0.1
"""A detection that is surer than the threshold by this should not be missing elsewhere; one at the threshold may be."""
_RELATIVE = 0.1


def disagreement(before: Answer, after: Answer, thresholds: tuple[float, float]) -> tuple[float, bool] | None:
    """0 (they say the same) to 1, and whether either of them saw anything; None for answers that cannot be compared.

    Detections: the share of sure ones of either that have no counterpart of the same label, with `IOU`, in the other.
    `thresholds` are those of the two models. Classifications: whether the first class is another. Segmentations: half
    the summed difference of the labels' shares. Values: whether they differ by more than a tenth.
    """
    if before.detections is not None and after.detections is not None:
        return _detections(before.detections, after.detections, thresholds)
    if before.classes is not None and after.classes is not None:
        tops = [one.classes[0].label if one.classes else None for one in (before, after)]
        return float(tops[0] != tops[1]), tops != [None, None]
    if before.segments is not None and after.segments is not None:
        shares = [{one.label: one.share for one in each.segments or ()} for each in (before, after)]
        labels = shares[0].keys() | shares[1].keys()
        apart = sum(abs(shares[0].get(label, 0.0) - shares[1].get(label, 0.0)) for label in labels)
        return min(1.0, apart / 2), bool(labels)
    if before.value is not None and after.value is not None:
        return float(_differ(before.value, after.value)), True
    if before.values is not None and after.values is not None:
        other = {one.name: one.value for one in after.values}
        pairs = [(one.value, other.get(one.name)) for one in before.values]
        wrong = sum(there is None or _differ(value, there) for value, there in pairs)
        return (wrong / len(pairs), True) if pairs else (0.0, False)
    return None


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _detections(
    before: Sequence[Detection], after: Sequence[Detection], thresholds: tuple[float, float]
) -> tuple[float, bool]:
    sure_before, sure_after = (
        sum(one.score >= threshold + MARGIN for one in each)
        for each, threshold in zip((before, after), thresholds, strict=True)
    )
    total = sure_before + sure_after
    if not total:
        return 0.0, False
    matched = _matches(before, after)
    alone = sum(one.score >= thresholds[0] + MARGIN and i not in matched for i, one in enumerate(before))
    theirs = set(matched.values())
    alone += sum(one.score >= thresholds[1] + MARGIN and i not in theirs for i, one in enumerate(after))
    return alone / total, True


def _matches(before: Sequence[Detection], after: Sequence[Detection]) -> dict[int, int]:
    """Which of the one is which of the other, each at most once, those that lie best on each other first."""
    pairs = [
        (overlap, i, j)
        for i, one in enumerate(before)
        for j, other in enumerate(after)
        if one.label == other.label and (overlap := iou(one.box, other.box)) >= IOU
    ]
    found: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(pairs, reverse=True):
        if i not in found and j not in taken:
            found[i] = j
            taken.add(j)
    return found


def _differ(a: float, b: float) -> bool:
    return abs(a - b) > _RELATIVE * max(abs(a), abs(b))
