"""Temperatures of the kernel's thermal zones, and the devices that cool them.

Linux, Documentation/driver-api/thermal/sysfs-api.rst. Numbers of zones change from boot to boot, so places are types.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.device.site import Found, Row, Site, number, read_rows, reading_name, unique, words
from edgerun.errors import DeviceError
from edgerun.types import Reading

COLDEST_C, HOTTEST_C = -40.0, 150.0
"""Silicon is sold for −40 … 125 °C; what lies outside is no temperature."""
TEMP = Row("temp", "temp_c", 1000.0, COLDEST_C, HOTTEST_C)

_FOLDER = "sys/class/thermal"
_CONSTANT = "PMIC"
"""On Jetsons a zone of this name always says 100 °C."""
_TRIPS = ("active", "passive", "hot", "critical")
_MOST_TRIPS = 16


class ThermalZone:
    """`thermal/<type>/temp_c`, and the lowest trip of each type: `active_c`, `passive_c`, `hot_c`, `critical_c`.

    At `critical` the kernel switches the board off; `passive` is where it slows down. The trips are those at the time
    it was found.
    """

    def __init__(self, site: Site, place: str, folder: str) -> None:
        self._site, self._place, self._folder = site, place, folder
        self._trips = _trips(site, folder)

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, taken = [], set[str]()
        for zone in site.machine.names(_FOLDER):
            folder = f"{_FOLDER}/{zone}"
            kind = words(site.machine, f"{folder}/type") or zone
            if zone.startswith("thermal_zone") and not kind.startswith(_CONSTANT):
                place = unique(kind, taken)
                found.append(Found(place, folder, cls(site, place, folder)))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`: a part that is switched off gives EAGAIN or EIO."""
        temp = read_rows(self._site, "thermal", self._place, self._folder, (TEMP,))
        if not temp:
            return ()
        at_ns = temp[0].at_ns
        trips = (Reading(reading_name("thermal", self._place, f"{k}_c"), v, at_ns) for k, v in self._trips.items())
        return (*temp, *trips)

    def close(self) -> None:
        """Nothing is held open."""


class CoolingDevice:
    """`cooling/<type>/state` and `max_state`: 0 is idle; of a processor's or GPU's, more is how far it is slowed."""

    def __init__(self, site: Site, place: str, folder: str) -> None:
        self._site, self._place, self._folder = site, place, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, taken = [], set[str]()
        for name in site.machine.names(_FOLDER):
            if name.startswith("cooling_device"):
                folder = f"{_FOLDER}/{name}"
                place = unique(words(site.machine, f"{folder}/type") or name, taken)
                found.append(Found(place, folder, cls(site, place, folder)))
        return found

    def read(self) -> Sequence[Reading]:
        """−1 is what intel_powerclamp says while it is off: no reading. Raises `DeviceError`."""
        rows = (Row("cur_state", "state", lowest=-1, highest=1e4), Row("max_state", "max_state", highest=1e4))
        found = read_rows(self._site, "cooling", self._place, self._folder, rows)
        return tuple(one for one in found if one.value >= 0)

    def close(self) -> None:
        """Nothing is held open."""


def _trips(site: Site, folder: str) -> dict[str, float]:
    """The lowest of each type; one that is 0 or out of range is not set."""
    trips: dict[str, float] = {}
    for index in range(_MOST_TRIPS):
        kind = words(site.machine, f"{folder}/trip_point_{index}_type")
        if kind is None:
            break
        try:
            temp_c = number(site.machine, folder, Row(f"trip_point_{index}_temp", "temp_c", 1000.0, 1.0, HOTTEST_C))
        except DeviceError:
            continue
        if temp_c is not None and kind in _TRIPS:
            trips[kind] = min(temp_c, trips.get(kind, temp_c))
    return trips
