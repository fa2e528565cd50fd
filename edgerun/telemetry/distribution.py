"""What a model sees as a distribution: how often each label, how surely; and how far two of them lie apart.

The population stability index is Σ (a − e) · ln(a / e) over the bins of an actual and an expected distribution
(N. Siddiqi, Credit Risk Scorecards, 2006; it is Jeffreys' divergence): above 0.25 is what practitioners call a shift.
Without one it still scatters as (1/n + 1/m) · χ² with bins − 1 degrees of freedom (B. Yurdakul, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

SCORE_BINS = 10
"""Of equal width over 0..1."""
MOST_LABELS = 200
OTHERS = "…"
"""Stands for all labels beyond the first `MOST_LABELS`."""
SHIFTED = 0.25
_SURE = 3.09
"""Standard deviations of a normal distribution: one in a thousand lies beyond."""
_EMPTY = 0.5
"""Counted into every bin, so that an empty one has a logarithm (H. Jeffreys' prior)."""

_Share = Annotated[float, Meta(ge=0, le=1)]


class LabelReference(msgspec.Struct, frozen=True):
    """One label's share of all observations, and mean and standard deviation of its score."""

    share: _Share
    mean: float
    std: Annotated[float, Meta(ge=0)]


class Reference(msgspec.Struct, frozen=True):
    """What a model saw when all was well: a bundle's `reference`. `scores` are shares of `SCORE_BINS` bins of 0..1.

    An observation is one detection, or the surest class of a classification.
    """

    observations: Annotated[int, Meta(ge=1)]
    labels: Annotated[dict[str, LabelReference], Meta(min_length=1, max_length=MOST_LABELS + 1)]
    scores: Annotated[tuple[_Share, ...], Meta(min_length=SCORE_BINS, max_length=SCORE_BINS)]


class Counts(msgspec.Struct, frozen=True):
    """A tally as it is kept: `labels` → how many, and the sums of their scores and of the scores' squares."""

    labels: Annotated[
        dict[str, tuple[Annotated[int, Meta(ge=1, le=1 << 53)], float, float]], Meta(max_length=MOST_LABELS + 1)
    ]
    scores: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=1 << 53)], ...], Meta(min_length=SCORE_BINS, max_length=SCORE_BINS)
    ]


