"""Quiet hours: whether the wall clock stands in a window that begins at a cron time.

Decided anew at each look from the wall clock alone, so that a clock that jumps, be it by a year, leaves nothing behind.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

import msgspec

from edgerun.config.cron import CronTime

_DAY_S = 86400.0


class Window(msgspec.Struct, frozen=True):
    """It begins at each of `begins` and lasts so long. `zone` None: the machine's own time zone."""

    name: str
    begins: CronTime
    lasts_s: float
    zone: tzinfo | None = None


def is_open(window: Window, unix_s: float) -> bool:
    """Whether that moment (Unix seconds) lies in the window; its first moment does, the one at its end does not.

    Two windows that overlap count as one. Where the clocks go forward, a beginning within the hour that is left out
    is moved behind it; where they go back it is the first of the two (PEP 495).
    """
    began_s = latest_begin(window, unix_s)
    return began_s is not None and unix_s < began_s + window.lasts_s


def latest_begin(window: Window, unix_s: float) -> float | None:
    """The last beginning at or before that moment, Unix seconds; None where there was none within what it lasts."""
    try:
        now = datetime.fromtimestamp(unix_s, window.zone)
        for back in range(int(window.lasts_s // _DAY_S) + 2):
            day = now - timedelta(days=back)
            if _is_day(window.begins, day):
                for hour in reversed(window.begins.hours):
                    for minute in reversed(window.begins.minutes):
                        begin_s = day.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0).timestamp()
                        if begin_s <= unix_s:
                            return begin_s
    except (ValueError, OverflowError, OSError):  # a clock that shows no year there is
        return None
    return None


def _is_day(begins: CronTime, day: datetime) -> bool:
    """As crontab(5): where both kinds of day are given, one of them is enough."""
    if day.month not in begins.months:
        return False
    in_month, in_week = day.day in begins.month_days, day.isoweekday() % 7 in begins.week_days
    return in_month or in_week if begins.either else in_month and in_week
