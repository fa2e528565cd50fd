"""Which temperatures, power readings and signs of throttling this board offers: a look at its sensors for a person.

What is absent is left out, what is broken is kept with the reason: a zone of a part that is switched off raises, a dead
Edge TPU says −88 °C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from edgerun.clock import SystemClock
from edgerun.device import evidence
from edgerun.device.apex import Apex
from edgerun.device.battery import Battery, Mains
from edgerun.device.cpufreq import CpuPolicy
from edgerun.device.machine import Machine
from edgerun.device.rails import InaRail, Jetpack4Rail
from edgerun.device.rapl import RaplDomain
from edgerun.device.raspberry import FirmwareFlags, VoltageAlarm
from edgerun.device.site import Found, PartlyBroken, SensorKind, Site, name_parts, words
from edgerun.device.thermal import CoolingDevice, ThermalZone
from edgerun.errors import DeviceError

_FLAGS = {
    "under_voltage": "under-voltage",
    "freq_capped": "Arm frequency capped",
    "throttled": "throttled",
    "soft_temp_limit": "soft temperature limit",
}
_SINCE_BOOT = "_since_boot"


class Temperature(msgspec.Struct, frozen=True):
    """One place's temperature. `passive_c`: where the kernel begins to slow things down. `broken`: why it has none.

    `off`: it cannot be read, as is so of a part that is switched off.
    """

    name: str
    temp_c: float | None
    passive_c: float | None = None
    critical_c: float | None = None
    broken: str | None = None
    off: bool = False


class PowerSource(msgspec.Struct, frozen=True):
    """Something power can be read from: a rail, a battery, a RAPL domain. `broken`: why it cannot."""

    kind: str
    name: str
    value: str | None = None
    broken: str | None = None


class Throttling(msgspec.Struct, frozen=True):
    """What slows the processor `now`, and what has since boot; `told_by` says who tells, empty when nothing does."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]
    told_by: tuple[str, ...]


class _Look(msgspec.Struct, frozen=True):
    """One sensor's place, what it reads by quantity, and what is wrong with it."""

    place: str
    where: str
    values: Mapping[str, float]
    error: DeviceError | None = None


def temperatures(machine: Machine) -> list[Temperature]:
    """Of thermal zones and PCIe Corals. Raises `DeviceError` where sysfs cannot be listed."""
    zones = [_temperature(one.place, one, "passive_c") for one in _looks(machine, ThermalZone)]
    corals = [_temperature(f"Edge TPU {one.place}", one, "trip0_c") for one in _looks(machine, Apex)]
    return [one for one in (*zones, *corals) if one is not None]


def throttling(machine: Machine) -> Throttling:
    """From the Raspberry Pi's firmware and voltage alarm, cooling devices, and capped frequencies.

    Raises `DeviceError` where sysfs cannot be listed; a flag that cannot be read at this moment tells nothing.
    """
    now: list[str] = []
    before: list[str] = []
    told_by: list[str] = []
    for teller, kind in (("firmware", FirmwareFlags), ("rpi_volt", VoltageAlarm)):
        for one in _looks(machine, kind):
            told_by += [teller] if one.values else []
            for quantity, value in one.values.items():
                flag = _FLAGS[quantity.removesuffix(_SINCE_BOOT)]
                if value:
                    (before if quantity.endswith(_SINCE_BOOT) else now).append(flag)
    for one in _looks(machine, CoolingDevice):
        state = one.values.get("state")
        told_by += ["cooling devices"] if state is not None else []
        now += [f"{one.place} cooled by step {state:.0f}"] if state and evidence.slows(one.place) else []
    for one in _looks(machine, CpuPolicy):
        may, can = one.values.get("limit_hz"), one.values.get("highest_hz")
        if may and can:
            told_by.append("cpufreq")
            now += [f"{one.place} capped to {may / 1e6:.0f} of {can / 1e6:.0f} MHz"] if may < can else []
    return Throttling(*(tuple(dict.fromkeys(words)) for words in (now, before, told_by)))


def power_sources(machine: Machine) -> list[PowerSource]:
    """INA monitors, RAPL, batteries and mains. Raises `DeviceError` where sysfs cannot be listed."""
    found = [
        PowerSource("rail", one.place, f"{one.values['power_w']:.2f} W")
        for kind in (InaRail, Jetpack4Rail)
        for one in _looks(machine, kind)
        if "power_w" in one.values
    ]
    for one in _looks(machine, RaplDomain):
        if one.values or one.error is not None:
            broken = None if one.error is None else str(one.error.got)
            found.append(PowerSource("RAPL", one.place, None if broken else "energy counter", broken))
    for one in _looks(machine, Battery):
        status, share = words(machine, f"{one.where}/status"), one.values.get("charge_share")
        told = [f"{share * 100:.0f} %" if share is not None else "", (status or "").lower()]
        found.append(PowerSource("battery", one.place, ", ".join(word for word in told if word) or None))
    for one in _looks(machine, Mains):
        online = one.values.get("online")
        found.append(
            PowerSource("supply", one.place, None if online is None else "connected" if online else "not connected")
        )
    return sorted(found, key=lambda one: one.kind)


def _looks(machine: Machine, kind: SensorKind) -> Iterator[_Look]:
    """Every sensor of a kind, read once."""
    for found in kind.find(Site(machine, SystemClock())):
        yield _look(found)


def _look(found: Found) -> _Look:
    error: DeviceError | None = None
    try:
        readings = found.sensor.read()
    except PartlyBroken as partly:
        readings, error = partly.readings, partly
    except DeviceError as whole:
        readings, error = (), whole
    finally:
        found.sensor.close()
    return _Look(found.place, found.where, {name_parts(one.name)[2]: one.value for one in readings}, error)


def _temperature(name: str, one: _Look, passive: Literal["passive_c", "trip0_c"]) -> Temperature | None:
    temp_c, error = one.values.get("temp_c"), one.error
    if temp_c is not None:
        return Temperature(name, temp_c, one.values.get(passive), one.values.get("critical_c"))
    if error is None:
        return None
    if error.what.startswith("says what"):
        return Temperature(name, None, broken=f"says {error.got} °C")
    return Temperature(name, None, broken=f"{error.what}: {error.got}", off=error.what == "cannot be read")
