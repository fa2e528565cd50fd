"""What readings of the device become in telemetry: the groups `memory`, `disk`, `clock` and `sensors`.

A reading is named `<kind>/<place>/<quantity>`; the place may hold slashes. `thermal` and `power` are made where the
sensors are known (`device/evidence.py`, `device/energy.py`): they take more than one look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgerun.types import Reading

_MIB = 2**20
_STANDS = ("_since_boot", "_total_s", "_60s_share", "max_state", "highest_hz", "range_j", "full_wh", "reserve")
"""Ends of quantities that never change, or say again what another reading says."""
_TRIPS = ("critical_c", "passive_c", "active_c", "hot_c", "crit_c", "max_c", "stop_c", "trip0_c", "trip1_c", "trip2_c")
_OF_OTHER_GROUPS = ("disk", "system")
_DIGITS = 5


def name_parts(name: str) -> tuple[str, str, str]:
    """(kind, place, quantity); kind and place are empty in names without slashes."""
    front, _, quantity = name.rpartition("/")
    kind, _, place = front.partition("/")
    return kind, place, quantity


def device_groups(readings: Iterable[Reading], broken: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """`memory` (of the machine and of the process's own cgroup), `disk`, `clock` and `sensors`, without empty ones.

    `broken`: sensors that are there and cannot be read, with the reason. In `sensors` are the readings that are in no
    other group and that change, by their names.
    """
    values = {one.name: one.value for one in readings}
    disks: dict[str, dict[str, Any]] = {}
    sensors: dict[str, float] = {}
    for name, value in values.items():
        kind, place, quantity = name_parts(name)
        if kind == "disk":
            disks.setdefault(place, {})[quantity] = bool(value) if quantity == "read_only" else round(value)
        elif kind and kind not in _OF_OTHER_GROUPS and not quantity.endswith(_STANDS) and quantity not in _TRIPS:
            sensors[name] = _rounded(value)
    if "system/cpu/busy_share" in values:
        sensors["system/cpu/busy_share"] = _rounded(values["system/cpu/busy_share"])
    told = {"values": sensors, "broken": dict(broken or {})}
    groups = {
        "memory": _memory(values),
        "disk": disks,
        "clock": _clock(values),
        "sensors": {key: group for key, group in told.items() if group},
    }
    return {key: group for key, group in groups.items() if group}


def _memory(values: Mapping[str, float]) -> dict[str, Any]:
    names = {
        "available_mib": "system/memory/available_bytes",
        "total_mib": "system/memory/total_bytes",
        "cgroup_mib": "cgroup/memory/current_bytes",
        "cgroup_limit_mib": "cgroup/memory/limit_bytes",
    }
    return {key: round(values[name] / _MIB, 1) for key, name in names.items() if name in values}


def _clock(values: Mapping[str, float]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if "system/clock/synchronised" in values:
        out["synchronised"] = bool(values["system/clock/synchronised"])
    if "system/clock/max_error_s" in values:
        out["max_error_s"] = _rounded(values["system/clock/max_error_s"])
    if "system/boot/uptime_s" in values:
        out["uptime_s"] = round(values["system/boot/uptime_s"], 1)
    return out


def _rounded(value: float) -> float:
    """To what a sensor can tell: five digits behind the point, or all of a large whole number."""
    return round(value, _DIGITS)
