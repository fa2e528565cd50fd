"""When a rollout goes on, halts and is done: pure, so every turn of it is tried."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import ConfigError
from edgerun.fleet.fleet import Device, Stage
from edgerun.fleet.plan import Count, Plan, Progress, Standing, count, parse_stages, step, to_ask
from edgerun.models.rollout import in_cohort
from tests.fleet.parts import known

PLAN = Plan(id="r1", model="detector", version="3", stages=(0.1, 1.0), limit=0.05, fewest=20)
NAMES = [f"device-{number:03d}" for number in range(200)]
STANDINGS: tuple[Standing, ...] = ("offline", "unasked", "asked", "trying", "good", "rolled_back", "refused", "lost")


def progress(**changes: object) -> Progress:
    return msgspec.structs.replace(Progress(plan=PLAN, since=100.0), **changes)


def found(**numbers: int) -> Count:
    standings = [name for name, number in numbers.items() for _ in range(number)]
    return Count({str(at): one for at, one in enumerate(standings)}, {})  # type: ignore[misc]


def standing(device: Device, now: float = 200.0, gone_since: float | None = None, **changes: object) -> Standing:
    since = {} if gone_since is None else {device.id: gone_since}
    (one,) = count(progress(at=1, **changes), [device], since, now).standings.values()
    return one


def test_where_a_device_stands() -> None:
    asked = {"a": 150.0}

    def has(state: str, online: bool = True, waiting: bool = False) -> Device:
        return known("a", online=online, rollout=Stage("r1", state, "3", waiting=waiting))

    assert standing(known("a")) == "unasked"
    assert standing(known("a"), asked=asked) == "asked"
    assert standing(known("a", version="3")) == "good", "it has that version already"
    assert standing(known("a", rollout=Stage("r0", "committed", "2"))) == "unasked", "another rollout's"
    for state in ("staged", "verified", "shadow", "canary"):
        assert standing(has(state), asked=asked) == "trying"
    for state in ("active", "committed"):
        assert standing(has(state), asked=asked) == "good"
    assert standing(has("rolled_back"), asked=asked) == "rolled_back"
    assert standing(has("rolled_back", online=False), asked=asked) == "rolled_back"
    assert standing(has("shadow", waiting=True)) == "unasked", "it has heard of a smaller share only"
    assert standing(known("a"), asked=asked, refused={"a": "no such model runs"}) == "refused"
    assert standing(has("canary"), asked=asked, refused={"a": "too many commands"}) == "trying", "it does it after all"
    assert standing(known("a", online=False)) == "offline"
    assert standing(has("canary", online=False), asked=asked, gone_since=190.0) == "trying", "perhaps it starts anew"
    assert standing(has("canary", online=False), now=1000.0, asked=asked, gone_since=190.0) == "lost"


def test_only_devices_that_are_meant_are_counted() -> None:
    plan = msgspec.structs.replace(PLAN, labels={"site": "north"}, stages=(1.0,))
    north, south = known("a", site="north"), known("b", site="south")
    other = Device("c", True, msgspec.structs.replace(north.info, models={}))
    assert list(count(Progress(plan=plan), [north, south, other, Device("d", True)], {}, 0).standings) == ["a"]


def test_a_stage_has_the_share_that_each_device_knows_by_itself() -> None:
    devices = [known(name) for name in NAMES]
    stage = count(progress(), devices, {}, 100.0)
    assert set(stage.standings) == {name for name in NAMES if in_cohort(name, "r1", 0.1)}
    assert 10 <= len(stage.standings) <= 35
    assert set(stage.standings) < set(count(progress(at=1), devices, {}, 100.0).standings) == set(NAMES)


def test_it_goes_from_stage_to_stage_and_is_done() -> None:
    second = step(progress(), found(good=19, trying=2), 200.0)
    assert (second.at, second.since, second.state) == (1, 200.0, "running")
    assert step(second, found(good=170, trying=30), 300.0) == second, "not yet enough have ended"
    assert step(second, found(good=195, unasked=1), 300.0) == second, "not yet all were asked"
    assert step(second, found(good=195, trying=3, rolled_back=2, offline=40), 300.0).state == "done"


def test_one_that_is_long_over_waits_for_its_soak() -> None:
    soaked = progress(plan=msgspec.structs.replace(PLAN, soak_s=60.0))
    assert step(soaked, found(good=20), 159.0) == soaked
    assert step(soaked, found(good=20), 161.0).at == 1
    assert step(soaked, found(), 101.0).at == 1, "nobody is in this share"


@pytest.mark.parametrize(
    "numbers",
    [
        {"good": 18, "rolled_back": 2, "trying": 380},
        {"good": 10, "rolled_back": 4, "refused": 3, "lost": 3, "trying": 300},
        {"rolled_back": 1, "trying": 2},
        {"good": 0, "refused": 11, "unasked": 100},
    ],
    ids=["rate", "of all kinds", "small stage", "bound to come"],
)
def test_it_halts_when_too_many_fail(numbers: dict[str, int]) -> None:
    halted = step(progress(), found(**numbers), 200.0)
    assert halted.state == "halted"
    assert "at most 5.0% may" in halted.reason
    assert halted.at == 0
    assert step(halted, found(good=400), 300.0) == halted, "nothing but an operator goes on with it"
    assert to_ask(halted, found(unasked=5), 10, 300.0, 5) == []


def test_a_few_that_go_back_among_many_do_not_halt_it() -> None:
    assert step(progress(), found(good=38, rolled_back=2, trying=60), 200.0).state == "running"
    assert step(progress(), found(good=1, rolled_back=2, trying=97), 200.0).state == "running", "too few to judge by"


def test_a_stage_that_does_not_end_halts_it() -> None:
    assert "only 5 of 20 devices have ended" in step(progress(), found(good=5, trying=15), 100_000.0).reason


def test_without_any_device_it_is_not_done() -> None:
    nobody = step(progress(at=1), found(offline=3), 200.0)
    assert (nobody.state, nobody.reason) == ("halted", "no device is online that runs such a model")


def test_who_is_asked_when() -> None:
    here = Count({"a": "unasked", "b": "asked", "c": "trying", "d": "asked", "e": "offline", "f": "unasked"}, {})
    asked = {"b": 100.0, "d": 190.0}
    assert to_ask(progress(asked=asked), here, 60.0, 200.0, 10) == ["a", "b", "f"]
    assert to_ask(progress(asked=asked), here, 60.0, 200.0, 1) == ["a"]


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from(STANDINGS)), st.floats(100, 1e6), st.booleans())
def test_whatever_is_found_it_never_goes_on_with_too_many_failures(
    standings: dict[str, Standing], now: float, last: bool
) -> None:
    here = Count(standings, {})
    after = step(progress(at=int(last)), here, now)
    assert after.state in ("running", "halted", "done")
    if after.at > int(last) or after.state == "done":
        assert here.failed <= PLAN.limit * here.ended
        assert not here.of("unasked")
        assert here.ended >= PLAN.enough * here.reached - 1e-9


def test_stages_as_they_are_written() -> None:
    assert parse_stages("1%, 10%,100%") == (0.01, 0.1, 1.0)
    assert parse_stages("0.5") == (0.5,)
    for wrong in ("", "10%,1%", "0", "101%", "ten", "nan,1", "1%,,2%", "-1%"):
        with pytest.raises(ConfigError, match="--stages"):
            parse_stages(wrong)
