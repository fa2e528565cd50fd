"""Which way to run a model wins, where frontiers lie, and what a winner looks like in a config."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.bench.choice import TIE, Trial, choose, cost, rank
from edgerun.bench.subject import Subject
from edgerun.bench.sweep import Point, mark_frontier
from edgerun.bench.tune import config_lines, thread_counts


def trial(threads: int = 1, *, idle: float = 10.0, load: float = 20.0, batch: int = 1, **more: float | str) -> Trial:
    figures: dict[str, object] = {
        "idle_p50_ms": idle, "idle_p99_ms": idle * 1.5, "idle_per_s": 1000 * batch / idle,
        "load_p50_ms": load, "load_p99_ms": load * 1.5, "load_per_s": 1000 * batch / load,
        "cpu_ms": idle * threads, "rounds": 5,
    }  # fmt: skip
    return Trial(Subject("m", threads=threads, batch=batch), **{**figures, **more})  # type: ignore[arg-type]


def test_more_threads_that_hurt_beside_a_neighbour_lose() -> None:
    one, two = trial(1, idle=10, load=12), trial(2, idle=8, load=30)
    assert choose([two, one], "latency") is one


def test_a_tie_goes_to_fewer_threads_then_the_smaller_batch_then_the_first() -> None:
    near = 10.0 * (1 + TIE / 2)
    assert choose([trial(2), trial(1, idle=near)], "latency") == trial(1, idle=near)
    assert choose([trial(2), trial(1, idle=10 * (1 + TIE) ** 3)], "latency") == trial(2)
    first, second = trial(1, cpu_ms=7.0), trial(1, cpu_ms=8.0)
    assert choose([first, second], "latency") is first
    small, large = trial(1, idle=10, load=10), trial(1, idle=20, load=20, batch=2)
    assert choose([large, small], "throughput") is small


def test_throughput_counts_pictures() -> None:
    single, batched = trial(1), trial(1, idle=15, load=30, batch=4)
    assert choose([single, batched], "throughput") is batched
    assert choose([single, batched], "latency") is single


@pytest.mark.parametrize("slow", ["idle_p99_ms", "load_p99_ms"])
def test_the_bound_holds_idle_and_under_load(slow: str) -> None:
    quick, late = trial(2, idle=30, load=30), trial(1, **{slow: 101.0})
    assert choose([quick, late], "latency", 100.0) is quick
    assert choose([late], "latency", 100.0) is None


def test_energy_by_the_counter_where_all_have_one_else_by_cpu_time() -> None:
    frugal, quick = trial(1, energy_j=0.1, cpu_ms=20.0), trial(2, energy_j=0.2, cpu_ms=10.0)
    assert choose([quick, frugal], "energy") is frugal
    silent = trial(3, cpu_ms=5.0)
    assert choose([frugal, quick, silent], "energy") is silent


def test_the_refused_never_win() -> None:
    assert choose([Trial(Subject("m"), refused="no")], "latency") is None
    assert choose([], "throughput") is None


TRIALS = st.lists(
    st.builds(trial, st.integers(1, 4), idle=st.floats(1, 100), load=st.floats(1, 100), batch=st.sampled_from([1, 4])),
    max_size=8,
)


@given(TRIALS, st.sampled_from(["latency", "throughput", "energy"]), st.none() | st.floats(1, 200))
def test_the_winner_is_within_a_tie_of_the_best_and_everyone_is_ranked_once(trials, goal, bound) -> None:  # type: ignore[no-untyped-def]
    fit = [one for one in trials if bound is None or max(one.idle_p99_ms, one.load_p99_ms) <= bound]
    winner = choose(trials, goal, bound)
    assert (winner is None) == (not fit)
    if winner is not None:
        assert cost(winner, goal) <= min(cost(one, goal) for one in fit) * (1 + TIE)
    ranked = rank(trials, goal, bound)
    assert len(ranked) == len(fit)
    assert ranked[:1] == ([winner] if winner else [])


def test_the_frontier_holds_what_nothing_beats() -> None:
    points = [
        Point(1, 1, p50_ms=10, throughput_per_s=100),
        Point(1, 4, p50_ms=30, throughput_per_s=130),
        Point(2, 1, p50_ms=12, throughput_per_s=90),
        Point(2, 4, p50_ms=30, throughput_per_s=120),
        Point(4, 4, refused="no"),
    ]
    assert [one.frontier for one in mark_frontier(points)] == [True, True, False, False, False]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_a_frontier_is_never_empty_and_rises(pairs: list[tuple[int, int]]) -> None:
    marked = mark_frontier([Point(1, 1, p50_ms=ms, throughput_per_s=rate) for ms, rate in pairs])
    best = sorted({(one.p50_ms, one.throughput_per_s) for one in marked if one.frontier})
    assert best
    assert [rate for _, rate in best] == sorted({rate for _, rate in best})


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, (1,)), (4, (1, 2, 3, 4)), (8, (1, 2, 3, 4, 5, 6, 7, 8)), (24, (*range(1, 9), 16, 24))]
)
def test_thread_counts(cores: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(cores) == counts


def test_config_lines_are_toml() -> None:
    subject = Subject('odd "name".tflite', engine="tflite", runtime="litert", threads=2, batch=4)
    assert tomllib.loads(config_lines(subject, "odd")) == {
        "models": {
            "odd": {
                "path": 'odd "name".tflite', "engine": "tflite", "runtime": "litert", "accelerators": ["cpu"],
                "threads": 2, "batch": {"max": 4, "max_delay_ms": 20},
            }
        }
    }  # fmt: skip
    assert "runtime" not in config_lines(Subject("m.onnx", engine="onnx"), "m")
