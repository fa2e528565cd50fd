"""Which level the machine may work at: a pure step from what is measured to a rung of a ladder, and why.

Each measure has zones that overlap (a value must go further back to leave a zone than it went to enter it):
`calm`: the level may rise, slowly; `hold`: it stays; `hot`: it goes down, at once and again while it stays hot;
`stop`: straight to the bottom. The worst zone counts.

A box warms up slowly, so a level is judged by where its value goes, too: nothing rises while a value is still getting
worse, and what is hot but getting better since the last step down is not lowered further. A rise that had to be taken
back is tried again after twice the time. So a machine whose load lies between two rungs does not swing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from edgerun.device.ladder import Level

CALM, HOLD, HOT, STOP = range(4)
ZONES = ("calm", "hold", "hot", "stop")

Measure = Literal["temp_c", "power_w", "battery_share", "under_voltage", "memory_share", "memory_pressure", "age_share"]
"""`age_share`: the p95 age of results as a share of its target; `memory_share`: used of what may be used;
`memory_pressure`: the share of the last ten seconds in which something waited for memory.
"""
_WORDS: dict[Measure, tuple[str, float, str]] = {
    "temp_c": ("the processor is at {:.1f} °C", 1.0, "hot"),
    "power_w": ("the device draws {:.2f} W", 1.0, "over its budget"),
    "battery_share": ("the battery is at {:.0f} %", 100.0, "low"),
    "under_voltage": ("the supply's voltage is too low", 1.0, ""),
    "memory_share": ("{:.0f} % of the memory is used", 100.0, "too much"),
    "memory_pressure": ("work waits for memory {:.0f} % of the time", 100.0, "too much"),
    "age_share": ("results are {:.0f} % of the age they may have", 100.0, "too old"),
}
"""How a measure is told, by what its value is multiplied for that, and what it is when that is bad."""

_MOST_DOUBLINGS = 5
_QUICK_S, _SLOW_S = 10.0, 300.0
"""Two running means of a value; how far the quick one is ahead of the slow one is its trend."""
_CLOSE = 0.25
"""So far from the hot zone's beginning towards the stop zone's one rung at a time will do."""
_FAR = 4.0
"""Where there is no stop zone: so many times as far from hot as hot is from warm."""
_STEADY = 0.1
"""A trend below this part of the zones' overlap is none."""
_PROGRESS = 0.02
"""What gets better by this part of the overlap while it settles is given more time."""


class Band(msgspec.Struct, frozen=True):
    """One measure's zones, mildest first: each from `low` to `high`, the neighbours overlapping.

    `falling`: a low value is the bad one, as a battery's charge. Then the numbers are still as they are measured, the
    mildest zone being the highest. `rungs`: at least so many at a step down.
    """

    measure: Measure
    zones: tuple[tuple[float, float], ...]
    falling: bool = False
    rungs: int = 1


class Policy(msgspec.Struct, frozen=True):
    """`up_s`: calm time before each rise; `settle_s`: what a step down is given to take effect before the next."""

    bands: tuple[Band, ...]
    up_s: float = 60.0
    settle_s: float = 10.0


class Course(msgspec.Struct, frozen=True):
    """A value's two running means, larger being worse."""

    quick: float
    slow: float

    @property
    def trend(self) -> float:
        return self.quick - self.slow


class State(msgspec.Struct, frozen=True):
    """What the governor remembers from step to step. `level` 0 is everything."""

    level: int = 0
    zones: Mapping[str, int] = {}
    calm_since_ns: int | None = None
    moved_ns: int | None = None
    rose: bool = False
    """Whether the last move was a rise."""
    doubtful: int | None = None
    """The level whose rise had to be taken back."""
    doublings: int = 0
    reason: str = ""
    courses: Mapping[str, Course] = {}
    judged: Mapping[str, float] = {}
    """The quick means when it was last lowered, or last found to be getting better."""
    judged_ns: int | None = None
    seen_ns: int | None = None


def rising_band(measure: Measure, warm: float, hot: float, stop: float | None, margin: float, rungs: int = 1) -> Band:
    """Zones entered at `warm`, `hot` and `stop` and left `margin` below; without `stop` there is no such zone."""
    enters = [value for value in (warm, hot, stop) if value is not None]
    lows = [float("-inf"), *(value - margin for value in enters)]
    return Band(measure, tuple(zip(lows, [*enters, float("inf")], strict=True)), rungs=rungs)


