"""The picture as lines of a terminal, and the loop that shows them.

States are words with a mark, so that nothing hangs on telling colours apart; colours are blue and yellow, which nearly
everybody can (M. Okabe, K. Ito: Color Universal Design, 2002).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_MARKS = {"running": " ", "stalled": "!", "paused": "=", "degraded": "~", "ended": "."}
_ALARMING = ("stalled", "degraded")
_SHORT = {"skipped": "sk", "superseded": "su", "expired": "ex", "gated": "ga", "limited": "li", "failed": "fa"}
_EVENT_ROWS = 6
_STALE_S = 100.0
"""Telemetry comes every 30 s by default; after three that did not, it is old."""


class Line(NamedTuple):
    """One row: what it says, and how it is shown: "", "head", "alarm", "dim" or "device"."""

    text: str
    style: str = ""


def lines(picture: Mapping[str, Any], columns: int, rows: int, top: int = 0, notice: str = "") -> list[Line]:
    """At most `rows` rows of at most `columns` characters: a heading, devices with their streams, the newest events.

    `top`: how many rows of the devices' part were scrolled away; `notice` is said in the heading.
    """
    devices = picture["devices"]
    online = sum(one.get("status") == "online" for one in devices.values())
    body = [line for name in devices for line in _device(name, devices[name], columns)]
    events = list(_events(picture["events"], min(_EVENT_ROWS, max(0, rows // 3))))
    room = max(1, rows - 2 - len(events))
    top = max(0, min(top, len(body) - room))
    shown = body[top : top + room]
    if len(body) > top + room:
        shown[-1] = Line(f"  … {len(body) - top - room + 1} more rows: ↓", "dim")
    head = f"{online} of {len(devices)} device{'s' * (len(devices) != 1)} online" if devices else "no device yet"
    refused = f", {picture['refused']} messages refused" if picture["refused"] else ""
    said = f"  {notice}" if notice else ""
    names = _row("", "stream", "state", "results/s", "age ms p50/p99", "dropped by fate")
    out = [Line(f"edgerun watch: {head}{refused}{said}  (q quits)", "head"), Line(names, "dim"), *shown]
    out += [Line("")] * max(0, rows - len(out) - len(events)) + events
    return [Line(line.text[:columns], line.style) for line in out[:rows]]


def _device(name: str, one: Mapping[str, Any], columns: int) -> Iterator[Line]:
    status = one.get("status", "unknown")
    parts = [name, status.upper() if status == "offline" else status]
    parts += [f"{one['temp_c']:.0f} °C"] if "temp_c" in one else []
    if one.get("throttled"):
        parts.append("THROTTLED" + (f" ({', '.join(one['reasons'])})" if one.get("reasons") else ""))
    parts += [f"{one['power_w']:.1f} W"] if "power_w" in one else []
    parts += [f"{one['rss_mib']:.0f} MiB"] if "rss_mib" in one else []
    parts += [one["board"]] if "board" in one else []
    age_s = one.get("telemetry_age_s")
    if age_s is not None and age_s > _STALE_S and status == "online":
        parts.append(f"silent for {age_s:.0f} s")
    alarm = status != "online" or one.get("throttled") or (age_s is not None and age_s > _STALE_S)
    yield Line("  ".join(parts), "alarm" if alarm else "device")
    for stream, told in one["streams"].items():
        yield _stream(stream, told)


def _stream(name: str, told: Mapping[str, Any]) -> Line:
    state = told.get("state", "?")
    ages = told.get("age_ms", {})
    age = f"{_whole(ages.get('p50'))}/{_whole(ages.get('p99'))}" if ages else "–"
    rate = told.get("live_fps", told.get("fps"))
    fps = "–" if rate is None else f"{rate:.1f}"
    dropped = told.get("dropped", {})
    drops = " ".join(f"{_SHORT[fate]} {_count(count)}" for fate, count in dropped.items() if count) or "–"
    if state in _ALARMING and "reason" in told:
        drops = f"{told['reason']}  {drops}"
    row = _row(_MARKS.get(state, "?"), name, state, fps, age, drops)
    return Line(row, "alarm" if state in _ALARMING else "dim" if state == "ended" else "")


def _row(mark: str, name: str, state: str, fps: str, age: str, drops: str) -> str:
    return f"{mark:1.1} {name:<16.16} {state:<9.9} {fps:>9.9} {age:>14.14}  {drops}"


def _events(events: list[Mapping[str, Any]], most: int) -> Iterator[Line]:
    """The newest first, below a rule."""
    if not events or most < 2:
        return
    yield Line("events", "dim")
    for one in events[: most - 1]:
        ts = one.get("ts")
        when = time.strftime("%H:%M:%S", time.localtime(ts)) if ts is not None and 0 <= ts < 1e11 else "--:--:--"
        where = f"{one['device']}/{one['stream']}" if "stream" in one else one["device"]
        yield Line(f"{when} {where} {one['kind']}: {one['text']}")


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if abs(value) < 1e6 else f"{value:.0e}"


def _count(value: int) -> str:
    """At most 5 characters: 12345, 123k, 12M."""
    if value < 100_000:
        return str(value)
    step = min(4, (int(math.log10(value)) // 3))
    return f"{value / 1000**step:.0f}{' kMGT'[step]}"
