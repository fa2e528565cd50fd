"""How much of one result of a model is still there in another of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from edgerun.errors import ConfigError, did_you_mean
from edgerun.types import Answer, Box, Classification, Detection, Keypoints, Segment

Likeness = Callable[[Answer], float]
"""1 where the answer holds the result just as it was and as sure as can be, less the less of it is left."""

_Named = Classification | Detection | Segment
_Kind = TypeVar("_Kind")

_KEYPOINT_SPREAD = 0.1
"""Standard deviation of a keypoint, as a share of the figure's extent: within COCO's constants (0.05..0.21 of √area,
cocodataset.org/#keypoints-eval)."""


class Target(msgspec.Struct, frozen=True, omit_defaults=True, rename={"class_id": "class"}):
    """The one result of an answer that is looked into; what it does not have is None.

    `kind` names the field of the `Answer` it is from, `index` its place among the results of that field (or of that
    field and class, where a class was asked for), `text` is for a reader. `score` of a segment is its share.
    """

    kind: str
    text: str
    index: int = 0
    label: str | None = None
    class_id: int | None = None
    score: float | None = None
    box: Box | None = None


class Wanted(msgspec.Struct, frozen=True):
    """Which result: of a class (label, or its number as text), and which of these, from 0; the surest by default."""

    label: str | None = None
    index: int = 0


SUREST = Wanted()


def choose(answer: Answer, wanted: Wanted, known: Sequence[str], where: str) -> tuple[Target, Likeness]:
    """The wanted result of `answer`, and how like it another answer is.

    `known`: the model's labels. Raises `ConfigError` where there is no such class, result or kind of result.
    """
    for kind, named in (("detections", answer.detections), ("classes", answer.classes), ("segments", answer.segments)):
        if named is not None:
            one: Any = _pick(named, wanted, known, where)
            return _target_of(kind, one, wanted.index), _LIKENESSES[kind](one)
    if wanted.label is not None:
        raise ConfigError("this model's results have no classes", where=where, remedy="leave --class out")
    if answer.values is not None:
        values = _nth(answer.values, wanted, where)
        text = f"{values.name} {values.value:.6g} {values.unit}".strip()
        return Target("values", text, wanted.index, values.name), _like_value(values.value, wanted.index)
    if wanted.index:
        raise ConfigError("this model has one result for a picture", where=where, got=f"--index {wanted.index}")
    if answer.keypoints is not None:
        if not answer.keypoints:
            raise _nothing(where)
        sure = float(np.mean([score for _, _, score in answer.keypoints]))
        text = f"{len(answer.keypoints)} keypoints {sure:.2f}"
        return Target("keypoints", text, score=sure, box=_around(answer.keypoints)), _like_keypoints(answer.keypoints)
    if answer.embedding is not None:
        text = f"embedding of {len(answer.embedding)} numbers"
        return Target("embedding", text, score=1.0), _like_embedding(answer.embedding)
    if answer.value is not None:
        return Target("value", f"value {answer.value:.6g}"), _like_value(answer.value, None)
    raise _nothing(where)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where neither has an area."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    tall = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * tall
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else 0.0


def _pick(found: Sequence[_Named], wanted: Wanted, known: Sequence[str], where: str) -> _Named:
    """The wanted one of `found`, the surest first."""
    if wanted.label is None:
        return _nth(found, wanted, where)
    fitting = [one for one in found if one.label == wanted.label]
    fitting = fitting or [one for one in found if str(one.class_id) == wanted.label]
    if not fitting:
        unknown = bool(known) and wanted.label not in known and not wanted.label.isdecimal()
        raise ConfigError(
            "no such label" if unknown else "the model does not see that class in this picture",
            where=where,
            expected="one of " + ", ".join(dict.fromkeys(one.label for one in found[:8])) if found else None,
            got=f"--class {wanted.label}",
            remedy=(did_you_mean(wanted.label, known) if unknown else None) or "leave --class out for the surest",
        )
    return _nth(fitting, wanted, where)


def _nth(found: Sequence[_Kind], wanted: Wanted, where: str) -> _Kind:
    if not found:
        raise _nothing(where)
    if wanted.index >= len(found):
        raise ConfigError(
            "there are not so many results", where=where, expected=f"--index 0..{len(found) - 1}", got=wanted.index
        )
    return found[wanted.index]


def _nothing(where: str) -> ConfigError:
    return ConfigError(
        "the model finds nothing in this picture, so there is nothing to explain",
        where=where,
        remedy="lower --threshold, name a --class, or take another picture",
    )


def _target_of(kind: str, one: _Named, index: int) -> Target:
    if isinstance(one, Segment):
        box = _outline_box(one)
        return Target(kind, f"{one.label} {one.share:.1%}", index, one.label, one.class_id, one.share, box)
    box = one.box if isinstance(one, Detection) else None
    return Target(kind, f"{one.label} {one.score:.2f}", index, one.label, one.class_id, one.score, box)


def _outline_box(segment: Segment) -> Box | None:
    corners = [corner for polygon in segment.polygons for corner in polygon]
    if not corners:
        return None
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _around(points: Keypoints) -> Box:
    seen = [point for point in points if point[2] > 0] or list(points)
    xs, ys = [point[0] for point in seen], [point[1] for point in seen]
    return min(xs), min(ys), max(xs), max(ys)


def _like_class(one: Classification) -> Likeness:
    """The score of the class."""
    return lambda answer: next((c.score for c in answer.classes or () if c.class_id == one.class_id), 0.0)


def _like_detection(one: Detection) -> Likeness:
    """D-RISE's similarity with the score in place of the class vector, which an answer does not hold.

    Petsiuk et al., *Black-box Explanation of Object Detectors via Saliency Maps* (2021), equations 3 to 6: the
    largest of IoU × likeness of class × sureness over all detections.
    """

    def like(answer: Answer) -> float:
        same = (d for d in answer.detections or () if d.class_id == one.class_id)
        return max((iou(one.box, d.box) * d.score for d in same), default=0.0)

    return like


def _like_segment(one: Segment) -> Likeness:
    """IoU of the masks where both carry one, else of their shares: how much smaller the smaller is."""
    mask = _mask(one)

    def like(answer: Answer) -> float:
        other = next((s for s in answer.segments or () if s.class_id == one.class_id), None)
        if other is None:
            return 0.0
        theirs = _mask(other)
        if mask is None or theirs is None or mask.shape != theirs.shape:
            return min(one.share, other.share) / max(one.share, other.share, 1e-9)
        return float(np.logical_and(mask, theirs).sum() / max(1, np.logical_or(mask, theirs).sum()))

    return like


def _mask(segment: Segment) -> Any:
    """The pixels of COCO's run-length code in its own order, bool; None without one."""
    if segment.runs is None:
        return None
    return np.repeat(np.arange(len(segment.runs.counts)) % 2 == 1, segment.runs.counts)


def _like_keypoints(points: Keypoints) -> Likeness:
    """Object keypoint similarity × score, over the points that were seen.

    COCO's OKS: the mean of exp(−d² / 2σ²), here with one σ for all points, since a model's own are not known.
    """
    x0, y0, x1, y1 = _around(points)
    spread = max(1e-3, _KEYPOINT_SPREAD * math.hypot(x1 - x0, y1 - y0))
    seen = [at for at, point in enumerate(points) if point[2] > 0]

    def like(answer: Answer) -> float:
        theirs = answer.keypoints or ()
        if len(theirs) != len(points) or not seen:
            return 0.0
        near = [math.dist(points[at][:2], theirs[at][:2]) / spread for at in seen]
        return sum(theirs[at][2] * math.exp(-d * d / 2) for at, d in zip(seen, near, strict=True)) / len(seen)

    return like


def _like_embedding(original: Sequence[float]) -> Likeness:
    """Cosine of the angle between the two."""
    first = np.asarray(original, np.float64)

    def like(answer: Answer) -> float:
        other = np.asarray(answer.embedding or (), np.float64)
        length = float(np.linalg.norm(first) * np.linalg.norm(other)) if other.shape == first.shape else 0.0
        return float(first @ other) / length if length else 0.0

    return like


def _like_value(original: float, index: int | None) -> Likeness:
    """1 less the change, relative to the value; the same whether it grows or falls."""
    unit = max(abs(original), 1e-6)

    def like(answer: Answer) -> float:
        values = [answer.value] if index is None else [one.value for one in answer.values or ()][index : index + 1]
        return 1.0 - abs(values[0] - original) / unit if values and values[0] is not None else 0.0

    return like


_LIKENESSES: dict[str, Callable[[Any], Likeness]] = {
    "detections": _like_detection,
    "classes": _like_class,
    "segments": _like_segment,
}
