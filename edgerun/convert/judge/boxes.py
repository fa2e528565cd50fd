"""Detections against detections: one-to-one matching, recall, extra boxes, mean average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgerun.convert.parts import ClassQuality, Quality, Sample, Worst
from edgerun.convert.subject import SeenSample
from edgerun.types import Detection

IOU = 0.5
"""Overlap from which two boxes are the same object (PASCAL VOC; COCO's AP50)."""
WORST = 12
Found = Sequence[Sequence[Detection]]


def iou(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of N×4 with M×4 boxes (x0, y0, x1, y1): N×M."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas = [(one[:, 2:] - one[:, :2]).clip(0).prod(axis=1) for one in (boxes, others)]
    union = areas[0][:, None] + areas[1][None, :] - common
    shares: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares


def pairs(reference: Sequence[Detection], candidate: Sequence[Detection]) -> list[tuple[int, int]]:
    """(place in reference, place in candidate) of equal class and IoU ≥ 0.5, each in one pair, best overlap first."""
    if not reference or not candidate:
        return []
    overlap = iou(_boxes(reference), _boxes(candidate))
    for at, one in enumerate(reference):
        for other_at, other in enumerate(candidate):
            if one.class_id != other.class_id:
                overlap[at, other_at] = 0.0
    found: list[tuple[int, int]] = []
    rows, columns = np.nonzero(overlap >= IOU)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    left, right = set(), set()
    for at, other_at in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if at not in left and other_at not in right:
            left.add(at)
            right.add(other_at)
            found.append((at, other_at))
    return found


def judge_boxes(reference: Found, candidate: Found, samples: Sequence[Sample]) -> Quality:
    """Recall of the original's detections and the share of extra ones; with labels mAP@.5 of both against them."""
    matched = [pairs(one, other) for one, other in zip(reference, candidate, strict=True)]
    wanted, same = sum(map(len, reference)), sum(map(len, matched))
    extra = sum(map(len, candidate)) - same
    map_of_candidate = mean_average_precision(_as_truth(reference), candidate)
    more = {"recall": same / wanted, "extra": extra / wanted, "map50_of_original": map_of_candidate}
    classes, worst = _by_class(reference, candidate, matched), _worst(reference, candidate, matched, samples)
    truth = [one.objects if isinstance(one, SeenSample) else None for one in samples]
    if all(one is not None for one in truth):
        known = [list(one or ()) for one in truth]
        value, original = mean_average_precision(known, candidate), mean_average_precision(known, reference)
        # Against labels an extra box costs precision already.
        more["extra_boxes"] = more.pop("extra")
        kept = value / original if original else float("nan")
        return Quality("map50", value, original, kept, len(samples), more, classes, worst)
    recall = more.pop("recall")
    more["detections"] = float(wanted)
    return Quality("recall", recall, 1.0, recall, len(samples), more, classes, worst)


def mean_average_precision(truth: Sequence[Sequence[tuple[int, Sequence[float]]]], found: Found) -> float:
    """mAP at IoU 0.5 over the classes that `truth` has, (class, box) each; 0 where it has none.

    Average precision is the area under the precision–recall curve made monotonic (PASCAL VOC from 2010 on); of several
    boxes on one object only the surest counts.
    """
    classes = {index for one in truth for index, _ in one}
    precisions = [_average_precision(truth, found, index) for index in sorted(classes)]
    return float(np.mean(precisions)) if precisions else 0.0


def _average_precision(truth: Sequence[Sequence[tuple[int, Sequence[float]]]], found: Found, index: int) -> float:
    wanted = [np.array([box for one, box in each if one == index], np.float64).reshape(-1, 4) for each in truth]
    ranked = sorted(
        ((one.score, at, one.box) for at, each in enumerate(found) for one in each if one.class_id == index),
        key=lambda one: -one[0],
    )
    taken = [np.zeros(len(boxes), np.bool_) for boxes in wanted]
    hits = []
    for _, at, box in ranked:
        overlap = iou(np.array([box], np.float64), wanted[at])[0]
        best = int(overlap.argmax()) if overlap.size else -1
        hit = best >= 0 and overlap[best] >= IOU and not taken[at][best]
        if hit:
            taken[at][best] = True
        hits.append(hit)
    if not hits:
        return 0.0
    right = np.cumsum(hits)
    recall = np.concatenate([[0.0], right / sum(map(len, wanted))])
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * precision).sum())


def _as_truth(found: Found) -> list[list[tuple[int, Sequence[float]]]]:
    return [[(one.class_id, one.box) for one in each] for each in found]


def _boxes(found: Sequence[Detection]) -> NDArray[np.float64]:
    return np.array([one.box for one in found], np.float64).reshape(-1, 4)


def _by_class(
    reference: Found, candidate: Found, matched: Sequence[Sequence[tuple[int, int]]]
) -> tuple[ClassQuality, ...]:
    counts: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for wanted, got, couples in zip(reference, candidate, matched, strict=True):
        taken = {at for _, at in couples}
        for one in (*wanted, *got):
            names[one.class_id] = one.label
            counts.setdefault(one.class_id, [0, 0, 0])
        for one in wanted:
            counts[one.class_id][0] += 1
        for at, _ in couples:
            counts[wanted[at].class_id][1] += 1
        for at, one in enumerate(got):
            counts[one.class_id][2] += at not in taken
    return tuple(ClassQuality(names[index], *counts[index]) for index in sorted(counts, key=lambda i: -counts[i][0]))


def _worst(
    reference: Found, candidate: Found, matched: Sequence[Sequence[tuple[int, int]]], samples: Sequence[Sample]
) -> tuple[Worst, ...]:
    """By F1: what both have, of what either has."""
    found = []
    for at, (wanted, got, couples) in enumerate(zip(reference, candidate, matched, strict=True)):
        if wanted or got:
            score = 2 * len(couples) / (len(wanted) + len(got))
            if score < 1:
                found.append(Worst(samples[at].origin, score, _text(wanted), _text(got), at))
    return tuple(sorted(found, key=lambda one: one.score)[:WORST])


def _text(found: Sequence[Detection]) -> str:
    return ", ".join(f"{one.label} {one.score:.2f}" for one in found[:8]) or "nothing"
