"""A board without a battery for its clock: it is 1970 until a time service has been heard, and then it is not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from edgerun.spool.record import DATA, MAGIC, scan
from tests import schemas
from tests.faults.box import Box, box
from tests.faults.test_delivery import numbers, spooled_results

_LONG_AGO_S = 86_400.0 * 365
_NOW_S = 1_735_689_600.0
"""2025-01-01."""


def faketime() -> str:
    found = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]
    if not found:
        pytest.skip("libfaketime is not installed on this device")
    return str(found[0])


def is_long_ago(result: dict[str, float]) -> bool:
    return result["ts"] < _LONG_AGO_S


def newest_s(spool: Path) -> float:
    """When the last message of a spool was made, by its clock."""
    files = []
    for path in sorted(spool.glob("detection-*.seg")):
        with contextlib.suppress(FileNotFoundError):  # done with, and deleted meanwhile
            files.append(path.read_bytes())
    found = [one for data in files for one in scan(data, len(MAGIC)) if not isinstance(one, tuple)]
    return max((one.unix_ms / 1000 for one in found if one.kind == DATA), default=0.0)


def test_a_clock_that_jumps_from_1970_to_now_costs_no_result_and_no_order(tmp_path: Path) -> None:
    told = tmp_path / "time"
    told.write_text("@1970-01-01 00:00:20\n")
    environ = {
        "LD_PRELOAD": faketime(),
        "FAKETIME_TIMESTAMP_FILE": str(told),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with box(tmp_path, "", **environ) as made:
        made.wait(lambda: all(is_long_ago(one) for one in made.results("well")))
        made.line.locked.set()
        made.line.cut()
        made.wait(lambda: spooled_results(made) >= 12, "results on disk")
        told.write_text("+0\n")  # the time service has come
        made.wait(lambda: newest_s(made.state / "spool" / "box") > _NOW_S, "results spooled by the new time")
        made.line.heal()
        made.wait(lambda: made.results("well", replayed=True), "the replay of what was made in 1970")
        made.wait(lambda: any(one["ts"] > _NOW_S for one in made.results("well")), "results of today")
        made.well_goes_on()
        made.replay_ends()
        summary = made.stop()
        made.check_well()
    check(made)
    assert summary["mqtt"]["dropped"].get("expired", 0) == 0, "of a clock that was not set the age is not known"
    assert summary["seconds"] < 600, "the run's own length is not told by that clock"


def check(made: Box) -> None:
    live, replayed = numbers(made, replayed=False), numbers(made, replayed=True)
    assert sorted({*live, *replayed}) == list(range(max(live) + 1)), "every result came"
    assert live == sorted(live)
    assert replayed == sorted(replayed)
    both = sorted(made.results("well") + made.results("well", replayed=True), key=lambda one: one["seq"])
    then = [is_long_ago(one) for one in both]
    assert then[0]
    assert not then[-1]
    assert then == sorted(then, reverse=True), "one jump, at one place of the sequence"
    assert [one.get("ts_src") == "unset" for one in both] == then, "and it is told where it is not to be believed"
    assert [one["mono_ns"] for one in both] == sorted(one["mono_ns"] for one in both)
    for one in both:
        one.pop("replayed", None)
        schemas.validate("result", one)
    assert max(one["age_ms"] for one in both) <= 1000, "ages are not told by that clock"
