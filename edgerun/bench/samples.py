"""Latency samples → figures: exact percentiles, medians over rounds with their spread. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

PERCENTS = (50, 90, 95, 99)


class Spread(msgspec.Struct, frozen=True):
    """A figure as several rounds gave it: the median, and the smallest and largest."""

    median: float
    min: float
    max: float


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` % of the samples do not exceed (nearest rank, no interpolation).

    So every figure is one that was really measured; with fewer than 100 samples p99 is the largest. `samples` need not
    be sorted. Raises `ValueError` when there are none or `percent` is outside 0..100.
    """
    if not samples or not 0 <= percent <= 100:
        raise ValueError("a percentile needs samples and a percent from 0 to 100")
    ordered = sorted(samples)
    # Rounded before ceil: 0.07 * 100 is 7.000000000000001 in binary, which would be one rank too high.
    rank = math.ceil(round(percent * len(ordered) / 100, 9))
    return ordered[max(1, rank) - 1]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the middle two. Raises `ValueError` when there are none."""
    if not values:
        raise ValueError("a median needs values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum. Raises `ValueError` when there are none."""
    return Spread(median(values), min(values), max(values))


def summarise_ms(samples_ns: Sequence[int]) -> dict[str, float]:
    """{"p50": …, "p90", "p95", "p99", "max"} in ms, rounded to 1 µs. Raises `ValueError` when there are none."""
    ordered = sorted(samples_ns)
    figures = {f"p{percent}": round(percentile(ordered, percent) / 1e6, 3) for percent in PERCENTS}
    figures["max"] = round(ordered[-1] / 1e6, 3)
    return figures


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """How many times larger: the ratio of the medians, and the smallest and largest ratio of the pairs.

    The two are rounds in the order they were run, one of each side a pair; where one side has more, those have no pair.
    Raises `ValueError` when a side is empty or a denominator is not above 0.
    """
    pairs = list(zip(numerators, denominators, strict=False))
    if not pairs or min(denominators) <= 0:
        raise ValueError("a ratio needs values on both sides, and denominators above 0")
    ratios = [above / below for above, below in pairs]
    middle = median(numerators) / median(denominators)
    return Spread(middle, min(*ratios, middle), max(*ratios, middle))


def median_of(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of every key that all the tables have, in the first one's order."""
    if not tables:
        return {}
    return {key: median([table[key] for table in tables]) for key in tables[0] if all(key in t for t in tables)}
