"""Percentiles, medians and ratios."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.bench.samples import Spread, median, median_of, percentile, ratio, spread, summarise_ms

FINITE = st.floats(-1e9, 1e9)
SAMPLES = st.lists(FINITE, min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (90, 90), (95, 95), (99, 99), (99.5, 100), (100, 100)]
)
def test_nearest_rank_of_1_to_100(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (2, 2), (99, 99), (100, 99), (101, 100), (1000, 990)])
def test_p99_by_the_number_of_samples(count: int, rank: int) -> None:
    assert percentile(range(1, count + 1), 99) == rank


@given(SAMPLES, st.floats(0, 100))
def test_a_percentile_is_a_sample_and_the_smallest_that_covers(samples: list[float], percent: float) -> None:
    value = percentile(samples, percent)
    assert value in samples
    need = percent * len(samples) / 100 - 1e-6
    assert sum(one <= value for one in samples) >= need
    below = [one for one in samples if one < value]
    assert not below or len(below) < need + 1e-5


@given(SAMPLES)
def test_median_is_numpys(samples: list[float]) -> None:
    assert median(samples) == pytest.approx(float(np.median(samples)), rel=1e-12, abs=1e-9)
    found = spread(samples)
    assert found.min <= found.median <= found.max


@pytest.mark.parametrize("percent", [-1, 100.1])
def test_refuses_what_has_no_percentile(percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile([1.0], percent)
    with pytest.raises(ValueError, match="percentile"):
        percentile([], 50)
    with pytest.raises(ValueError, match="median"):
        median([])


def test_summary_in_milliseconds() -> None:
    assert summarise_ms([n * 1_000_000 for n in range(1, 101)]) == {
        "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0
    }  # fmt: skip


def test_ratio_of_medians_with_the_extremes_of_the_pairs() -> None:
    assert ratio([2.0, 4.0, 9.0], [1.0, 4.0, 3.0]) == Spread(4.0 / 3.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="ratio"):
        ratio([1.0], [0.0])
    with pytest.raises(ValueError, match="ratio"):
        ratio([], [1.0])


@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6)), min_size=1, max_size=20))
def test_the_ratio_lies_between_its_extremes(pairs: list[tuple[float, float]]) -> None:
    found = ratio([above for above, _ in pairs], [below for _, below in pairs])
    assert found.min <= found.median <= found.max


def test_medians_of_tables_keep_only_what_all_have() -> None:
    assert median_of([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0}
    assert median_of([]) == {}
