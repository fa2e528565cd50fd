"""What readings say together: is the machine slowed down, why, and how warm is its processor. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edgerun.device.raspberry import FLAGS
from edgerun.device.site import name_parts
from edgerun.types import Reading

_NOT_SLOWING = ("fan", "display", "lcd", "backlight", "charger", "battery", "usb", "tcc")
"""Cooling devices whose being at work slows nothing down that computes. A processor's or a GPU's are all others."""
_SINCE_BOOT = "_since_boot"
_PROCESSOR_ZONES = ("cpu", "soc", "x86_pkg", "package", "tdie", "tctl", "core", "tj", "bigcore", "ap-thermal")
_PROCESSOR_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "scpi_sensors")
_COUNTERS = {
    "throttle": ("package_events", "core_events"),
    "cgroup": ("throttled_periods",),
}


class Throttling(msgspec.Struct, frozen=True):
    """`now`: what slows the machine down, in short words for programs; `since_boot`: what has before.

    `capped` names what may not run as fast as it could, which may be the operator's own wish. `told`: whether anything
    on this board tells; without it, not being throttled is not known.
    """

    now: tuple[str, ...]
    since_boot: tuple[str, ...]
    capped: tuple[str, ...]
    told: bool


def throttling(values: Mapping[str, float]) -> Throttling:
    """From readings by name: the Raspberry Pi's flags, cooling devices at work, Coral trips reached, capped clocks."""
    now: list[str] = []
    before: list[str] = []
    capped: list[str] = []
    told = False
    for name, value in values.items():
        kind, place, quantity = name_parts(name)
        if kind == "pi" and quantity.removesuffix(_SINCE_BOOT) in FLAGS.values():
            told = True
            if value:
                (before if quantity.endswith(_SINCE_BOOT) else now).append(quantity.removesuffix(_SINCE_BOOT))
        elif kind == "cooling" and quantity == "state" and slows(place):
            told = True
            now += [f"cooling {place}"] if value > 0 else []
        elif kind == "coral" and quantity == "temp_c":
            told = True
            trip_c = values.get(f"coral/{place}/trip0_c")
            now += [f"coral {place}"] if trip_c is not None and value >= trip_c else []
        elif kind == "cpufreq" and quantity == "limit_hz":
            capped += [place] if value < values.get(f"cpufreq/{place}/highest_hz", value) else []
    return Throttling(_once(now), _once(before), _once(capped), told)


def slows(cooling: str) -> bool:
    """Whether a cooling device of that type slows something down that computes when it is at work."""
    return not any(word in cooling.lower() for word in _NOT_SLOWING)


def slowed_between(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[str, ...]:
    """What slowed the machine down between two samples, as their counters, flags, and caps that came lower tell."""
    found = [*throttling(before).now, *throttling(after).now]
    for name, value in after.items():
        kind, place, quantity = name_parts(name)
        earlier = before.get(name)
        if earlier is None:
            continue
        if quantity in _COUNTERS.get(kind, ()) and value > earlier:
            found.append("processor quota" if kind == "cgroup" else f"thermal events of {place}")
        elif kind == "cpufreq" and quantity == "limit_hz" and value < earlier:
            found.append(f"{place} capped to {value / 1e6:.0f} MHz")
        elif quantity.endswith(_SINCE_BOOT) and value > earlier:
            found.append(quantity.removesuffix(_SINCE_BOOT))
    return _once(found)


def processor_temp_c(values: Mapping[str, float]) -> float | None:
    """The hottest zone of the processor or the chip it is on; the hottest of any zone where none is named so."""
    zones: dict[str, float] = {}
    chips: dict[str, float] = {}
    for name, value in values.items():
        kind, place, quantity = name_parts(name)
        if quantity == "temp_c" and kind in ("thermal", "hwmon"):
            (zones if kind == "thermal" else chips)[place] = value
    named = [temp for place, temp in zones.items() if place.lower().startswith(_PROCESSOR_ZONES)]
    named += [temp for place, temp in chips.items() if place.startswith(_PROCESSOR_CHIPS)]
    return max(named or zones.values(), default=None)


def thermal_picture(readings: Iterable[Reading]) -> dict[str, Any]:
    """The `thermal` group of telemetry: `soc_temp_c`, `throttled`, `reasons`, `coral_temp_c`; what is not known is not
    in it.
    """
    values = {one.name: one.value for one in readings}
    out: dict[str, Any] = {}
    temp_c = processor_temp_c(values)
    if temp_c is not None:
        out["soc_temp_c"] = round(temp_c, 1)
    corals = [v for n, v in values.items() if n.startswith("coral/") and n.endswith("/temp_c")]
    if corals:
        out["coral_temp_c"] = round(max(corals), 1)
    found = throttling(values)
    if found.told:
        out["throttled"] = bool(found.now)
    for key, reasons in (("reasons", found.now), ("since_boot", found.since_boot), ("capped", found.capped)):
        if reasons:
            out[key] = list(reasons)
    return out


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
