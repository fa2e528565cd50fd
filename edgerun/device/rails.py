"""Power, current and voltage of supply rails, from the INA monitors on them.

Linux, Documentation/hwmon/ina2xx.rst (INA219, 220, 226, 230, 231, 260 …: one channel, bus voltage in `in1`) and
ina3221.rst (three channels, no power file: P = U · I; labels from the board, "NC" is not connected). JetPack 4's own
driver shows the INA3221 as an IIO device below its I²C address, with the power in mW.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from edgerun.device.hwmon import chips
from edgerun.device.site import Found, Row, Site, gather, number, read_rows, unique, words
from edgerun.types import Reading

KIND = "rail"

_ONE_CHANNEL = re.compile(r"ina2\d\d")
_HIGHEST_V, _HIGHEST_A, _HIGHEST_W = 1000.0, 1000.0, 10_000.0
_ALARMS = ("crit_alarm", "max_alarm", "alarm")


class InaRail:
    """One channel: `rail/<label>/voltage_v`, `current_a`, `power_w`, and `over_current` where the chip watches for it.

    The current, and so the power, may be negative: on a battery's rail it is while charging.
    """

    def __init__(self, site: Site, place: str, folder: str, channel: int) -> None:
        self._site, self._place, self._folder, self._channel = site, place, folder, channel
        self._current = Row(f"curr{channel}_input", "current_a", 1000.0, -_HIGHEST_A, _HIGHEST_A)
        self._voltage = Row(f"in{channel}_input", "voltage_v", 1000.0, 0.0, _HIGHEST_V)
        self._power = Row(f"power{channel}_input", "power_w", 1e6, 0.0, _HIGHEST_W)
        alarms = [Row(f"curr{channel}_{alarm}", "over_current", highest=1) for alarm in _ALARMS]
        self._alarms = [row for row in alarms if site.machine.exists(f"{folder}/{row.file}")]

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, taken = [], set[str]()
        for chip, folder in chips(site.machine):
            if chip != "ina3221" and not _ONE_CHANNEL.fullmatch(chip):
                continue
            for channel in (1, 2, 3) if chip == "ina3221" else (1,):
                label = words(site.machine, f"{folder}/in{channel}_label") or (
                    chip if chip != "ina3221" else f"{chip} {channel}"
                )
                there = site.machine.exists(f"{folder}/curr{channel}_input")
                if there and "NC" not in label and words(site.machine, f"{folder}/in{channel}_enable") != "0":
                    place = unique(label, taken)
                    found.append(Found(place, f"{folder}/{channel}", cls(site, place, folder, channel)))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        values: dict[str, Callable[[], float | None]] = {
            "voltage_v": lambda: self._number(self._voltage),
            "current_a": lambda: self._number(self._current),
            "power_w": self._power_w,
        }
        if self._alarms:
            values["over_current"] = lambda: max(self._number(row) or 0.0 for row in self._alarms)
        return gather(self._site, KIND, self._place, values)

    def close(self) -> None:
        """Nothing is held open."""

    def _power_w(self) -> float | None:
        told = self._number(self._power)
        if told is not None:
            return told
        volts, amperes = self._number(self._voltage), self._number(self._current)
        return None if volts is None or amperes is None else volts * amperes

    def _number(self, row: Row) -> float | None:
        return number(self._site.machine, self._folder, row)


class Jetpack4Rail:
    """One channel as JetPack 4 shows it: the same readings as `InaRail`'s, without alarms."""

    def __init__(self, site: Site, place: str, folder: str, channel: int) -> None:
        self._site, self._place, self._folder = site, place, folder
        self._rows = (
            Row(f"in_voltage{channel}_input", "voltage_v", 1000.0, 0.0, _HIGHEST_V),
            Row(f"in_current{channel}_input", "current_a", 1000.0, -_HIGHEST_A, _HIGHEST_A),
            Row(f"in_power{channel}_input", "power_w", 1000.0, 0.0, _HIGHEST_W),
        )

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, taken = [], set[str]()
        bus = "sys/bus/i2c/devices"
        for device in site.machine.names(bus):
            if not (words(site.machine, f"{bus}/{device}/name") or "").startswith("ina3221"):
                continue
            for iio in site.machine.names(f"{bus}/{device}"):
                for channel in range(3) if iio.startswith("iio:device") else ():
                    folder = f"{bus}/{device}/{iio}"
                    label = words(site.machine, f"{folder}/rail_name_{channel}")
                    if label is not None and "NC" not in label:
                        place = unique(label, taken)
                        found.append(Found(place, f"{folder}/{channel}", cls(site, place, folder, channel)))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        return read_rows(self._site, KIND, self._place, self._folder, self._rows)

    def close(self) -> None:
        """Nothing is held open."""
