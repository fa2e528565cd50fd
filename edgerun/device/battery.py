"""Batteries and mains: Linux, Documentation/ABI/testing/sysfs-class-power (µV, µA, µW, µWh, µAh, %)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from edgerun.device.site import Found, Row, Site, gather, number, plain, read_rows, unique, words
from edgerun.types import Reading

KIND = "battery"

_FOLDER = "sys/class/power_supply"
_POWER = Row("power_now", "power_w", 1e6, -10_000.0, 10_000.0)
_CURRENT = Row("current_now", "current_a", 1e6, -1000.0, 1000.0)
_VOLTAGE = Row("voltage_now", "voltage_v", 1e6, 0.0, 1000.0)
_SHARE = Row("capacity", "charge_share", 100.0, 0.0, 1.0)
_CYCLES = Row("cycle_count", "cycles", lowest=-1.0, highest=1e6)
_ENERGY, _FULL = Row("energy_now", "energy_wh", 1e6, 0.0, 1e6), Row("energy_full", "full_wh", 1e6, 0.0, 1e6)
_CHARGE, _CHARGE_FULL = Row("charge_now", "", 1e6, 0.0, 1e6), Row("charge_full", "", 1e6, 0.0, 1e6)


class Battery:
    """`battery/BAT0/charge_share`, `discharging` (1 or 0), `power_w`, `voltage_v`, `energy_wh`, `full_wh`, `cycles`.

    `power_w` is what flows, in whichever direction: some drivers give it a sign while discharging, others do not, so
    `discharging` tells. Where there is no power, it is voltage · current; no energy: charge · voltage.
    """

    def __init__(self, site: Site, place: str, folder: str) -> None:
        self._site, self._place, self._folder = site, place, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, taken = [], set[str]()
        for name in site.machine.names(_FOLDER):
            folder = f"{_FOLDER}/{name}"
            kind, scope = (words(site.machine, f"{folder}/{file}") for file in ("type", "scope"))
            if kind == "Battery" and scope != "Device":  # that would be a mouse's or a pen's
                place = unique(plain(name), taken)
                found.append(Found(place, folder, cls(site, place, folder)))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        values: dict[str, Callable[[], float | None]] = {
            "charge_share": partial(self._number, _SHARE),
            "discharging": self._discharging,
            "power_w": self._power_w,
            "voltage_v": partial(self._number, _VOLTAGE),
            "energy_wh": partial(self._energy_wh, _ENERGY, _CHARGE),
            "full_wh": partial(self._energy_wh, _FULL, _CHARGE_FULL),
            "cycles": self._cycles,
        }
        return gather(self._site, KIND, self._place, values)

    def close(self) -> None:
        """Nothing is held open."""

    def _number(self, row: Row) -> float | None:
        return number(self._site.machine, self._folder, row)

    def _discharging(self) -> float | None:
        status = self._site.machine.text(f"{self._folder}/status")
        return None if status in (None, "", "Unknown") else float(status == "Discharging")

    def _power_w(self) -> float | None:
        told = self._number(_POWER)
        if told is not None:
            return abs(told)
        volts, amperes = self._number(_VOLTAGE), self._number(_CURRENT)
        return None if volts is None or amperes is None else volts * abs(amperes)

    def _energy_wh(self, energy: Row, charge: Row) -> float | None:
        told = self._number(energy)
        if told is not None:
            return told
        volts, ampere_hours = self._number(_VOLTAGE), self._number(charge)
        return None if volts is None or ampere_hours is None else volts * ampere_hours

    def _cycles(self) -> float | None:
        """0 and −1 are what drivers say that do not know."""
        told = self._number(_CYCLES)
        return told if told is not None and told > 0 else None


class Mains:
    """`supply/AC/online`: 1 while it feeds the board."""

    def __init__(self, site: Site, place: str, folder: str) -> None:
        self._site, self._place, self._folder = site, place, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, taken = [], set[str]()
        for name in site.machine.names(_FOLDER):
            folder = f"{_FOLDER}/{name}"
            kind = words(site.machine, f"{folder}/type")
            if kind not in (None, "Battery") and site.machine.exists(f"{folder}/online"):
                place = unique(plain(name), taken)
                found.append(Found(place, folder, cls(site, place, folder)))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`. A USB supply whose limits are programmable says 2: it feeds the board too."""
        found = read_rows(self._site, "supply", self._place, self._folder, [Row("online", "online", highest=2)])
        return tuple(Reading(one.name, min(1.0, one.value), one.at_ns) for one in found)

    def close(self) -> None:
        """Nothing is held open."""
