"""Keypoints against keypoints: object keypoint similarity (COCO)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgerun.convert.judge.boxes import WORST
from edgerun.convert.parts import ClassQuality, Quality, Sample, Worst
from edgerun.convert.subject import SeenSample
from edgerun.types import Keypoints

Figures = Sequence[Sequence[Keypoints]]
"""Of each sample its figures."""

_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
"""COCO's, of nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles (pycocotools, cocoeval.py); the constant
of a point is twice its sigma."""
_OTHER_SIGMA = 0.05
"""Of points that are not COCO's 17 or 5 of a face: near the middle of those."""
_VISIBLE = 0.2
"""Score from which the original's point counts, as MoveNet's and PoseNet's examples draw them."""
_SAME = 0.5


def judge_points(reference: Figures, candidate: Figures, samples: Sequence[Sample]) -> Quality:
    """Mean OKS of the original's figures, each against the candidate's that fits best; 0 for one that is missing.

    `extra`: figures that it adds, as a share of the original's. `figures_kept`: share with an OKS of 0.5 or more.
    """
    scores: list[float] = []
    extra = 0
    worst = []
    for at, (wanted, got) in enumerate(zip(reference, candidate, strict=True)):
        size = _size_of(samples[at])
        own = _best(wanted, got, size)
        extra += max(0, len(got) - sum(score > 0 for score in own))
        scores += own
        if own and min(own) < 1:
            mean = sum(own) / len(own)
            worst.append(Worst(samples[at].origin, mean, f"{len(wanted)} figures", f"{len(got)} figures", at))
    value = sum(scores) / len(scores)
    kept = sum(score >= _SAME for score in scores)
    more = {"figures_kept": kept / len(scores), "extra": extra / len(scores), "figures": float(len(scores))}
    classes = (ClassQuality("figure", len(scores), kept, extra),)
    ordered = tuple(sorted(worst, key=lambda one: one.score)[:WORST])
    return Quality("oks", value, 1.0, value, len(samples), more, classes, ordered)


def oks(reference: Keypoints, candidate: Keypoints, size: tuple[int, int]) -> float:
    """Object keypoint similarity over the points that the reference sees, 0..1; both in 0..1 of a frame of `size`.

    The area is that of the box around those points.
    """
    if len(reference) != len(candidate) or not reference:
        return 0.0
    scale = np.array(size, np.float64)
    a, b = np.array(reference, np.float64), np.array(candidate, np.float64)
    seen = a[:, 2] >= min(_VISIBLE, float(a[:, 2].max()))
    points, others = a[seen, :2] * scale, b[seen, :2] * scale
    area = float(np.prod(np.ptp(points, axis=0)))
    if area <= 0:  # one point, or a line
        area = float(np.ptp(points, axis=0).max()) ** 2 or 0.01 * float(scale.prod())
    sigmas = np.array(_SIGMAS if len(a) == len(_SIGMAS) else (_OTHER_SIGMA,) * len(a))[seen]
    squared = ((points - others) ** 2).sum(axis=1)
    return float(np.exp(-squared / (2 * area * (2 * sigmas) ** 2)).mean())


def _best(wanted: Sequence[Keypoints], got: Sequence[Keypoints], size: tuple[int, int]) -> list[float]:
    """The OKS of each wanted figure, one to one, the best first."""
    ranked = sorted(
        ((oks(one, other, size), i, j) for i, one in enumerate(wanted) for j, other in enumerate(got)), reverse=True
    )
    scores = [0.0] * len(wanted)
    left, right = set(), set()
    for score, i, j in ranked:
        if i not in left and j not in right and math.isfinite(score):
            scores[i] = score
            left.add(i)
            right.add(j)
    return scores


def _size_of(sample: Sample) -> tuple[int, int]:
    if isinstance(sample, SeenSample):
        return sample.frame_size
    return (1, 1) if sample.picture is None else (sample.picture.shape[1], sample.picture.shape[0])
