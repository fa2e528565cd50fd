"""The names that readings have as Prometheus metrics: `thermal/cpu/temp_c` is `edgerun_thermal_temp_celsius`.

The unit at the end of a reading's quantity becomes Prometheus's base unit in full; what only ever grows is a counter.
"""

from __future__ import annotations

import re

import msgspec

from edgerun.telemetry.readings import name_parts
from edgerun.types import Reading

_UNITS = {
    "c": "celsius",
    "w": "watts",
    "a": "amperes",
    "v": "volts",
    "j": "joules",
    "hz": "hertz",
    "s": "seconds",
    "bytes": "bytes",
    "share": "ratio",
    "rpm": "rpm",
    "dbm": "dbm",
}
_WATT_HOURS = ("wh", "joules", 3600.0)
_COUNTERS = re.compile(r"_events$|_kills$|_total_s$|^(usage|throttled|package)_s$|periods$|^energy_j$|^lost_beacons$")


class Metric(msgspec.Struct, frozen=True):
    """One reading as a sample. `counts`: it is a counter, and `name` is without its `_total`."""

    name: str
    place: str
    value: float
    counts: bool
    text: str


def metric_of(reading: Reading) -> Metric | None:
    """None for readings without a place, which the process tells under names of their own."""
    kind, place, quantity = name_parts(reading.name)
    if not kind:
        return None
    counts = _COUNTERS.search(quantity) is not None
    stem, _, unit = quantity.rpartition("_")
    value = reading.value
    if unit == _WATT_HOURS[0] and stem:
        words, value = [stem, _WATT_HOURS[1]], value * _WATT_HOURS[2]
    elif unit in _UNITS and stem:
        words = [stem.removesuffix("_total") if counts else stem, _UNITS[unit]]
    else:
        words = [quantity]
    name = re.sub(r"[^a-zA-Z0-9_]", "_", "_".join(["edgerun", kind, *words]))
    return Metric(name.removesuffix("_total"), place, value, counts, f"{kind}: {quantity.replace('_', ' ')}, by place.")
