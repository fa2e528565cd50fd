"""The account and the verdict of `tools/soak`: what it must see, and what it must not be fooled by."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.soak_parts.account import Account
from tools.soak_parts.report import verdict_lines
from tools.soak_parts.verdict import FATES, LONG_S, SHORT_S, Seen, judge, passed
from tools.soak_parts.watch import Sample, by_window, slope_mib_h

ROOT = Path(__file__).resolve().parents[1]
RUN = "1f3a9c02"


def body(number: int, *, replayed: bool = False, stream: str = "dock", run: str = RUN) -> bytes:
    told = {"v": 1, "id": f"{run}-{number:06d}", "seq": number, "stream": stream, "age_ms": 20.5, "detections": []}
    return json.dumps({**told, **({"replayed": True} if replayed else {})}).encode()


def hear(account: Account, number: int, **how: Any) -> None:
    account.take_message("edgerun/soak/detections/dock", body(number, **how))


@given(
    published=st.integers(1, 6000),
    lost=st.sets(st.integers(0, 5999), max_size=20),
    again=st.sets(st.integers(0, 5999), max_size=20),
)
def test_every_number_is_accounted_for(published: int, lost: set[int], again: set[int]) -> None:
    account = Account()
    for number in range(published):
        account.take_line(body(number))
        if number not in lost:
            hear(account, number)
    came_twice = {n for n in again if n < published and n not in lost}
    for number in came_twice:
        hear(account, number, replayed=True)
    assert account.missing() == account.missing(published) == sorted(n for n in lost if n < published)
    assert account.duplicates() == len(came_twice)
    assert account.count() == (published, published - len([n for n in lost if n < published]))
    assert account.disorder == account.live_twice == 0


def test_a_result_that_was_never_written_is_missing_by_the_summary() -> None:
    account = Account()
    account.take_line(body(0))
    hear(account, 0)
    assert account.missing() == []
    assert account.missing(2) == [1]


def test_order_is_kept_among_live_and_among_replayed_apart() -> None:
    account = Account()
    for number in (5, 6):
        hear(account, number)
    for number in (1, 2):
        hear(account, number, replayed=True)
    assert account.disorder == 0
    hear(account, 3)
    assert account.disorder == 1
    hear(account, 3)
    assert account.live_twice == 1


def test_what_is_none_of_the_run_is_counted_apart() -> None:
    account = Account()
    hear(account, 1)
    hear(account, 1, run="00000000")
    account.take_line(b'{"v": 1, "id"')
    assert (account.foreign, account.torn, account.duplicates()) == (1, 1, 0)


def test_answers_events_and_states_are_kept() -> None:
    account = Account()
    account.take_message("edgerun/soak/cmd/pause/result", b'{"v":1,"verb":"pause","ok":true,"id":"a"}')
    account.take_message("edgerun/soak/cmd/reload/result", b'{"v":1,"verb":"reload","ok":false,"error":"no"}')
    account.take_message("edgerun/soak/event", b'{"v":1,"kind":"stalled","text":"x"}')
    account.take_message("edgerun/soak/state/dock", b'{"v":1,"state":"paused","reason":"by a command"}')
    account.take_message("edgerun/soak/cmd/pause", b"\xff")
    assert (account.answers, account.refused) == ({"a": True}, 1)
    assert account.events == {"stalled": 1}
    assert account.states == {"dock": "paused (by a command)"}


def samples(*rss_mib: float, every_s: float = 5.0) -> list[Sample]:
    return [Sample(at * every_s, rss, 17, 17, at * 0.5, 1.0) for at, rss in enumerate(rss_mib)]


@given(slope=st.floats(-50, 50), start=st.floats(50, 300), count=st.integers(3, 1200))
def test_the_slope_of_a_line_is_its_own(slope: float, start: float, count: int) -> None:
    line = samples(*(start + slope * at * 5 / 3600 for at in range(count)))
    assert slope_mib_h(line) == pytest.approx(slope, abs=1e-6)


def test_a_burst_that_is_given_back_is_no_slope() -> None:
    chance = random.Random(7)
    flat = [100 + chance.uniform(-0.2, 0.2) for _ in range(720)]
    flat[300:360] = [130.0] * 60
    assert abs(slope_mib_h(samples(*flat))) < 0.3


def test_windows_hold_every_sample_once() -> None:
    all_of_them = samples(*[100.0] * 150)
    windows = by_window(all_of_them, 300)
    assert [one for window in windows for one in window] == all_of_them
    assert [len(window) for window in windows] == [60, 60, 30]


def seen(**changed: Any) -> Seen:
    stream = {**dict.fromkeys(FATES, 10), "grabbed": 70, "in_flight": 0}
    good: dict[str, Any] = {
        "code": 0, "stop_s": 0.3, "summary": {"streams": {"dock": stream}}, "max_age_ms": 1000.0, "missing": 0,
        "live_twice": 0, "disorder": 0, "foreign": 0, "torn": 0, "tracebacks": 0, "away": [], "oldest_ms": 900.0,
        "warm": samples(*[100.0] * 500), "first": samples(100)[0], "last": samples(101)[0],
    }  # fmt: skip
    return Seen(**{**good, **changed})


def test_a_good_run_passes() -> None:
    assert passed(judge(seen()))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"code": 1}, "the daemon ran to its end"),
        ({"stop_s": 5.1}, "SIGTERM to exit"),
        ({"missing": 1}, "results lost"),
        ({"live_twice": 1}, "live results that came twice"),
        ({"disorder": 1}, "results out of order in their stream"),
        ({"foreign": 1}, "results of another run, torn ones"),
        ({"torn": 1}, "results of another run, torn ones"),
        ({"tracebacks": 1}, "tracebacks in the log"),
        ({"away": ["dock: stalled"]}, "streams without results at the end"),
        ({"oldest_ms": 1000.1}, "oldest result published"),
        ({"warm": samples(*(100 + at / 300 for at in range(500)))}, "resident memory after warm-up"),
        ({"last": samples(100)[0]._replace(fds=18)}, "open files, first and last"),
        ({"last": samples(100)[0]._replace(threads=18)}, "threads, first and last"),
    ],
)
def test_each_broken_promise_is_told_and_fails_the_run(changed: dict[str, Any], what: str) -> None:
    rows = judge(seen(**changed))
    assert [row.what for row in rows if row.holds is False] == [what]
    assert not passed(rows)
    assert sum(line.startswith("FAIL") for line in verdict_lines(rows)) == 1


@pytest.mark.parametrize("changed", [{"grabbed": 71}, {"failed": 9}, {"in_flight": 1}])
def test_frames_that_are_not_conserved_fail_the_run(changed: dict[str, int]) -> None:
    stream = {**dict.fromkeys(FATES, 10), "grabbed": 70, "in_flight": 0, **changed}
    assert [row.what for row in judge(seen(summary={"streams": {"dock": stream}})) if row.holds is False] == [
        "frames of dock"
    ]


@pytest.mark.parametrize(("watched_s", "slope", "holds"), [
    (SHORT_S - 10, 50.0, None),
    (SHORT_S + 10, 1.5, True),
    (SHORT_S + 10, 2.5, False),
    (LONG_S + 10, 1.5, False),
    (LONG_S + 10, 0.9, True),
])  # fmt: skip
def test_memory_is_judged_by_what_a_run_of_its_length_can_tell(
    watched_s: float, slope: float, holds: bool | None
) -> None:
    warm = samples(*(100 + slope * at * 5 / 3600 for at in range(round(watched_s / 5) + 1)))
    (row,) = [row for row in judge(seen(warm=warm)) if row.what == "resident memory after warm-up"]
    assert row.holds is holds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hours", "0"], "--hours and --every are more than 0"),
        (["--hours", "1", "--every", "-1"], "--hours and --every are more than 0"),
        (["--hours", "1", "--keep", "{kept}"], "has an earlier run's state"),
    ],
)
def test_what_cannot_be_soaked_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "state").mkdir()
    command = [sys.executable, "-m", "tools.soak_parts", *(word.format(kept=tmp_path) for word in words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
