"""What follows an ending: pure, so a thousand of them cost nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.broker import ending as endings
from edgerun.broker.ending import Cause, Ending
from edgerun.broker.options import BrokerOptions, parse_address
from edgerun.broker.reconnect import MQTT_3_1_1, MQTT_5, STABLE_S, Reconnect

OPTIONS = BrokerOptions(url="mqtt://broker.example", client_id="dock-7")
ADDRESS = parse_address(OPTIONS.url)
UNREACHABLE = endings.cannot_connect(OPTIONS, ADDRESS, ConnectionRefusedError("refused"))
MUTE = endings.closed_early(ADDRESS)
VERSION = endings.refused(OPTIONS, ADDRESS, endings.UNSUPPORTED_VERSION, "Unsupported protocol version")
HUNG_UP = endings.lost(ADDRESS, "the end of the connection", hung_up=True)
TAKEN = endings.disconnected(OPTIONS, ADDRESS, endings.SESSION_TAKEN, "Session taken over")


def reconnect(seed: int = 0) -> Reconnect:
    return Reconnect(OPTIONS, ADDRESS, random.Random(seed))


@given(
    st.lists(
        st.tuples(st.sampled_from([UNREACHABLE, MUTE, VERSION, HUNG_UP]), st.floats(0, 100) | st.none()), max_size=60
    ),
    st.integers(),
)
def test_delays_stay_in_their_bounds(story: list[tuple[Ending, float | None]], seed: int) -> None:
    policy = reconnect(seed)
    at_once = 0
    for ending, served_s in story:
        plan = policy.after(ending, served_s)
        if plan.ending.cause is Cause.TAKEN:
            assert 60 <= plan.delay_s <= 120
        else:
            assert 0 <= plan.delay_s <= OPTIONS.reconnect_max_s
        assert plan.protocol in (MQTT_5, MQTT_3_1_1)
        at_once = at_once + 1 if plan.delay_s == 0 else 0
        assert at_once <= 1, "two attempts in a row without any back-off"


def test_the_back_off_doubles_has_full_jitter_and_a_roof() -> None:
    policies = [reconnect(seed) for seed in range(400)]
    for attempt in range(1, 10):
        roof = min(60.0, 2.0**attempt)
        delays = [policy.after(UNREACHABLE, None).delay_s for policy in policies]
        assert max(delays) <= roof
        assert max(delays) > 0.95 * roof
        assert min(delays) < 0.05 * roof


def test_a_link_that_lived_long_starts_the_back_off_anew() -> None:
    policy = reconnect()
    for _ in range(10):
        policy.after(UNREACHABLE, None)
    assert max(policy.after(HUNG_UP, STABLE_S).delay_s for _ in range(100)) <= 1.0


def test_a_take_over_waits_long_and_names_the_id() -> None:
    plan = reconnect().after(TAKEN, 3.0)
    assert plan.ending.cause is Cause.TAKEN
    assert 60 <= plan.delay_s <= 120
    assert "'dock-7'" in str(plan.ending.error)


@pytest.mark.parametrize("first", [VERSION, UNREACHABLE], ids=["3.1.1", "5"])
def test_three_short_lives_are_taken_for_a_take_over(first: Ending) -> None:
    policy = reconnect()
    policy.after(first, None)
    causes = [policy.after(HUNG_UP, 2.0).ending.cause for _ in range(4)]
    assert causes == [Cause.LOST, Cause.LOST, Cause.TAKEN, Cause.LOST]


def test_long_lives_and_ends_with_a_reason_are_not_suspected() -> None:
    policy = reconnect()
    assert {policy.after(HUNG_UP, 60.0).ending.cause for _ in range(9)} == {Cause.LOST}
    shutting_down = endings.disconnected(OPTIONS, ADDRESS, 0x8B, "Server shutting down")
    assert {policy.after(shutting_down, 2.0).ending.cause for _ in range(9)} == {Cause.LOST}


@pytest.mark.parametrize(
    ("story", "protocols"),
    [
        pytest.param([(UNREACHABLE, None)] * 4, [5, 5, 5, 5], id="unreachable says nothing of versions"),
        pytest.param(
            [(VERSION, None), (HUNG_UP, 60.0), (UNREACHABLE, None)], [4, 4, 4], id="an explicit no settles it"
        ),
        pytest.param([(VERSION, None), (VERSION, None), (VERSION, None)], [4, 5, 4], id="refused both"),
        pytest.param([(MUTE, None), (UNREACHABLE, None), (MUTE, None)], [5, 5, 5], id="single mute closes"),
        pytest.param([(MUTE, None), (MUTE, None), (MUTE, None)], [5, 4, 5], id="mute whatever we try"),
        pytest.param([(MUTE, None), (MUTE, None), (HUNG_UP, 60.0)], [5, 4, 5], id="a guess holds for one link"),
    ],
)
def test_versions(story: list[tuple[Ending, float | None]], protocols: list[int]) -> None:
    policy = reconnect()
    assert [policy.after(ending, served_s).protocol for ending, served_s in story] == protocols
