"""Times as cron tables have them (crontab(5)): minute, hour, day of the month, month, day of the week."""

from __future__ import annotations

import re

import msgspec

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class CronTime(msgspec.Struct, frozen=True):
    """The moments that five cron fields name; `either`: both kinds of day are given, and one of them is enough."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    month_days: frozenset[int]
    months: frozenset[int]
    week_days: frozenset[int]
    """0 is Sunday."""
    either: bool


def parse_cron(text: str) -> CronTime:
    """Minute, hour, day of the month, month, day of the week, as crontab(5) has them. Raises `ValueError`."""
    fields = text.lower().split()
    if len(fields) != 5:
        raise ValueError(f"{len(fields)} fields, not five")
    limits: tuple[tuple[int, int, tuple[str, ...]], ...] = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, MONTHS))
    minutes, hours, month_days, months = (_cron_field(f, *each) for f, each in zip(fields, limits, strict=False))
    week_days = frozenset(day % 7 for day in _cron_field(fields[4], 0, 7, DAYS))
    if not any(day <= _LONGEST[month - 1] for day in month_days for month in months) and fields[4] == "*":
        raise ValueError("no month has such a day")
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    return CronTime(
        tuple(sorted(minutes)), tuple(sorted(hours)), frozenset(month_days), frozenset(months), week_days, either
    )


def _cron_field(text: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            begin, end = low, high
        else:
            begin = _cron_number(first, low, high, names)
            end = _cron_number(last, low, high, names) if dash else high if slash else begin
        if begin > end:
            raise ValueError(f"{span} runs backwards")
        if slash and (not step.isdecimal() or not 0 < int(step) <= high):
            raise ValueError(f"/{step} is no step")
        found |= set(range(begin, end + 1, int(step) if slash else 1))
    return found


def _cron_number(text: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if text in names:
        return names.index(text) + low
    if not re.fullmatch(r"[0-9]{1,2}", text) or not low <= int(text) <= high:
        raise ValueError(f'"{text}" is not {low} to {high}')
    return int(text)