class Tally:
    """Observations counted: per label, and by score. Constant memory. Not for two threads at once."""

    @classmethod
    def of(cls, counts: Counts) -> Tally:
        """The tally whose `counts` they are."""
        tally = cls()
        tally.labels = {label: list(sums) for label, sums in counts.labels.items()}
        tally.scores = list(counts.scores)
        tally.count = sum(tally.scores)
        return tally

    def counts(self) -> Counts:
        """As it is kept."""
        labels = {label: (round(sums[0]), sums[1], sums[2]) for label, sums in self.labels.items()}
        return Counts(labels, tuple(self.scores))

    def __init__(self) -> None:
        self.count = 0
        self.labels: dict[str, list[float]] = {}
        """Label → how many, and the sums of their scores and of the scores' squares."""
        self.scores = [0] * SCORE_BINS

    def add(self, label: str, score: float) -> None:
        """One observation; `score` is finite."""
        if label not in self.labels and len(self.labels) >= MOST_LABELS:
            label = OTHERS
        sums = self.labels.setdefault(label, [0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += score
        sums[2] += score * score
        self.scores[min(SCORE_BINS - 1, max(0, int(score * SCORE_BINS)))] += 1
        self.count += 1

    def merged(self, other: Tally) -> Tally:
        """Both together, as one of its own."""
        out = Tally()
        for tally in (self, other):
            out.count += tally.count
            out.scores = [a + b for a, b in zip(out.scores, tally.scores, strict=True)]
            for label, sums in tally.labels.items():
                known = out.labels.get(label, [0, 0.0, 0.0])
                out.labels[label] = [a + b for a, b in zip(known, sums, strict=True)]
        return out

    def reference(self) -> Reference:
        """As a reference for others; `ValueError` when it is empty."""
        if not self.count:
            raise ValueError("nothing was observed, so there is nothing to compare with")
        labels = {
            label: LabelReference(round(share, 6), round(mean, 6), round(std, 6))
            for label, (share, mean, std) in self.moments().items()
        }
        return Reference(self.count, labels, tuple(round(n / self.count, 6) for n in self.scores))

    def moments(self) -> dict[str, tuple[float, float, float]]:
        """Label → share, mean score and its standard deviation."""
        out = {}
        for label, (count, total, squares) in self.labels.items():
            mean = total / count
            out[label] = (count / self.count, mean, math.sqrt(max(0.0, squares / count - mean * mean)))
        return out


def psi(actual: Sequence[float], expected: Sequence[float]) -> float:
    """The population stability index of two lists of counts over the same bins; 0 for equal distributions."""
    n, m = sum(actual) + _EMPTY * len(actual), sum(expected) + _EMPTY * len(expected)
    total = 0.0
    for a, e in zip(actual, expected, strict=True):
        p, q = (a + _EMPTY) / n, (e + _EMPTY) / m
        total += (p - q) * math.log(p / q)
    return total


def chance_psi(n: float, m: float, bins: int) -> float:
    """What the index of `n` and `m` independent observations of the same exceeds once in a thousand times.

    χ² by the cube of a normal variable (E. B. Wilson, M. M. Hilferty, 1931).
    """
    freedom = max(1, bins - 1)
    spread = 2.0 / (9.0 * freedom)
    return (1.0 / n + 1.0 / m) * freedom * (1.0 - spread + _SURE * math.sqrt(spread)) ** 3


def compare(now: Tally, before: Reference, *, per_news: float = 1.0) -> dict[str, Any]:
    """How `now` (not empty) differs from `before`: `score_psi`, `label_psi`, `drifted`, and each label.

    A label's `shift` is that of its mean score in standard deviations of the reference. `per_news`: so many
    observations tell as much as one independent one. `drifted`: an index is above `SHIFTED` by more than chance.
    """
    names = list(dict.fromkeys([*before.labels, *now.labels]))
    counts = [now.labels[name][0] if name in now.labels else 0 for name in names]
    shares = [before.labels[name].share if name in before.labels else 0.0 for name in names]
    m = before.observations
    thin = 1.0 / per_news
    label_psi = psi([n * thin for n in counts], [share * m * thin for share in shares])
    score_psi = psi([n * thin for n in now.scores], [share * m * thin for share in before.scores])
    chance = [chance_psi(now.count * thin, m * thin, bins) for bins in (len(names), SCORE_BINS)]
    return {
        "score_psi": round(score_psi, 3),
        "label_psi": round(label_psi, 3),
        "drifted": label_psi > SHIFTED + chance[0] or score_psi > SHIFTED + chance[1],
        "labels": _labels(now, before),
    }


_MOST_TOLD = 10


def _labels(now: Tally, before: Reference) -> dict[str, dict[str, float]]:
    """The labels seen most, now or in the reference."""
    moments = now.moments()
    weight = {name: one.share for name, one in before.labels.items()}
    for name, (share, _, _) in moments.items():
        weight[name] = max(weight.get(name, 0.0), share)
    out = {}
    for name in sorted(weight, key=lambda name: -weight[name])[:_MOST_TOLD]:
        usual = before.labels.get(name)
        share, mean, std = moments.get(name, (0.0, 0.0, 0.0))
        told = {"share": round(share, 4), "usual_share": round(usual.share, 4) if usual is not None else 0.0}
        if name in moments:
            told |= {"mean": round(mean, 4), "std": round(std, 4)}
        if name in moments and usual is not None and usual.std > 0:
            told["shift"] = round((mean - usual.mean) / usual.std, 2)
        out[name] = told
    return out
