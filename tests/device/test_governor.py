"""The governor's step, as a table, as properties, and in a loop with a sealed box that warms up."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.device.governor import Band, Measure, Policy, State, falling_band, mistakes, rising_band, step
from edgerun.device.ladder import Climber, Level, build_ladder

TEMP = rising_band("temp_c", 70.0, 80.0, 90.0, 3.0)
BATTERY = falling_band("battery_share", 0.3, 0.2, 0.05, 0.02)
POWER = rising_band("power_w", 5.0, 6.0, None, 0.3)
POLICY = Policy((TEMP, BATTERY, POWER))
LADDER = build_ladder([Climber("door", 2.0, variants=1, gated=True), Climber("yard"), Climber("dock", 3.0)])
SECOND = 1_000_000_000


def run(measured: dict[str, float], seconds: int, state: State | None = None, policy: Policy = POLICY) -> list[State]:
    states = [state or State()]
    first_ns = (states[0].moved_ns or 0) + SECOND
    for second in range(seconds):
        states.append(step(policy, len(LADDER), states[-1], measured, first_ns + second * SECOND))
    return states[1:]


def test_heat_lowers_at_once_and_again_while_it_lasts() -> None:
    levels = [state.level for state in run({"temp_c": 82.0}, 25)]
    assert levels == [1] * 10 + [2] * 10 + [3] * 5
    assert run({"temp_c": 82.0}, 1)[0].reason == "the processor is at 82.0 °C, which is hot"


def test_the_stop_zone_goes_to_the_bottom_at_once_and_heat_alone_does_not() -> None:
    (state,) = run({"temp_c": 95.0}, 1)
    assert state.level == len(LADDER) - 1
    assert run({"temp_c": 82.0}, 1000)[-1].level == len(LADDER) - 2
    assert all(rung.paused for rung in LADDER[-1].values())
    assert not LADDER[-2]["dock"].paused


def test_the_nearer_to_the_stop_zone_the_more_at_once() -> None:
    levels = [run({"temp_c": temp_c}, 1)[0].level for temp_c in (80.0, 82.0, 84.0, 86.0, 88.0, 89.9)]
    assert levels[:2] == [1, 1]
    assert levels == sorted(levels)
    assert levels[-1] > len(LADDER) // 3
    assert run({"battery_share": 0.06}, 1)[0].level > 10
    assert [run({"power_w": power_w}, 1)[0].level for power_w in (6.0, 7.0)] == [1, 1]
    assert run({"power_w": 9.0}, 1)[0].level > 10  # it has no stop zone, and is far beyond hot


def test_a_band_may_ask_for_more_rungs_at_once() -> None:
    policy = Policy((rising_band("age_share", 0.85, 1.0, None, 0.03, rungs=2), TEMP))
    assert [state.level for state in run({"age_share": 1.05}, 25, policy=policy)] == [2] * 10 + [4] * 10 + [6] * 5
    assert run({"age_share": 1.05}, 1000, policy=policy)[-1].level == len(LADDER) - 2
    assert run({"temp_c": 82.0}, 1, policy=policy)[0].level == 1


def test_it_rises_a_level_a_minute_of_calm() -> None:
    hot = run({"temp_c": 82.0}, 25)[-1]
    levels = [state.level for state in run({"temp_c": 60.0}, 200, hot)]
    assert levels == [3] * 60 + [2] * 60 + [1] * 60 + [0] * 20


@pytest.mark.parametrize(("temp_c", "zone"), [(69.9, 0), (70.0, 1), (79.9, 1), (80.0, 2), (90.0, 3)])
def test_a_zone_is_entered_at_its_value_and_left_below_its_margin(temp_c: float, zone: int) -> None:
    assert run({"temp_c": temp_c}, 1)[0].zones["temp_c"] == zone
    inside = run({"temp_c": temp_c}, 1)[0]
    assert run({"temp_c": temp_c - 2.9}, 1, inside)[0].zones["temp_c"] >= zone - (
        temp_c - 2.9 < (66.9, 67, 77, 87)[zone]
    )


def test_a_battery_that_runs_low_counts_downwards() -> None:
    assert run({"battery_share": 0.9}, 1)[0].level == 0
    assert run({"battery_share": 0.19}, 1)[0].level == 1
    assert run({"battery_share": 0.04}, 1)[0].level == len(LADDER) - 1


def test_what_is_not_known_any_more_holds_the_level() -> None:
    hot = run({"temp_c": 82.0}, 25)[-1]
    assert {state.level for state in run({}, 500, hot)} == {3}
    assert run({}, 500)[-1].level == 0


def test_a_rise_that_was_taken_back_is_tried_again_later_and_later() -> None:
    """Level 3 is cool, level 2 is hot: between the two there is no rest."""
    state, rises, at_ns = run({"temp_c": 82.0}, 25)[-1], [], 100 * SECOND
    for _ in range(4 * 3600):
        at_ns += SECOND
        after = step(POLICY, len(LADDER), state, {"temp_c": 82.0 if state.level < 3 else 60.0}, at_ns)
        rises += [at_ns // SECOND] if after.level < state.level else []
        state = after
    waits = [later - earlier for earlier, later in pairwise(rises)]
    assert waits == sorted(waits)
    assert waits[-1] >= 32 * POLICY.up_s
    assert len(rises) < 15


def test_a_second_heat_is_met_like_the_first() -> None:
    """The load grew meanwhile: that it was hotter before is no comfort."""
    first = run({"temp_c": 82.4}, 1)[-1]
    cooler = run({"temp_c": 75.0}, 200, first)[-1]
    assert cooler.level == 1
    assert run({"temp_c": 83.0}, 60, cooler)[-1].level > 1


def test_what_got_better_and_stays_too_hot_is_lowered_further() -> None:
    """Each rung is worth 0.05 W; what an earlier step gained is no reason to stay above the budget."""
    state = State()
    for second in range(0, 900, 2):
        power_w = 7.0 - 0.05 * state.level
        state = step(POLICY, len(LADDER), state, {"power_w": power_w}, second * SECOND)
    assert 5.8 < 7.0 - 0.05 * state.level < 6.0


def test_what_gets_better_does_not_hide_what_does_not() -> None:
    state = State()
    for second in range(0, 100, 2):
        measured = {"temp_c": 89.0 - 0.05 * second, "power_w": 9.0}
        state = step(POLICY, len(LADDER), state, measured, second * SECOND)
    assert state.level > 8
    assert state.reason == "the device draws 9.00 W, which is over its budget"


def test_what_gets_better_is_not_lowered_further() -> None:
    state, levels = State(), []
    for second in range(100):
        state = step(POLICY, len(LADDER), state, {"temp_c": 82.4 - 0.02 * second}, second * SECOND)
        levels.append(state.level)
    assert set(levels[:10]) == {1}
    assert levels[-1] == 1


MEASURED = st.fixed_dictionaries(
    {},
    optional={
        "temp_c": st.floats(-40.0, 150.0),
        "battery_share": st.floats(0.0, 1.0),
        "power_w": st.floats(0.0, 50.0),
    },
)


@given(st.lists(st.tuples(MEASURED, st.integers(1, 100)), max_size=60), st.integers(1, 30))
def test_it_never_leaves_the_ladder_and_rises_one_at_a_time(
    steps: list[tuple[dict[str, float], int]], levels: int
) -> None:
    state, now_ns = State(), 0
    for measured, seconds in steps:
        now_ns += seconds * SECOND
        after = step(POLICY, levels, state, measured, now_ns)
        assert 0 <= after.level < levels
        assert after.level >= state.level - 1
        if after.level < state.level:
            assert state.moved_ns is not None
            assert now_ns - state.moved_ns >= POLICY.up_s * SECOND
        state = after


@settings(deadline=None, max_examples=30)
@given(MEASURED, MEASURED, st.integers(0, 40))
def test_under_a_constant_load_it_goes_one_way_only_and_comes_to_rest(
    before: dict[str, float], measured: dict[str, float], seconds: int
) -> None:
    start = run(before, seconds)[-1] if seconds else State()
    levels = [start.level] + [state.level for state in run(measured, 2000, start)]
    moves = {math.copysign(1, b - a) for a, b in pairwise(levels) if a != b}
    assert len(moves) <= 1
    assert len(set(levels[-600:])) == 1 or levels[-1] < levels[-600]


@settings(deadline=None, max_examples=25)
@given(st.floats(2.0, 14.0), st.floats(20.0, 200.0), st.floats(0.0, 45.0), st.floats(2.0, 8.0))
def test_a_sealed_box_comes_to_rest_below_the_hard_trip(
    k_per_w: float, capacity_j_per_k: float, ambient_c: float, load_w: float
) -> None:
    """dT/dt = (P − (T − ambient) / R) / C; the load follows the share of the rate, 1.5 W of it is idling."""
    temp_c, state, moves = ambient_c + 1.5 * k_per_w, State(), []
    for second in range(0, 3 * 3600, 2):
        share = sum(rung.fps_share for rung in LADDER[state.level].values() if not rung.paused) / len(LADDER[0])
        power_w = 1.5 + load_w * share
        temp_c += 2 * (power_w - (temp_c - ambient_c) / k_per_w) / capacity_j_per_k
        after = step(Policy((TEMP,)), len(LADDER), state, {"temp_c": temp_c}, second * SECOND)
        moves += [second] if after.level != state.level else []
        state = after
    if ambient_c + (1.5 + load_w * 0.1) * k_per_w < 75.0:  # the lowest rung but pausing can be cooled at all
        assert temp_c < 90.0
    assert len([at for at in moves if at > 2 * 3600]) <= 8


def test_the_ladder_gives_less_at_each_level_and_the_light_give_way_first() -> None:
    def work(level: Level) -> float:
        return sum(
            0.0 if rung.paused else rung.fps_share / (1 + rung.variant) / rung.gate_factor for rung in level.values()
        )

    assert all(work(lower) < work(upper) for upper, lower in pairwise(LADDER))
    assert LADDER[1]["yard"].fps_share < 1.0
    assert LADDER[1]["dock"].fps_share == 1.0
    assert work(LADDER[0]) == 3.0
    assert work(LADDER[-1]) == 0.0


@pytest.mark.parametrize(
    ("band", "said"),
    [
        (Band("temp_c", ((-math.inf, 70.0), (75.0, math.inf))), "70 … 75 belongs to none"),
        (Band("temp_c", ((-math.inf, 70.0), (70.0, math.inf))), "do not overlap at 70"),
        (Band("temp_c", ((-math.inf, 90.0), (67.0, 80.0), (77.0, math.inf))), "cross"),
        (Band("temp_c", ((0.0, 70.0), (67.0, math.inf))), "must be open"),
        (Band("temp_c", ((-math.inf, math.inf),)), "1 zones"),
        (rising_band("temp_c", 80.0, 70.0, 90.0, 3.0), "cross"),
        (rising_band("temp_c", 70.0, 80.0, 90.0, 0.0), "do not overlap"),
    ],
)
def test_a_policy_that_makes_no_sense_is_told(band: Band, said: str) -> None:
    assert said in " ".join(mistakes(Policy((band,)), LADDER))


def test_a_policy_that_is_right_is_not_complained_of() -> None:
    assert mistakes(POLICY, LADDER) == []
    assert "nothing to lower" in mistakes(POLICY, LADDER[:1])[0]
    assert "never reached" in mistakes(Policy((Band("temp_c", ((-math.inf, 7.0), (6.0, math.inf))),)), LADDER)[0]
    assert "faster than it may fall" in mistakes(Policy((TEMP,), up_s=1.0), LADDER)[0]


@given(
    st.sampled_from(["temp_c", "power_w", "age_share"]),
    st.lists(st.floats(-100.0, 100.0), min_size=3, max_size=3, unique=True),
    st.floats(0.01, 5.0),
)
def test_bands_built_from_values_in_order_are_right(measure: Measure, values: list[float], margin: float) -> None:
    warm, hot, stop = sorted(values)
    if min(hot - warm, stop - hot) > 2 * margin:
        assert mistakes(Policy((rising_band(measure, warm, hot, stop, margin),)), LADDER) == []
        assert mistakes(Policy((falling_band(measure, stop, hot, warm, margin),)), LADDER) == []
