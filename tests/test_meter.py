"""Accounts add up; percentiles are within a bucket of the truth and survive merging."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.meter import FATES, Account, Histogram
from edgerun.types import Stamp

values = st.lists(st.floats(0.001, 9.5 * 3_600_000), min_size=1, max_size=300)


def true_percentile(data: list[float], percent: float) -> float:
    return sorted(data)[max(1, math.ceil(len(data) * percent / 100)) - 1]


@given(values, st.sampled_from([50.0, 90.0, 95.0, 99.0, 100.0]))
def test_percentile_is_at_most_one_bucket_above_the_true_one(data: list[float], percent: float) -> None:
    histogram = Histogram()
    for value in data:
        histogram.record(value)
    truth = true_percentile(data, percent)
    reported = histogram.percentile(percent)
    assert reported is not None
    assert truth - 0.001 <= reported <= truth * (1 + 1 / 32) + 0.002
    assert histogram.max_ms == max(data)


@given(values, values)
def test_merging_equals_recording_together(left: list[float], right: list[float]) -> None:
    together, a, b = Histogram(), Histogram(), Histogram()
    for value in left:
        a.record(value)
        together.record(value)
    for value in right:
        b.record(value)
        together.record(value)
    a.merge(b)
    assert a.summary() == together.summary()
    assert a.count == together.count


def test_take_starts_a_new_interval() -> None:
    histogram = Histogram()
    histogram.record(5)
    taken = histogram.take()
    assert taken.count == 1
    assert histogram.count == 0
    assert histogram.summary() == {}
    assert histogram.percentile(50) is None


def test_values_out_of_range_count_in_the_outermost_bucket() -> None:
    histogram = Histogram()
    histogram.record(0.0)
    histogram.record(-3.0)
    histogram.record(1e12)
    assert histogram.count == 3
    assert histogram.percentile(1) == pytest.approx(0.001)


@given(st.lists(st.sampled_from(FATES), max_size=50), st.integers(0, 5))
def test_account_adds_up(ends: list[str], in_flight: int) -> None:
    account = Account()
    for _ in range(len(ends) + in_flight):
        account.grab()
    for fate in ends:
        account.end(fate, "engine" if fate == "failed" else None)
    view = account.view()
    assert view.grabbed == sum(view.fates.values()) + view.in_flight
    assert view.in_flight == in_flight
    assert sum(view.failed_reasons.values()) == view.fates["failed"]


def test_unknown_fates_and_failures_without_a_reason_are_refused() -> None:
    account = Account()
    with pytest.raises(KeyError):
        account.end("lost")
    with pytest.raises(ValueError, match="with its reason"):
        account.end("failed")
    view = account.view()
    assert sum(view.fates.values()) == sum(view.failed_reasons.values()) == 0


@given(values, values)
def test_the_sum_is_exact_and_merges(left: list[float], right: list[float]) -> None:
    a, b = Histogram(), Histogram()
    for value in left:
        a.record(value)
    for value in right:
        b.record(value)
    b.merge(a.take())
    assert (a.sum_ms, a.count) == (0.0, 0)
    assert b.sum_ms == pytest.approx(math.fsum(left + right))


@given(values)
def test_several_percentiles_are_of_one_look(data: list[float]) -> None:
    histogram = Histogram()
    for value in data:
        histogram.record(value)
    percents = (50, 90, 95, 99)
    assert histogram.percentiles(percents) == [histogram.percentile(one) for one in percents]
    assert list(histogram.summary(percents)) == ["p50", "p90", "p95", "p99", "max"]


@given(st.lists(st.integers(0, 1 << 34), max_size=200))
def test_counts_below_powers_of_two_are_exact(micros: list[int]) -> None:
    octaves = (5, 8, 13, 20, 30)
    histogram = Histogram()
    for value in micros:
        histogram.record((value + 0.5) / 1000)
    assert histogram.cumulative(octaves) == [sum(value < 1 << o for value in micros) for o in octaves]


def test_whoever_watches_an_account_is_told_of_every_end() -> None:
    account, told = Account(), []
    account.end("gated")
    account.watch = lambda *end: told.append(end)
    account.end("skipped")
    stamp = Stamp("dock", 7, 99, 1.8e9)
    account.end("failed", "engine", stamp)
    with pytest.raises(KeyError):
        account.end("lost")
    assert told == [("skipped", None, None), ("failed", "engine", stamp)]
