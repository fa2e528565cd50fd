"""Temperatures, fans, voltages, currents and power of hardware monitoring chips.

Linux, Documentation/hwmon/sysfs-interface.rst: m°C, rpm, mV, mA, µW, µJ. Chips are told apart by their driver's name:
the numbers of hwmonN change from boot to boot. INA power monitors are rails (rails.py), `rpi_volt` is raspberry.py's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgerun.device.machine import Machine
from edgerun.device.site import Found, Row, Site, number, read_rows, unique, words
from edgerun.device.thermal import COLDEST_C, HOTTEST_C
from edgerun.errors import DeviceError
from edgerun.types import Reading

FOLDER = "sys/class/hwmon"
NOT_HERE = re.compile(r"ina2\d\d|ina3221|rpi_volt")
"""Drivers' names that other sensors read."""

_CHANNEL = re.compile(r"(temp|fan|in|curr|power)(\d+)_(input|average)")
_QUANTITIES = {
    "temp": Row("", "temp_c", 1000.0, COLDEST_C, HOTTEST_C),
    "fan": Row("", "fan_rpm", 1.0, 0.0, 100_000.0),
    "in": Row("", "voltage_v", 1000.0, -1000.0, 1000.0),
    "curr": Row("", "current_a", 1000.0, -1000.0, 1000.0),
    "power": Row("", "power_w", 1e6, 0.0, 10_000.0),
}


class HwmonChannel:
    """One channel of one chip: `hwmon/<chip> <label>/temp_c`, `fan_rpm`, `voltage_v`, `current_a` or `power_w`.

    `crit_c` comes with a temperature where the chip names one. A channel that says it is at fault (`tempN_fault`) is
    broken.
    """

    def __init__(self, site: Site, place: str, folder: str, channel: str, measure: str) -> None:
        self._site, self._place, self._folder, self._channel = site, place, folder, channel
        kind = re.sub(r"\d", "", channel)
        self._rows = [_QUANTITIES[kind]._replace(file=f"{channel}_{measure}")]
        self._may_fault = kind == "temp" and site.machine.exists(f"{folder}/{channel}_fault")
        if kind == "temp":
            self._rows.append(Row(f"{channel}_crit", "crit_c", 1000.0, COLDEST_C, 1000.0))

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, taken = [], set[str]()
        zones = _zone_types(site.machine)
        for chip, folder in chips(site.machine):
            if NOT_HERE.fullmatch(chip) or chip.replace("_", "-") in zones:  # a zone shows itself as a chip too
                continue
            for channel, measure in _channels(site.machine, folder):
                label = words(site.machine, f"{folder}/{channel}_label") or channel
                place = unique(f"{chip} {label}", taken)
                sensor = cls(site, place, folder, channel, measure)
                found.append(Found(place, f"{folder}/{channel}", sensor))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        if self._may_fault and number(self._site.machine, self._folder, Row(f"{self._channel}_fault", "fault")):
            raise DeviceError("the chip says that this channel is at fault", where=f"/{self._folder}/{self._channel}")
        return read_rows(self._site, "hwmon", self._place, self._folder, self._rows)

    def close(self) -> None:
        """Nothing is held open."""


def chips(machine: Machine) -> list[tuple[str, str]]:
    """(driver's name, folder) of each. Old drivers keep their files in `device/`. Raises `DeviceError`."""
    found = []
    for hwmon in machine.names(FOLDER):
        for folder in (f"{FOLDER}/{hwmon}", f"{FOLDER}/{hwmon}/device"):
            name = words(machine, f"{folder}/name")
            if name is not None:
                found.append((name, folder))
                break
    return found


def _channels(machine: Machine, folder: str) -> list[tuple[str, str]]:
    """("temp1", "input") of each channel; `powerN_average` only where there is no `powerN_input`."""
    found: dict[str, str] = {}
    for name in machine.names(folder):
        match = _CHANNEL.fullmatch(name)
        if match is not None and (match[3] == "input" or (match[1] == "power" and match[1] + match[2] not in found)):
            found[match[1] + match[2]] = match[3]
    return list(found.items())


def _zone_types(machine: Machine) -> set[str]:
    folder = "sys/class/thermal"
    zones = (name for name in machine.names(folder) if name.startswith("thermal_zone"))
    return {(words(machine, f"{folder}/{zone}/type") or "").replace("_", "-") for zone in zones}
