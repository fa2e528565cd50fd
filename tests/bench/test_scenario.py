"""How queries reach the model."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.bench.scenario import Trace, arrivals_ns, back_to_back, highest_rate, serve


def test_iterations_and_batches_of_a_query() -> None:
    calls: list[int] = []
    trace = back_to_back(calls.append, samples=8, batch=3, iterations=2)
    assert calls == [3, 3, 2, 3, 3, 2]
    assert trace.pictures == 16
    assert len(trace.latency_ns) == 2
    assert sum(trace.latency_ns) == trace.wall_ns


def test_there_is_always_one_query() -> None:
    calls: list[int] = []
    assert len(back_to_back(calls.append, samples=1, batch=4, duration_s=1e-9).latency_ns) == 1
    assert calls == [1]
    with pytest.raises(ValueError, match="iterations"):
        back_to_back(calls.append, samples=1, batch=1)


@given(st.floats(0.5, 1000), st.integers(1, 300), st.integers(0, 1000))
@settings(max_examples=50)
def test_arrivals_are_ordered_and_repeatable(rate: float, count: int, seed: int) -> None:
    times = arrivals_ns(rate, count, seed)
    assert len(times) == count
    assert times == sorted(times)
    assert times == arrivals_ns(rate, count, seed)


def test_arrivals_have_the_mean_and_the_scatter_of_a_poisson_process() -> None:
    times = [0, *arrivals_ns(100.0, 20_000, 1)]
    gaps = [(later - earlier) / 1e9 for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(0.01, rel=0.03)
    assert variance == pytest.approx(mean**2, rel=0.06)


def test_what_has_arrived_is_inferred_together() -> None:
    calls: list[int] = []
    trace = serve(calls.append, [0] * 7, batch=3)
    assert calls == [3, 3, 1]
    assert trace.pictures == len(trace.latency_ns) == 7


def test_a_query_is_not_taken_before_it_arrives_and_waiting_counts() -> None:
    trace = serve(lambda count: None, [0, 2_000_000, 2_000_000], batch=1)
    assert all(latency >= 0 for latency in trace.latency_ns)
    assert trace.wall_ns >= 2_000_000


def test_a_hopeless_rate_is_given_up() -> None:
    trace = serve(lambda count: None, [-1_000_000_000] * 50, batch=1, bound_ms=1.0)
    assert trace == Trace(trace.latency_ns, 1, trace.wall_ns, gave_up=True)


@given(st.floats(0, 100), st.integers(1, 12))
def test_the_highest_rate_is_one_that_was_met_and_near_the_truth(limit: float, steps: int) -> None:
    found = highest_rate(lambda rate: rate <= limit, 100.0, steps)
    assert 0 <= found <= limit
    assert limit - found <= 100.0 / 2**steps + 1e-9
