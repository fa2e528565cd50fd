"""The states of a rollout: tables and properties of a pure function."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.config.rollout import RolloutConfig
from edgerun.errors import ModelError
from edgerun.models.rollout import (
    ORDER,
    Began,
    Compared,
    Comparison,
    Event,
    Failed,
    Health,
    Lasted,
    Looked,
    Placed,
    Rollout,
    Starting,
    Verified,
    Widened,
    decode,
    encode,
    in_cohort,
    step,
    why_unhealthy,
)

RULES = RolloutConfig(shadow_frames=40, canary_minutes=1, canary_frames=30, watch_minutes=5)
GOOD = Comparison(frames=60, seen=40, disagreement=0.1)


def fresh(**changes: Any) -> Rollout:
    return Rollout(**{"id": "r1", "device": "dock-1", "model": "net", "name": "detector", **changes})


def after(*events: Event, rules: RolloutConfig = RULES, **changes: Any) -> Rollout:
    rollout = fresh(**changes)
    for number, event in enumerate(events):
        rollout = step(rollout, event, rules, float(number))
    return rollout


VERIFIED, BEGAN = Verified("2", "1"), Began(20.0, 0.01)
CANARY = (VERIFIED, BEGAN, Compared(GOOD), Placed(there=True))


def healthy(minutes: float, results: int = 100, **changes: Any) -> Looked:
    return Looked(Health(**{"minutes": minutes, "results": results, "frames": 100, "p95_ms": 22.0, **changes}))


WAYS: dict[str, tuple[tuple[Event, ...], str, str]] = {
    "asked for": ((), "staged", ""),
    "in the store": ((VERIFIED,), "verified", ""),
    "tried": ((VERIFIED, BEGAN), "shadow", ""),
    "too little seen yet": ((VERIFIED, BEGAN, Compared(Comparison(frames=60, seen=5))), "shadow", ""),
    "good": (CANARY, "canary", ""),
    "canary for long enough": ((*CANARY, healthy(1.5)), "active", ""),
    "too few results": ((*CANARY, healthy(1.5, 10)), "canary", ""),
    "all is well": ((*CANARY, healthy(1.5), healthy(6)), "committed", ""),
    "disagrees": (
        (VERIFIED, BEGAN, Compared(Comparison(60, 40, 0.4))),
        "rolled_back",
        "disagreement 0.40 over 40 frames in the shadow; at most 0.25 is allowed",
    ),
    "disagrees early": ((VERIFIED, BEGAN, Compared(Comparison(20, 20, 0.9))), "rolled_back", "disagreement 0.90"),
    "fails in the shadow": (
        (VERIFIED, BEGAN, Compared(Comparison(20, 20, 0.0, failures=10))),
        "rolled_back",
        "10 of 30 frames failed in the shadow",
    ),
    "nothing came": (
        (VERIFIED, BEGAN, Compared(Comparison(frames=3), over=True)),
        "rolled_back",
        "only 3 frames could be compared in 120 minutes",
    ),
    "nothing to see": ((VERIFIED, BEGAN, Compared(Comparison(frames=50), over=True)), "canary", ""),
    "not to be compared": ((VERIFIED, BEGAN, Compared(impossible="it listens")), "canary", ""),
    "slow": ((*CANARY, healthy(0.1, p95_ms=40.0)), "rolled_back", "2.00 times that of 1; at most 1.5"),
    "fails": ((*CANARY, healthy(0.1, failures=10)), "rolled_back", "10.0% of 100 frames failed"),
    "hot": ((*CANARY, healthy(0.1, temp_rise_c=16.0)), "rolled_back", "16.0 °C hotter"),
    "too few to judge": ((*CANARY, healthy(0.1, frames=19, failures=19, p95_ms=90.0)), "canary", ""),
    "slow later": ((*CANARY, healthy(1.5), healthy(2, p95_ms=40.0)), "rolled_back", "slow"),
    "the version that runs": ((Verified("1", "1"),), "rolled_back", "version 1 is the one that runs"),
    "asked back": ((*CANARY, Failed("a hand")), "rolled_back", "a hand"),
    "three starts": ((*CANARY, Starting(), Starting(), Starting()), "canary", ""),
    "a fourth start": ((*CANARY, *[Starting()] * 4), "rolled_back", "3 starts with it failed"),
    "a start that lasted": (
        (*CANARY, Starting(), Starting(), Starting(), Lasted(stable=True), *[Starting()] * 3), "canary", "",
    ),
    "ends that were asked for": ((*CANARY, *[Starting(), Lasted(stable=False)] * 9), "canary", ""),
    "starts before it is opened do not count": ((VERIFIED, *[Starting()] * 9), "verified", ""),
    "starts in the shadow": ((VERIFIED, BEGAN, *[Starting()] * 4), "rolled_back", "3 starts with it failed"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_leads_where(way: str) -> None:
    events, state, reason = WAYS[way]
    rollout = after(*events)
    assert rollout.state == state
    assert reason in rollout.reason
    assert bool(rollout.reason) == (state == "rolled_back" or way == "not to be compared") or not reason


def test_a_version_that_was_not_meant_goes_back() -> None:
    assert after(VERIFIED, wanted="3").reason == "the source holds version 2, not 3"
    assert after(VERIFIED, wanted="2").state == "verified"


def test_without_a_shadow_it_serves_at_once() -> None:
    rules = RolloutConfig(shadow=0)
    assert after(VERIFIED, BEGAN, rules=rules).state == "canary"
    assert after(VERIFIED, BEGAN, rules=rules).baseline_ms == 20.0


def test_who_is_no_canary_waits_until_the_share_is_larger() -> None:
    waits = after(VERIFIED, BEGAN, Compared(GOOD), share=0.0)
    assert (waits.state, waits.waiting) == ("shadow", True)
    assert step(waits, Widened(0.0), RULES, 9.0) == waits
    assert step(waits, Widened(1.0), RULES, 9.0).state == "canary"
    assert step(fresh(share=0.5), Widened(0.2), RULES, 9.0).share == 0.5, "it never gets smaller"


def test_what_failed_before_is_no_fault_of_the_new_one() -> None:
    health = Health(frames=100, failures=20)
    assert why_unhealthy(fresh(baseline_failures=0.2), health, RULES) == ""
    assert why_unhealthy(fresh(baseline_failures=0.0), health, RULES) != ""


EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Verified, st.sampled_from("123"), st.sampled_from("12")),
    st.builds(Began, st.none() | st.floats(1, 100), st.floats(0, 1)),
    st.builds(
        Compared,
        st.builds(Comparison, st.integers(0, 99), st.integers(0, 99), st.floats(0, 1), st.integers(0, 99)),
        st.booleans(),
        st.sampled_from(["", "why"]),
    ),
    st.builds(Placed, st.booleans()),
    st.builds(
        Looked,
        st.builds(
            Health, st.floats(0, 9), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99),
            st.none() | st.floats(1, 99), st.none() | st.floats(0, 30),
        ),
    ),
    st.just(Starting()),
    st.builds(Lasted, st.booleans()),
    st.builds(Widened, st.floats(0, 1)),
    st.builds(Failed, st.sampled_from(["", "a hand"])),
)  # fmt: skip


@given(st.lists(EVENTS, max_size=40), st.floats(0, 1), st.sampled_from([0.0, 0.3]))
def test_any_order_of_events(events: list[Event], share: float, shadow: float) -> None:
    rules = msgspec.structs.replace(RULES, shadow=shadow)
    rollout = fresh(share=share)
    for number, event in enumerate(events):
        before, rollout = rollout, step(rollout, event, rules, float(number))
        assert decode(encode(rollout), "here") == rollout
        assert step(before, event, rules, float(number)) == rollout, "the same again comes to the same"
        if before.state == "rolled_back":
            assert rollout.state == "rolled_back"
            assert rollout.reason == before.reason
        elif before.state == "committed":
            assert rollout.state in ("committed", "rolled_back")
            assert rollout.state == "committed" or isinstance(event, Failed), "only a hand takes it back"
        elif rollout.state != "rolled_back":
            assert 0 <= ORDER.index(rollout.state) - ORDER.index(before.state) <= 2
        if rollout.state == "rolled_back":
            assert rollout.reason
            assert not rollout.wants_placed
        if rollout.wants_placed:
            assert rollout.version is not None
            assert rollout.version != rollout.previous
            assert rollout.passed
            assert rollout.is_canary
        if before.state in ("staged", "verified") and shadow:
            assert rollout.state not in ("canary", "active", "committed"), "it was not tried"
        assert rollout.starts <= rules.starts


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_has_all_of_a_smaller_one(device: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert in_cohort(device, "r1", large) >= in_cohort(device, "r1", small)
    assert in_cohort(device, "r1", 1.0)
    assert not in_cohort(device, "r1", 0.0)


def test_a_share_is_a_share_and_another_one_in_another_rollout() -> None:
    devices = [f"dock-{number}" for number in range(4000)]
    first, second = ({one for one in devices if in_cohort(one, rollout, 0.1)} for rollout in ("r1", "r2"))
    for cohort in (first, second):
        assert 320 <= len(cohort) <= 480  # 400 ± 4 standard deviations
    assert 10 <= len(first & second) <= 80
    digest = hashlib.sha256(b"r1\0dock-7").digest()
    assert in_cohort("dock-7", "r1", 0.1) == (int.from_bytes(digest[:8], "big") / 2**64 < 0.1)


@given(st.binary(max_size=200))
def test_a_damaged_file_is_told(content: bytes) -> None:
    with pytest.raises(ModelError, match="the file of a rollout is damaged"):
        decode(content, "here")


def test_a_file_of_another_format_is_told() -> None:
    for changes in ({"v": 2}, {"state": "canary"}):
        with pytest.raises(ModelError, match="the file of a rollout is damaged"):
            decode(encode(fresh(**changes)), "here")
