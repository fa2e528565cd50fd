"""The pure rules: which frame to decode, whose turn it is, how an fps cap holds its rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgerun.pipeline.capture import back_off_s
from edgerun.pipeline.demand import Estimate, RateCap, next_turns, pick, worth_decoding

MS = 1_000_000
times = st.integers(0, 10_000 * MS)


def test_an_idle_worker_gets_every_frame() -> None:
    assert worth_decoding(now_ns=5 * MS, next_arrival_ns=6 * MS, wanted_at_ns=0, decode_ns=2 * MS)


def test_a_frame_whose_successor_comes_in_time_is_not_decoded() -> None:
    assert not worth_decoding(now_ns=0, next_arrival_ns=10 * MS, wanted_at_ns=50 * MS, decode_ns=2 * MS)


def test_the_last_frame_before_the_turn_is_decoded() -> None:
    assert worth_decoding(now_ns=40 * MS, next_arrival_ns=50 * MS, wanted_at_ns=51 * MS, decode_ns=2 * MS)


@given(interval=st.integers(1, 100), service=st.integers(1, 1000), decode=st.integers(0, 20))
def test_a_steady_camera_always_has_one_frame_ready_per_turn(interval: int, service: int, decode: int) -> None:
    """Over one turn of a busy worker exactly the newest frame that still comes in time is decoded."""
    if decode >= interval:
        return
    arrivals = range(0, service + 1, interval)
    decoded = [t for t in arrivals if worth_decoding(t, t + interval, service, decode)]
    assert decoded, "the worker would start its turn with nothing"
    assert len(decoded) <= 2
    newest_in_time = max((t for t in arrivals if t + decode <= service), default=0)
    assert newest_in_time in decoded


@given(waiting=st.lists(st.integers(0, 7), min_size=1, unique=True), ages=st.lists(times, min_size=8, max_size=8))
def test_the_longest_unserved_goes_first(waiting: list[int], ages: list[int]) -> None:
    now = 20_000 * MS
    chosen = pick(waiting, [1.0] * 8, [now - age for age in ages], now)
    assert ages[chosen] == max(ages[i] for i in waiting)


@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=6), st.lists(st.integers(1, 50), min_size=6)
)
def test_no_stream_starves(weights: list[float], services: list[int]) -> None:
    """With every stream always waiting, each is served within a bounded number of turns."""
    served = [0] * len(weights)
    last_turn = [0] * len(weights)
    now = 1
    bound = len(weights) * (int(max(weights) / min(weights)) + 1) * 60
    for turn in range(1, 600):
        chosen = pick(range(len(weights)), weights, served, now)
        served[chosen] = now
        last_turn[chosen] = turn
        now += services[turn % len(services)]
        assert all(turn - last <= bound for last in last_turn)


def test_equal_weights_take_equal_turns() -> None:
    served, counts, now = [0, 0, 0, 0], [0, 0, 0, 0], 1
    for _ in range(400):
        chosen = pick(range(4), [1.0] * 4, served, now)
        served[chosen] = now
        counts[chosen] += 1
        now += 20
    assert counts == [100] * 4


def test_turns_are_told_from_who_is_ahead() -> None:
    assert next_turns(100, None, [10, 20], [False, False]) == [0, 0]
    assert next_turns(100, 0, [10, 20], [False, False]) == [110, 110]
    assert next_turns(100, 0, [10, 20], [False, True]) == [130, 110]
    assert next_turns(100, 0, [10, 20, 5], [True, True, True]) == [135, 110, 130]


@given(
    max_fps=st.floats(0.5, 60),
    intervals_ms=st.lists(st.integers(1, 120), min_size=50, max_size=300),
)
def test_a_rate_cap_is_never_exceeded(max_fps: float, intervals_ms: list[int]) -> None:
    cap = RateCap(max_fps)
    now, admitted = 0, 0
    for interval in intervals_ms:
        now += interval * MS
        admitted += cap.admits(now)
    assert admitted <= now / 1e9 * max_fps + 2.5


def test_a_jittery_camera_keeps_the_capped_rate() -> None:
    cap = RateCap(15)
    captured = [round(i * 1e9 / 30) + (3 * MS if i % 2 else -3 * MS) for i in range(300)]
    admitted = sum(cap.admits(at) for at in captured)
    assert 146 <= admitted <= 152


def test_estimates_ignore_a_clock_that_stepped_back() -> None:
    estimate = Estimate()
    estimate.add(8 * MS)
    estimate.add(-50 * MS)
    assert estimate.value_ns == 8 * MS
    estimate.add(16 * MS)
    assert estimate.value_ns == 9 * MS


@given(st.integers(1, 1000), st.floats(0, 1))
def test_back_off_stays_within_half_a_minute(failures: int, jitter: float) -> None:
    assert 0.25 <= back_off_s(failures, jitter) <= 30.0
    assert back_off_s(failures + 1, jitter) >= back_off_s(failures, jitter)