def falling_band(measure: Measure, low: float, critical: float, stop: float | None, margin: float) -> Band:
    """The same for a measure whose low values are bad: entered below each value, left `margin` above."""
    mirrored = rising_band(measure, -low, -critical, None if stop is None else -stop, margin)
    return Band(measure, tuple((-high, -low) for low, high in mirrored.zones), falling=True)


def mistakes(policy: Policy, ladder: Sequence[Level]) -> list[str]:
    """What is wrong with a policy, for `check`: gaps, crossing or swinging bands, levels that nothing leads to."""
    found = []
    for band in policy.bands:
        zones = _upward(band)
        if not 2 <= len(zones) <= len(ZONES):
            found.append(f"{band.measure}: {len(zones)} zones, of 2 to {len(ZONES)}")
            continue
        if zones[0][0] != float("-inf") or zones[-1][1] != float("inf"):
            found.append(f"{band.measure}: the outermost zones must be open, else some values belong to none")
        for index, ((low, high), (next_low, next_high)) in enumerate(pairwise(zones)):
            pair = f"{ZONES[index]} and {ZONES[index + 1]}"
            if not low < high or not next_low < next_high or not low < next_low or not high < next_high:
                found.append(f"{band.measure}: the zones {pair} cross: each must begin and end beyond the one before")
            elif next_low > high:
                found.append(f"{band.measure}: nothing lies between {pair}: {high:g} … {next_low:g} belongs to none")
            elif next_low == high:
                found.append(f"{band.measure}: {pair} do not overlap at {high:g}: the level would swing there")
    if policy.up_s < policy.settle_s:
        found.append("up_s must not be shorter than settle_s: it would rise faster than it may fall")
    if len(ladder) < 2:
        found.append("the ladder has one level only: there is nothing to lower")
    elif policy.bands and not any(len(band.zones) > HOT for band in policy.bands):
        found.append("no band has a hot zone: the levels below the first are never reached")
    return found


def step(policy: Policy, levels: int, state: State, measured: Mapping[str, float], now_ns: int) -> State:
    """The state after a look at `measured` (what is not known is not in it). `levels`: how many the ladder has.

    The last one is for `stop` only. Called every second or so; `now_ns` is monotonic.
    """
    zones = {band.measure: _zone(band, state.zones.get(band.measure), measured) for band in policy.bands}
    worst = max(policy.bands, key=lambda band: zones[band.measure], default=None)
    zone = CALM if worst is None else zones[worst.measure]
    calm_since_ns = (now_ns if state.calm_since_ns is None else state.calm_since_ns) if zone == CALM else None
    courses = _courses(policy, state, measured, now_ns)
    state = msgspec.structs.replace(state, zones=zones, calm_since_ns=calm_since_ns, courses=courses, seen_ns=now_ns)
    bottom = levels - 1
    if zone == STOP:
        why = "" if worst is None else _reason(worst, zone, measured)
        return _lower(state, bottom, why, now_ns) if state.level < bottom else state
    if zone == HOT:
        return _cool(policy, state, measured, max(0, bottom - 1), now_ns)
    return state if any(_worsens(band, courses) for band in policy.bands) else _rise(policy, state, now_ns)


def _zone(band: Band, before: int | None, measured: Mapping[str, float]) -> int:
    """Where a value is, coming from `before`. One that is not known any more holds the level where it was not calm."""
    value = measured.get(band.measure)
    if value is None:
        return CALM if before in (None, CALM) else HOLD
    zones = _upward(band)
    value = -value if band.falling else value
    zone = min(before or CALM, len(zones) - 1)
    while zone < len(zones) - 1 and value >= zones[zone][1]:
        zone += 1
    while zone > 0 and value < zones[zone][0]:
        zone -= 1
    return zone


def _courses(policy: Policy, state: State, measured: Mapping[str, float], now_ns: int) -> dict[str, Course]:
    seconds = 0.0 if state.seen_ns is None else max(0, now_ns - state.seen_ns) / 1e9
    quick, slow = (1.0 - math.exp(-seconds / time_s) for time_s in (_QUICK_S, _SLOW_S))
    courses: dict[str, Course] = {}
    for band in policy.bands:
        value = measured.get(band.measure)
        if value is not None:
            value = -value if band.falling else value
            old = state.courses.get(band.measure, Course(value, value))
            courses[band.measure] = Course(
                old.quick + quick * (value - old.quick), old.slow + slow * (value - old.slow)
            )
    return courses


