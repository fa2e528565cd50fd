"""A stream's age objective: what it does about results that are too old, and the property of coming to rest."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.device.governor import State
from edgerun.device.ladder import MEANS, Climber, Means, Rung, build_ladder, stricter
from edgerun.device.objective import SHARES, rungs, step_towards

SECOND = 1_000_000_000


def drive(ladder: tuple[Rung, ...], age: float, service: float, seconds: int, state: State | None = None) -> State:
    state = state or State()
    start_ns = (state.seen_ns or 0) + SECOND
    for second in range(0, seconds, 2):
        state = step_towards(ladder, state, age, service, start_ns + second * SECOND)
    return state


def test_the_rate_goes_down_first_where_frames_wait() -> None:
    ladder = rungs(1, rated=True)
    assert ladder[0] == Rung()
    assert drive(ladder, 1.2, 0.3, 2).level == 1
    assert ladder[drive(ladder, 1.2, 0.3, 30).level] == Rung(SHARES[3])
    assert ladder[drive(ladder, 1.2, 0.3, 1000).level] == Rung(SHARES[-1], 1)


def test_a_smaller_model_goes_first_where_inference_alone_takes_too_long() -> None:
    ladder = rungs(2, rated=True)
    assert ladder[drive(ladder, 1.5, 1.1, 2).level] == Rung(1.0, 1)
    assert ladder[drive(ladder, 1.5, 1.1, 12).level] == Rung(1.0, 2)
    last = drive(ladder, 1.5, 1.1, 1000)
    assert ladder[last.level] == Rung(1.0, 2)
    assert drive(rungs(0, rated=True), 1.5, 1.1, 1000).level == 0


def test_a_stream_that_wants_every_frame_has_variants_only() -> None:
    assert rungs(2, rated=False) == (Rung(), Rung(1.0, 1), Rung(1.0, 2))
    assert rungs(0, rated=False) == (Rung(),)
    assert drive(rungs(0, rated=False), 3.0, 0.1, 100).level == 0


def test_it_comes_back_slowly_when_results_are_fresh_again() -> None:
    ladder = rungs(1, rated=True)
    state = drive(ladder, 1.2, 0.3, 60)
    low = state.level
    assert low > 3
    for second in range(0, 2000, 2):
        before = state
        state = step_towards(ladder, state, 0.3, 0.2, 60 * SECOND + second * SECOND)
        assert before.level - state.level <= 1
    assert state.level == 0


def test_what_is_not_known_holds() -> None:
    ladder = rungs(1, rated=True)
    state = drive(ladder, 1.2, 0.3, 30)
    for second in range(0, 500, 2):
        state = step_towards(ladder, state, None, None, (100 + second) * SECOND)
    assert state.level == drive(ladder, 1.2, 0.3, 30).level


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3),
    st.booleans(),
    st.lists(st.tuples(st.none() | st.floats(0, 5), st.none() | st.floats(0, 5), st.integers(1, 90)), max_size=60),
)
def test_it_never_leaves_its_ladder(
    variants: int, rated: bool, looks: list[tuple[float | None, float | None, int]]
) -> None:
    ladder, state, now_ns = rungs(variants, rated), State(), 0
    for age, service, seconds in looks:
        now_ns += seconds * SECOND
        state = step_towards(ladder, state, age, service, now_ns)
        assert 0 <= state.level < len(ladder)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.1, 2.0), min_size=1, max_size=4), st.floats(0.0, 1.5))
def test_it_comes_to_rest_whatever_the_models_take(services: list[float], wait: float) -> None:
    """Variants of those service times (shares of the target), and a wait that goes with the rate."""
    services.sort(reverse=True)
    ladder, state, moves = rungs(len(services) - 1, rated=True), State(), list[int]()
    for second in range(0, 5400, 2):
        rung = ladder[state.level]
        service = services[rung.variant]
        after = step_towards(ladder, state, service + wait * rung.fps_share, service, second * SECOND)
        moves += [second] if after.level != state.level else []
        state = after
    assert len([at for at in moves if at > 3600]) <= 4
    rung = ladder[state.level]
    best = min(s + wait * share for s in services for share in SHARES)
    if best < 0.7:  # there is something that is well in time: it found one that is not too late
        recent = services[rung.variant] + wait * rung.fps_share
        assert recent < 1.0 or (moves and moves[-1] > 5400 - 120)


@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.integers(0, 3), st.booleans(), st.booleans(), st.booleans()), max_size=5),
    st.sets(st.sampled_from(MEANS)),
)
def test_every_rung_takes_something_and_the_last_is_nothing(
    streams: list[tuple[float, int, bool, bool, bool]], means: set[Means]
) -> None:
    climbers = [Climber(f"s{i}", *values) for i, values in enumerate(streams)]
    ladder = build_ladder(climbers, means)
    assert all(rung == Rung() for rung in ladder[0].values())
    for upper, lower in pairwise(ladder):
        assert upper != lower
        assert all(stricter(upper[name], lower[name]) == lower[name] for name in upper)
    if climbers:
        assert all(rung.paused for rung in ladder[-1].values())
        assert not all(rung.paused for rung in ladder[-2].values())
    for climber in climbers:
        rungs_of = [level[climber.name] for level in ladder]
        assert all(climber.rated or rung.fps_share == 1.0 for rung in rungs_of)
        assert max(rung.variant for rung in rungs_of) <= climber.variants
        assert climber.pausable or not any(rung.paused for rung in rungs_of[:-1])
