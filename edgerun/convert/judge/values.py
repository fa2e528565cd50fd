"""Numbers against numbers: cosine similarity and signal-to-quantisation-noise ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgerun.convert.judge.boxes import WORST
from edgerun.convert.parts import ClassQuality, Quality, Sample, Worst
from edgerun.types import Tensor

SQNR_CAP = 120.0
"""dB reported for outputs that are equal: about what float32 resolves."""


def cosine(reference: Tensor, candidate: Tensor) -> float:
    """Of the angle between two arrays of one shape, -1..1; 1 where both are zero, 0 where one is or holds NaN."""
    a, b = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    if lengths == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return min(1.0, max(-1.0, float(a @ b) / lengths))


def sqnr_db(signal: float, noise: float) -> float:
    """10·log10 of the energies' ratio, at most `SQNR_CAP`."""
    if noise <= 0:
        return SQNR_CAP
    return min(SQNR_CAP, 10 * math.log10(signal / noise)) if signal > 0 else -SQNR_CAP


class Vectors:
    """Gathers sample by sample, so that large outputs need not be kept. `names` are those of the outputs."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._energies = np.zeros((len(self._names), 2))  # signal, noise
        self._cosines: list[list[float]] = []

    def add(self, reference: Sequence[Tensor], candidate: Sequence[Tensor] | None) -> None:
        """One sample's outputs, real values; None: the candidate gave none that are numbers."""
        cosines = []
        for at, one in enumerate(reference):
            other = np.zeros_like(one) if candidate is None else candidate[at]
            cosines.append(cosine(one, other))
            signal = one.astype(np.float64)
            self._energies[at, 0] += float(np.square(signal).sum())
            fits = other.shape == one.shape
            noise = np.square(signal - other.astype(np.float64)) if fits else np.square(signal)
            self._energies[at, 1] += float(np.nan_to_num(noise, nan=np.inf).sum())
        self._cosines.append(cosines)

    def quality(self, samples: Sequence[Sample]) -> Quality:
        """The mean cosine of the worst output; SQNR (dB) of each."""
        table = np.array(self._cosines)
        means = table.mean(axis=0)
        more = {f"sqnr_db {name}": sqnr_db(*self._energies[at]) for at, name in enumerate(self._names)}
        more["sqnr_db"] = min(more.values())
        if len(self._names) > 1:
            more |= {f"cosine {name}": float(means[at]) for at, name in enumerate(self._names)}
        else:
            more = {"sqnr_db": more["sqnr_db"]}
        per_sample = table.min(axis=1)
        order = np.argsort(per_sample, kind="stable")[:WORST].tolist()
        worst = tuple(
            Worst(samples[at].origin, float(per_sample[at]), "", f"cosine {per_sample[at]:.4f}", at)
            for at in order
            if per_sample[at] < 1
        )
        value = float(means.min())
        return Quality("cosine", value, 1.0, value, len(samples), more, (), worst)


def judge_quantities(
    reference: Sequence[Sequence[float]],
    candidate: Sequence[Sequence[float]],
    names: Sequence[str],
    samples: Sequence[Sample],
) -> Quality:
    """Regressions: the cosine over the set of a quantity's deviations from the original's mean, of the worst quantity.

    Deviations, because a constant (36.6 °C and a little) would make any answer look alike. `sqnr_db` is of the
    deviations too, `mean_error <name>` in the quantity's own unit.
    """
    a, b = np.array(reference, np.float64), np.array(candidate, np.float64)
    middle = a.mean(axis=0)
    cosines = [cosine(a[:, at] - middle[at], b[:, at] - middle[at]) for at in range(a.shape[1])]
    errors = np.abs(a - b)
    noise = [
        sqnr_db(
            float(np.square(a[:, at] - middle[at]).sum()), float(np.nan_to_num(errors[:, at] ** 2, nan=np.inf).sum())
        )
        for at in range(a.shape[1])
    ]
    more = {f"mean_error {name}": float(errors[:, at].mean()) for at, name in enumerate(names)}
    more["sqnr_db"] = min(noise)
    spread = np.maximum(np.ptp(a, axis=0), 1e-12)
    scores = 1 - np.minimum(1.0, np.nan_to_num(errors / spread, nan=1.0)).max(axis=1)
    worst = tuple(
        Worst(samples[at].origin, float(scores[at]), _text(a[at], names), _text(b[at], names), at)
        for at in np.argsort(scores, kind="stable")[:WORST].tolist()
        if scores[at] < 1
    )
    value = min(cosines)
    classes: tuple[ClassQuality, ...] = ()
    return Quality("cosine", value, 1.0, value, len(samples), more, classes, worst)


def _text(values: Tensor, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names[:4], values[:4].tolist(), strict=False))