def _slack(band: Band) -> float:
    """What counts as no change."""
    zones = _upward(band)
    return _STEADY * (zones[0][1] - zones[1][0]) if len(zones) > 1 else 0.0


def _worsens(band: Band, courses: Mapping[str, Course]) -> bool:
    """Whether it is on its way to the worse; not where it is not known."""
    course = courses.get(band.measure)
    return course is not None and course.trend > _slack(band)


def _beyond(band: Band, measured: Mapping[str, float]) -> bool:
    """Whether a value is where the hot zone is entered; below that, where it is left, it is waited for."""
    value = measured.get(band.measure)
    if value is None:
        return False
    return (-value if band.falling else value) >= _upward(band)[HOT - 1][1]


def _stride(band: Band, measured: Mapping[str, float], left: int) -> int:
    """How many rungs to go down at once, of `left`: the band's least, and more the nearer the value is to its stop."""
    zones, value = _upward(band), measured.get(band.measure)
    least = min(left, band.rungs)
    if value is None:
        return least
    warm, hot = zones[CALM][1], zones[HOLD][1]
    stop = zones[HOT][1] if len(zones) > STOP else hot + _FAR * (hot - warm)
    share = ((-value if band.falling else value) - hot) / (stop - hot)
    return max(least, min(left, round((share - _CLOSE) * left / 2)))


def _cool(policy: Policy, state: State, measured: Mapping[str, float], lowest: int, now_ns: int) -> State:
    """A step down where it is hot, unless the last one needs more time or begins to help against all that is."""
    bands = [band for band in policy.bands if state.zones[band.measure] == HOT and _beyond(band, measured)]
    if state.level >= lowest or not bands:
        return state
    if not state.rose and state.judged_ns is not None:
        if now_ns - state.judged_ns < policy.settle_s * 1e9:
            return state
        bands = [band for band in bands if not _better(state, band)]
        if not bands:
            judged = {measure: course.quick for measure, course in state.courses.items()}
            return msgspec.structs.replace(state, judged=judged, judged_ns=now_ns)
    strides = {band.measure: _stride(band, measured, lowest - state.level) for band in bands}
    worst = max(bands, key=lambda band: strides[band.measure])
    return _lower(state, state.level + strides[worst.measure], _reason(worst, HOT, measured), now_ns)


def _better(state: State, band: Band) -> bool:
    """Whether it has got better since it was last judged."""
    then, course = state.judged.get(band.measure), state.courses.get(band.measure)
    return then is not None and course is not None and course.quick < then - _slack(band) * _PROGRESS / _STEADY


def _upward(band: Band) -> list[tuple[float, float]]:
    return [(-high, -low) for low, high in band.zones] if band.falling else list(band.zones)


def _lower(state: State, level: int, why: str, now_ns: int) -> State:
    doubtful, doublings = state.doubtful, state.doublings
    if state.rose:
        again = doubtful is not None and state.level <= doubtful
        doublings = min(_MOST_DOUBLINGS, doublings + 1) if again else 1
        doubtful = state.level
    return msgspec.structs.replace(
        state,
        level=level,
        moved_ns=now_ns,
        rose=False,
        judged={measure: course.quick for measure, course in state.courses.items()},
        judged_ns=now_ns,
        doubtful=doubtful,
        doublings=doublings,
        reason=why,
    )


def _rise(policy: Policy, state: State, now_ns: int) -> State:
    """One level up after its time of calm; longer where that rise was taken back before."""
    if state.level == 0 or state.calm_since_ns is None:
        return state
    risky = state.doubtful is not None and state.level - 1 <= state.doubtful
    wait_ns = policy.up_s * 1e9 * (2**state.doublings if risky else 1)
    since_ns = max(state.calm_since_ns, state.moved_ns or state.calm_since_ns)
    if now_ns - since_ns < wait_ns:
        return state
    level = state.level - 1
    reason = "calm again" if level else ""
    return msgspec.structs.replace(state, level=level, moved_ns=now_ns, rose=True, reason=reason)


def _reason(band: Band, zone: int, measured: Mapping[str, float]) -> str:
    """A sentence for a person; empty where all is well."""
    value = measured.get(band.measure)
    words, factor, bad = _WORDS[band.measure]
    if zone < HOT:
        return ""
    said = words.format(value * factor) if value is not None else words.partition("{")[0].strip()
    if zone == STOP:
        return f"{said}: everything has to stop"
    return f"{said}, which is {bad}" if bad else said
