"""The pure rules: which frame to decode, whose turn it is, how an fps cap holds its rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.pipeline.capture import back_off_s
from edgerun.pipeline.demand import (
    Estimate,
    Gaps,
    RateCap,
    decode_at,
    due_in_ns,
    head_start,
    min_period_ns,
    overlap_start,
    pick,
    plan_turns,
    worth_retrieving,
)

MS = 1_000_000
times = st.integers(0, 10_000 * MS)


@given(waiting=st.lists(st.integers(0, 7), min_size=1, unique=True), ages=st.lists(times, min_size=8, max_size=8))
def test_the_longest_unserved_goes_first(waiting: list[int], ages: list[int]) -> None:
    now = 20_000 * MS
    chosen = pick(waiting, [1.0] * 8, [now - age for age in ages], now)
    assert ages[chosen] == max(ages[i] for i in waiting)


@given(
    weights=st.lists(st.floats(0.01, 100.0), min_size=2, max_size=6),
    services=st.lists(st.integers(1, 50), min_size=6),
    min_fps=st.lists(st.sampled_from([0.0, 0.0, 1.0, 20.0]), min_size=6, max_size=6),
)
def test_no_stream_starves(weights: list[float], services: list[int], min_fps: list[float]) -> None:
    """With every stream always waiting, each is served within a bounded time, whatever is promised to the others.

    The bounds: the others' weighted ages pass a lane's no more often than their weight is larger; once promises are
    broken, whoever waited most periods goes first, and the longest period is 8 times the longest promised one.
    """
    lanes = len(weights)
    periods = [min_period_ns(fps, 50 * MS) for fps in min_fps[:lanes]]
    served = [0] * lanes
    now, longest_turn = 1, max(services) * MS
    by_weight = (lanes + sum(weights) / min(weights) + 2) * longest_turn
    by_promise = 8 * max(periods) * (1 + lanes * 2) + lanes * longest_turn
    for turn in range(600):
        chosen = pick(range(lanes), weights, served, now, periods)
        served[chosen] = now
        now += services[turn % len(services)] * MS
        assert now - min(served) <= max(by_weight, by_promise)


@given(
    lanes=st.integers(2, 6),
    load=st.floats(0.1, 0.5),
    service=st.integers(5, 60),
    shares=st.lists(st.integers(1, 5), min_size=6, max_size=6),
    heavy=st.floats(1.0, 50.0),
)
def test_min_fps_is_kept_where_it_can_be(
    lanes: int, load: float, service: int, shares: list[int], heavy: float
) -> None:
    """Promises up to half of the engine are kept, to a tenth at worst, beside a stream that would take all of it."""
    per_s = 1000 / service
    min_fps = [0.0] + [load * per_s * share / sum(shares[1:lanes]) for share in shares[1:lanes]]
    weights = [heavy] + [1.0] * (lanes - 1)
    periods = [min_period_ns(fps, service * MS) for fps in min_fps]
    served, counts, now = [0] * lanes, [0] * lanes, 0
    longest_s = 60 / min(fps for fps in min_fps if fps)
    while now < longest_s * 1e9 and sum(counts) < 2_000:
        chosen = pick(range(lanes), weights, served, now, periods)
        served[chosen] = now
        counts[chosen] += 1
        now += service * MS
    for count, fps in zip(counts, min_fps, strict=True):
        assert count >= 0.9 * fps * now / 1e9 - 2
    assert counts[0] > 0


def test_weights_are_rates() -> None:
    served, counts, now = [0, 0, 0], [0, 0, 0], 1
    for _ in range(700):
        chosen = pick(range(3), [4.0, 2.0, 1.0], served, now)
        served[chosen] = now
        counts[chosen] += 1
        now += 20
    assert counts[0] / counts[2] == pytest.approx(4, rel=0.1)
    assert counts[1] / counts[2] == pytest.approx(2, rel=0.1)


def test_equal_weights_take_equal_turns() -> None:
    served, counts, now = [0, 0, 0, 0], [0, 0, 0, 0], 1
    for _ in range(400):
        chosen = pick(range(4), [1.0] * 4, served, now)
        served[chosen] = now
        counts[chosen] += 1
        now += 20
    assert counts == [100] * 4


@pytest.mark.parametrize("weight", [1, 2, 3, 5, 8])
@given(jitter=st.lists(st.integers(-10, 10), min_size=200, max_size=200))
def test_turns_are_shared_as_the_weights_say_whatever_the_jitter(weight: int, jitter: list[int]) -> None:
    weights, now, counts = [1.0, float(weight)], 10_000, [0, 0]
    served = [0, 0]
    for late in jitter:
        chosen = pick(range(2), weights, served, now)
        counts[chosen] += 1
        served[chosen] = now - int(head_start(weights) * 100)
        now += 100 + late // (2 * weight)
    assert abs(counts[1] - weight * counts[0]) <= weight + 1


def test_turns_are_told_from_who_is_ahead() -> None:
    assert plan_turns(100, None, [10, 20], [False, False]) == [0, 0]
    assert plan_turns(100, 0, [10, 20], [False, False]) == [110, 110]
    assert plan_turns(100, 0, [10, 20], [False, True]) == [130, 110]
    assert plan_turns(100, 0, [10, 20, 5], [True, True, True]) == [135, 110, 130]


def test_on_an_idle_worker_one_lane_is_called_and_the_others_follow() -> None:
    assert plan_turns(100, None, [10, 20, 5], [True, True, False], [1, 1, 1], [50, 40, 90]) == [120, 0, 130]
    assert plan_turns(100, None, [10, 20, 5], [True, True, False], [1, 1, 1], [50, 40, 30]) == [120, 0, 0]


def test_a_heavy_lane_goes_twice_before_a_light_one() -> None:
    turns = plan_turns(100, None, [10, 10], [True, True], [4.0, 1.0], [60, 95])
    assert turns == [0, 140]


@given(
    services=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    ages=st.lists(st.integers(0, 500), min_size=6, max_size=6),
    weights=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=6, max_size=6),
    fps=st.lists(st.sampled_from([0.0, 5.0]), min_size=6, max_size=6),
    in_hand=st.lists(st.booleans(), min_size=6, max_size=6),
    current=st.none() | st.integers(0, 5),
)
def test_the_plan_is_what_pick_will_do(
    services: list[int], ages: list[int], weights: list[float], fps: list[float], in_hand: list[bool], current: int
) -> None:
    lanes = len(services)
    now, current = 1000 * MS, current if current is not None and current < lanes else None
    served = [now - age * MS for age in ages[:lanes]]
    periods = [min_period_ns(f, 0) for f in fps[:lanes]]
    services_ns = [service * MS for service in services]
    turns = plan_turns(now, current, services_ns, in_hand[:lanes], weights[:lanes], served, periods)
    ready = [i for i in range(lanes) if in_hand[i]]
    if current is not None:  # as `Turns` notes it down when it takes the frame
        served[current] = now - int(head_start(weights[:lanes]) * services_ns[current])
    at = now if current is None else now + services_ns[current]
    assert all(turn == 0 if at == now and not ready else turn >= at or turn == 0 for turn in turns)
    if ready:
        first = pick(ready, weights[:lanes], served, at, periods)
        assert turns[first] == (0 if at == now else at)


@given(wanted=times, decode=st.integers(0, 100 * MS), uncertain=st.integers(0, 100 * MS), spare=st.booleans())
def test_a_held_frame_is_decoded_about_when_it_is_wanted(wanted: int, decode: int, uncertain: int, spare: bool) -> None:
    now = 5000 * MS
    at = decode_at(now, wanted, decode, uncertain, spare_core=spare)
    if wanted <= now:
        assert at == now, "the worker waits"
    else:
        assert max(now, wanted - decode - uncertain) <= at <= wanted + 2 * uncertain
    assert decode_at(now, wanted, decode, uncertain, spare_core=spare, in_slot=True) > now, "it would spin"


def test_a_held_frame_is_decoded_ahead_only_beside_a_spare_core_and_a_fair_guess() -> None:
    assert decode_at(0, 100 * MS, 8 * MS, 4 * MS, spare_core=True) == 90 * MS
    assert decode_at(0, 100 * MS, 8 * MS, 4 * MS, spare_core=False) == 108 * MS
    assert decode_at(0, 100 * MS, 1 * MS, 4 * MS, spare_core=True) == 108 * MS


def test_preparing_ends_as_the_accelerator_does() -> None:
    assert overlap_start(100 * MS, 7 * MS, 2 * MS) == 91 * MS


def _gaps(*gaps_ms: int) -> Gaps:
    gaps, at = Gaps(), 0
    gaps.add(at)
    for gap in gaps_ms:
        at += gap * MS
        gaps.add(at)
    return gaps


def test_a_frame_that_cannot_be_held_is_left_out_only_if_the_next_can_be_relied_on() -> None:
    steady = _gaps(*[33] * 60)
    assert not worth_retrieving(0, 0, 100 * MS, 4 * MS, steady)
    assert worth_retrieving(70 * MS, 70 * MS, 100 * MS, 4 * MS, steady), "the next comes at 103"
    assert worth_retrieving(0, 0, 100 * MS, 4 * MS, Gaps()), "nothing is known of the camera"
    assert worth_retrieving(0, 0, 0, 4 * MS, steady), "the worker waits"
    bursty = _gaps(*[33] * 40, 450, *[1] * 13)
    assert worth_retrieving(0, 0, 100 * MS, 4 * MS, bursty), "one pause of 350 ms too long in 54 gaps"
    assert not worth_retrieving(33 * MS, 33 * MS, 133 * MS, 4 * MS, bursty, in_slot_ns=0), "one waits, nearly as new"
    assert worth_retrieving(200 * MS, 200 * MS, 333 * MS, 4 * MS, bursty, in_slot_ns=0)


def test_gaps_go_by_what_came_not_by_what_was_stated() -> None:
    assert _gaps(*[143] * 10).mean_ns == 143 * MS
    assert Gaps().mean_ns == 0
    assert Gaps().lateness_ns(0) is None
    gaps = _gaps(30, 50)
    assert gaps.lateness_ns(40 * MS) == 5 * MS
    assert gaps.late_share(40 * MS) == 0.5


def test_gaps_forget_a_clock_that_stepped_back_and_a_source_that_was_away() -> None:
    gaps = _gaps(30, 30)
    gaps.add(-9000 * MS)
    assert gaps.mean_ns == 30 * MS
    gaps.add(-8970 * MS)
    gaps.pause()
    gaps.add(50_000 * MS)
    assert gaps.mean_ns == 30 * MS


@given(st.lists(st.integers(-1000, 1000), max_size=200), st.integers(-1000, 1000))
def test_gaps_stay_small_and_sane_whatever_the_stamps(steps: list[int], slack: int) -> None:
    gaps, at, seen = Gaps(), 0, []
    gaps.add(0)
    for step in steps:
        at += step
        gaps.add(at)
        if step >= 0:
            seen.append(step)
    kept = seen[-64:]
    assert gaps.mean_ns == (sum(kept) // len(kept) if kept else 0)
    if kept:
        assert gaps.lateness_ns(slack) == sum(max(0, gap - slack) for gap in kept) // len(kept)


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


def test_deviation_follows_rfc_6298() -> None:
    estimate = Estimate()
    estimate.add(80 * MS)
    assert (estimate.value_ns, estimate.deviation_ns) == (80 * MS, 40 * MS)
    estimate.add(80 * MS)
    assert (estimate.value_ns, estimate.deviation_ns) == (80 * MS, 30 * MS)
    estimate.add(160 * MS)
    assert (estimate.value_ns, estimate.deviation_ns) == (90 * MS, round(42.5 * MS))
    assert due_in_ns(estimate) == 260 * MS


@given(st.integers(1, 1000), st.floats(0, 1))
def test_back_off_stays_within_half_a_minute(failures: int, jitter: float) -> None:
    assert 0.25 <= back_off_s(failures, jitter) <= 30.0
    assert back_off_s(failures + 1, jitter) >= back_off_s(failures, jitter)
