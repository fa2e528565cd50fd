"""How checks are run: each within its time, none able to end the examination."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerun.config import ModelConfig
from edgerun.device.machine import Machine
from edgerun.doctor import Line, Needs, examine
from edgerun.doctor.checks import CHECKS
from edgerun.doctor.examine import Check, Patient
from edgerun.doctor.line import absent, green, red
from edgerun.errors import DeviceError

PATIENT = Patient(Machine(), Needs({"main": ModelConfig(Path("m.tflite"))}))


def one_and_a_bug(_: Patient) -> Iterator[Line]:
    yield green("first", "found")
    raise ZeroDivisionError("by zero")


def device_error(_: Patient) -> Iterator[Line]:
    yield from ()
    raise DeviceError("cannot be read", where="/sys/x", got="Input/output error")


def test_what_a_check_raises_is_a_red_line_and_the_next_goes_on() -> None:
    checks = [Check("bug", one_and_a_bug), Check("sick", device_error), Check("well", lambda _: [green("it", "works")])]
    shown: list[str] = []
    found = examine(PATIENT, checks, lambda family, lines: shown.append(f"{family} {len(lines)}"))
    first, second = found.families["bug"]
    assert first == green("first", "found")
    assert (second.status, second.value) == ("red", "the check failed: ZeroDivisionError: by zero")
    assert found.families["sick"][0].value == "/sys/x: cannot be read: Input/output error"
    assert found.families["well"] == [green("it", "works")]
    assert shown == ["bug 2", "sick 1", "well 1"]
    assert found.ok, "nothing that the job needs is missing"


def test_a_check_that_hangs_is_left_behind_with_what_it_found() -> None:
    never, began = threading.Event(), threading.Event()

    def hangs(_: Patient) -> Iterator[Line]:
        yield green("first", "found")
        began.set()
        never.wait()

    found = examine(PATIENT, [Check("slow", hangs, limit_s=5.0), Check("well", lambda _: [green("it", "works")])])
    assert began.is_set()
    assert [line.status for line in found.families["slow"]] == ["green", "red"]
    assert "no end within 5 s" in found.families["slow"][1].value
    assert found.families["well"]
    never.set()


@pytest.fixture
def _turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_turns")
def test_a_check_that_ends_as_its_time_is_over_is_told_one_way_or_the_other() -> None:
    """Of many lines, so that to tell those takes longer than the check needs for its last one."""
    many = [green("it", "works")] * 100_000

    def look(_: Patient) -> Iterator[Line]:
        over_at = time.monotonic() + 0.1
        yield from many
        threading.Event().wait(over_at - time.monotonic())
        yield green("the end", "works")

    for number in range(30):
        check = Check("late", look, limit_s=0.1 - number / 10_000)
        assert examine(PATIENT, [check]).families["late"][-1].what in ("the end", "late")


def test_only_what_is_needed_and_red_is_missing() -> None:
    for line, ok in [
        (red("a", "b", "c"), True),
        (red("a", "b", "c", needed=True), False),
        (absent("a", "b", "c"), True),
    ]:
        assert examine(PATIENT, [Check("x", lambda _, line=line: [line])]).ok is ok  # type: ignore[misc]


def test_a_line_has_a_remedy_exactly_when_it_is_not_green() -> None:
    with pytest.raises(ValueError, match="remedy"):
        Line("red", "camera", "gone")
    with pytest.raises(ValueError, match="remedy"):
        Line("green", "camera", "there", "nothing")


def test_the_table_names_each_family_once() -> None:
    families = [check.family for check in CHECKS]
    assert len(families) == len(set(families))
