"""Classifications against classifications: agreement, and accuracy where the set is labelled."""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.convert.judge.boxes import WORST
from edgerun.convert.parts import ClassQuality, Quality, Sample, Worst
from edgerun.types import Classification

Ranked = Sequence[Sequence[Classification]]


def judge_classes(reference: Ranked, candidate: Ranked, samples: Sequence[Sample], threshold: float) -> Quality:
    """Top-1 and top-5 agreement, and with a label on every sample top-1 accuracy of both, which then is the metric.

    Both are ranked without a threshold; `reported_agreement` says how often the same class, or none, reaches it.
    """
    count = len(samples)
    tops = [(_top(one), _top(other)) for one, other in zip(reference, candidate, strict=True)]
    agreed = sum(a == b for a, b in tops) / count
    within = (
        sum(a in [one.class_id for one in other[:5]] for (a, _), other in zip(tops, candidate, strict=True)) / count
    )
    reported = [
        tuple(_top([c for c in one if c.score >= threshold]) for one in both) for both in _both(reference, candidate)
    ]
    more = {"top1_agreement": agreed, "top5_agreement": within}
    if threshold > 0:
        more["reported_agreement"] = sum(a == b for a, b in reported) / count
    labels = [sample.label for sample in samples]
    worst = _worst(reference, candidate, samples)
    if all(label is not None for label in labels):
        right = [sum(top[at] == label for top, label in zip(tops, labels, strict=True)) / count for at in (0, 1)]
        more["top5_accuracy"] = _within(candidate, labels) / count
        more["original_top5_accuracy"] = _within(reference, labels) / count
        kept = right[1] / right[0] if right[0] else float("nan")
        classes = _by_class(tops, reference, candidate, labels)
        return Quality("accuracy", right[1], right[0], kept, count, more, classes, worst)
    more.pop("top1_agreement")
    classes = _by_class(tops, reference, candidate, None)
    return Quality("top1_agreement", agreed, 1.0, agreed, count, more, classes, worst)


def _both(reference: Ranked, candidate: Ranked) -> list[tuple[Sequence[Classification], Sequence[Classification]]]:
    return list(zip(reference, candidate, strict=True))


def _top(ranked: Sequence[Classification]) -> int | None:
    return ranked[0].class_id if ranked else None


def _within(ranked: Ranked, labels: Sequence[int | None]) -> int:
    return sum(label in [c.class_id for c in one[:5]] for one, label in zip(ranked, labels, strict=True))


def _by_class(
    tops: Sequence[tuple[int | None, int | None]],
    reference: Ranked,
    candidate: Ranked,
    labels: Sequence[int | None] | None,
) -> tuple[ClassQuality, ...]:
    """Without labels: how often the original says a class, how often the candidate too, and how often it alone.

    With labels only the answers that are right count as had and kept; extra are those that it gets wrong alone.
    """
    names = {c.class_id: c.label for one in (*reference, *candidate) for c in one}
    counts: dict[int, list[int]] = {}
    for at, (wanted, got) in enumerate(tops):
        right = labels is None or wanted == labels[at]
        if wanted is not None and right:
            counts.setdefault(wanted, [0, 0, 0])
            counts[wanted][0] += 1
            counts[wanted][1] += wanted == got
        if got is not None and got != wanted and (labels is None or got != labels[at]):
            counts.setdefault(got, [0, 0, 0])[2] += 1
    ordered = sorted(counts, key=lambda index: (counts[index][1] - counts[index][0] - counts[index][2], index))
    return tuple(ClassQuality(names.get(index, str(index)), *counts[index]) for index in ordered)


def _worst(reference: Ranked, candidate: Ranked, samples: Sequence[Sample]) -> tuple[Worst, ...]:
    """By what is left of the score of the original's class."""
    found = []
    for at, (wanted, got) in enumerate(zip(reference, candidate, strict=True)):
        if not wanted or (got and got[0].class_id == wanted[0].class_id):
            continue
        left = next((c.score for c in got if c.class_id == wanted[0].class_id), 0.0)
        score = left / wanted[0].score if wanted[0].score > 0 else 0.0
        found.append(Worst(samples[at].origin, min(score, 1.0), _text(wanted), _text(got), at))
    return tuple(sorted(found, key=lambda one: one.score)[:WORST])


def _text(ranked: Sequence[Classification]) -> str:
    return ", ".join(f"{one.label} {one.score:.2f}" for one in ranked[:3]) or "nothing"
