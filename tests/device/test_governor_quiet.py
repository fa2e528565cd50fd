"""Cron times and quiet hours: against a count of every minute, over the change of the clocks, with clocks that lie."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.config.cron import CronTime, parse_cron
from edgerun.device.quiet import Window, is_open, latest_begin

BERLIN = ZoneInfo("Europe/Berlin")


def unix_s(text: str, zone: ZoneInfo | None = None, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC, fold=fold).timestamp()


def window(cron: str, hours: float, zone: ZoneInfo | None = None) -> Window:
    return Window("night", parse_cron(cron), hours * 3600, zone or UTC)


@pytest.mark.parametrize(
    ("cron", "moment", "open_"),
    [
        ("0 22 * * *", "2026-11-21 21:59:59", False),
        ("0 22 * * *", "2026-11-21 22:00", True),
        ("0 22 * * *", "2026-11-22 05:59:59", True),
        ("0 22 * * *", "2026-11-22 06:00", False),
        ("0 22 * * mon-fri", "2026-11-21 23:00", False),  # a Saturday
        ("0 22 * * mon-fri", "2026-11-21 05:00", True),  # Friday's
        ("0 22 * * 6,7", "2026-11-22 22:30", True),  # 7 is Sunday, as 0 is
        ("0 22 1 * *", "2026-12-02 05:00", True),
        ("0 22 31 * *", "2026-12-01 05:00", False),
        ("0 22 24 dec *", "2026-12-24 23:00", True),
        ("0 22 24 dec *", "2026-11-24 23:00", False),
        ("0 22 1 * sun", "2026-11-22 23:00", True),  # either of the two
        ("0 22 1 * sun", "2026-12-01 23:00", True),
        ("0 22 1 * sun", "2026-12-02 23:00", False),
        ("*/20 8-10/2 * * *", "2026-11-21 18:39", True),
        ("*/20 8-10/2 * * *", "2026-11-21 18:41", False),
    ],
)
def test_when_a_window_is_open(cron: str, moment: str, open_: bool) -> None:
    assert is_open(window(cron, 8), unix_s(moment)) is open_


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 22 * *", "4 fields, not five"),
        ("60 22 * * *", '"60" is not 0 to 59'),
        ("0 24 * * *", '"24" is not 0 to 23'),
        ("0 0 0 * *", '"0" is not 1 to 31'),
        ("0 0 * 13 *", '"13" is not 1 to 12'),
        ("0 0 * * 8", '"8" is not 0 to 7'),
        ("0 0 * * fry", '"fry" is not 0 to 7'),
        ("0 0 * * fri-mon", "fri-mon runs backwards"),
        ("*/0 0 * * *", "/0 is no step"),
        ("*/x 0 * * *", "/x is no step"),
        ("0 0 31 feb,apr *", "no month has such a day"),
        ("0 0 -1 * *", '"" is not 1 to 31'),
        ("0 0 1,,2 * *", '"" is not 1 to 31'),
        ("٣ 0 * * *", '"٣" is not 0 to 59'),
    ],
)
def test_what_is_no_cron_time(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_cron(text)
    assert says in str(caught.value)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    span = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda two: f"{min(two)}-{max(two)}")
    one = st.integers(low, high).map(str) | span
    steps = st.tuples(st.just("*") | span, st.integers(1, high)).map(lambda two: f"{two[0]}/{two[1]}")
    return st.just("*") | st.lists(one | steps, min_size=1, max_size=3).map(",".join)


def is_begin(cron: CronTime, moment: datetime) -> bool:
    """By crontab(5), field by field."""
    in_month, in_week = moment.day in cron.month_days, (moment.weekday() + 1) % 7 in cron.week_days
    day = (in_month or in_week) if cron.either else (in_month and in_week)
    return moment.minute in cron.minutes and moment.hour in cron.hours and moment.month in cron.months and day


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 7)),
    st.integers(0, 4 * 365 * 1440),
    st.integers(1, 3 * 1440),
)
def test_it_is_what_counting_every_minute_gives(fields: tuple[str, ...], minute: int, lasts_min: int) -> None:
    cron = parse_cron(" ".join(fields))
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute, seconds=17)
    whole = now.replace(second=0)
    ago = next((m for m in range(lasts_min + 1) if is_begin(cron, whole - timedelta(minutes=m))), None)
    counted = ago is not None and ago * 60 + 17 < lasts_min * 60
    assert is_open(Window("w", cron, lasts_min * 60.0, UTC), now.timestamp()) is counted


def test_over_the_change_of_the_clocks() -> None:
    night = window("30 2 * * *", 1.0, BERLIN)
    assert is_open(night, unix_s("2026-06-01 03:00", BERLIN))
    # In spring 02:30 is left out: it begins behind the gap, at 03:30 summer time.
    assert not is_open(night, unix_s("2026-03-29 01:59", BERLIN))
    assert is_open(night, unix_s("2026-03-29 03:45", BERLIN))
    assert not is_open(night, unix_s("2026-03-29 05:00", BERLIN))
    # In autumn 02:30 comes twice: the first counts, for one hour.
    assert is_open(night, unix_s("2026-10-25 02:45", BERLIN, fold=0))
    assert is_open(night, unix_s("2026-10-25 02:15", BERLIN, fold=1))
    assert not is_open(night, unix_s("2026-10-25 02:45", BERLIN, fold=1))


@given(st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1e10, 1e12))
def test_no_clock_makes_it_fail(clock_s: float) -> None:
    always = window("* * * * *", 24.0)
    assert is_open(always, clock_s) in (True, False)
    began_s = latest_begin(always, clock_s)
    assert began_s is None or began_s <= clock_s < began_s + 60


@given(st.integers(-50, 50), st.floats(0, 365 * 86400))
def test_a_clock_that_jumps_leaves_nothing_behind(years: int, second_s: float) -> None:
    """Only the moment counts, not what came before."""
    night, start_s = window("0 22 * * *", 8.0), unix_s("2026-01-01 00:00")
    moment_s = start_s + second_s
    before = is_open(night, moment_s)
    is_open(night, moment_s + years * 365.25 * 86400)
    assert is_open(night, moment_s) is before
    assert is_open(night, moment_s + 86400) is before
