"""Which temperatures, power readings and signs of throttling this board offers: a look round, not the sensors.

A reading that is absent is left out, one that is broken is kept with the reason: a zone of an engine that is switched
off raises, a dead Edge TPU says −88 °C.
"""

from __future__ import annotations

import msgspec

from edgerun.device.machine import Machine
from edgerun.errors import DeviceError

_COLDEST_C, _HOTTEST_C = -40.0, 150.0
"""Silicon is sold for −40 … 125 °C; what lies outside is no temperature."""
_THROTTLED = {0: "under-voltage", 1: "Arm frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Raspberry Pi documentation, `vcgencmd get_throttled`: the same bits + 16 mean "since boot"."""
_NOT_THROTTLING = ("fan", "gpu_cooling", "display", "lcd", "charger", "battery")
"""Cooling devices whose being at work does not slow the processor."""


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


def temperatures(machine: Machine) -> list[Temperature]:
    """Thermal zones and PCIe Corals (Documentation/driver-api/thermal/sysfs-api.rst; gasket driver)."""
    found = []
    for zone in machine.names("sys/class/thermal"):
        if not zone.startswith("thermal_zone"):
            continue
        folder = f"sys/class/thermal/{zone}"
        name = machine.text(f"{folder}/type") or zone
        if not name.startswith("PMIC"):  # on Jetsons a constant 100 °C
            found.append(_temperature(machine, name, f"{folder}/temp", _trips(machine, folder)))
    for apex in machine.names("sys/class/apex"):
        folder = f"sys/class/apex/{apex}"
        trip = _milli(machine, f"{folder}/trip_point0_temp")
        found.append(_temperature(machine, f"Edge TPU {apex}", f"{folder}/temp", {"passive": trip} if trip else {}))
    return [one for one in found if one is not None]


def throttling(machine: Machine) -> Throttling:
    """From the Raspberry Pi's firmware and voltage alarm, cooling devices, and capped frequencies. Raises nothing."""
    now: list[str] = []
    before: list[str] = []
    told_by: list[str] = []
    flags = _pi_flags(machine)
    if flags is not None:
        told_by.append("firmware")
        now += [words for bit, words in _THROTTLED.items() if flags >> bit & 1]
        before += [words for bit, words in _THROTTLED.items() if flags >> (bit + 16) & 1]
    for folder, name in _hwmons(machine):
        alarm = _quietly(machine, f"{folder}/in0_lcrit_alarm") if name == "rpi_volt" else None
        if alarm is not None:
            told_by.append("rpi_volt")
            now += ["under-voltage"] if alarm and "under-voltage" not in now else []
    for device in machine.names("sys/class/thermal"):
        state = _quietly(machine, f"sys/class/thermal/{device}/cur_state")
        if device.startswith("cooling_device") and state is not None:
            kind = _words(machine, f"sys/class/thermal/{device}/type") or device
            told_by.append("cooling devices")
            now += [f"{kind} cooled by step {state}"] if state > 0 and not _harmless(kind) else []
    for policy in machine.names("sys/devices/system/cpu/cpufreq"):
        folder = f"sys/devices/system/cpu/cpufreq/{policy}"
        may, can = _quietly(machine, f"{folder}/scaling_max_freq"), _quietly(machine, f"{folder}/cpuinfo_max_freq")
        if may and can:
            told_by.append("cpufreq")
            now += [f"{policy} capped to {may / 1000:.0f} of {can / 1000:.0f} MHz"] if may < can else []
    return Throttling(tuple(now), tuple(before), tuple(dict.fromkeys(told_by)))


def power_sources(machine: Machine) -> list[PowerSource]:
    """INA monitors, Jetson's (JetPack 4), RAPL, batteries and mains (Documentation/hwmon, power/powercap)."""
    found = [*_rails(machine), *_iio_rails(machine), *_rapl(machine), *_supplies(machine)]
    return sorted(found, key=lambda one: one.kind)


def _rails(machine: Machine) -> list[PowerSource]:
    found = []
    for folder, name in _hwmons(machine):
        if name.startswith(("ina2", "ina3")):
            for channel in (1, 2, 3) if name == "ina3221" else (1,):
                label = _words(machine, f"{folder}/in{channel}_label") or name
                mv = _quietly(machine, f"{folder}/in{channel if name == 'ina3221' else 1}_input")
                ma = _quietly(machine, f"{folder}/curr{channel}_input")
                if label != "NC" and mv is not None and ma is not None:
                    found.append(PowerSource("rail", label, f"{mv * ma / 1e6:.2f} W"))
    return found


def _iio_rails(machine: Machine) -> list[PowerSource]:
    """JetPack 4: the INA3221's own driver, below its I²C address."""
    found = []
    for device in machine.names("sys/bus/i2c/devices"):
        for iio in machine.names(f"sys/bus/i2c/devices/{device}"):
            folder = f"sys/bus/i2c/devices/{device}/{iio}"
            for channel in range(3) if iio.startswith("iio:device") else ():
                label = _words(machine, f"{folder}/rail_name_{channel}")
                mw = _quietly(machine, f"{folder}/in_power{channel}_input")
                if label and label != "NC" and mw is not None:
                    found.append(PowerSource("rail", label, f"{mw / 1000:.2f} W"))
    return found


def _rapl(machine: Machine) -> list[PowerSource]:
    """Top domains only: a child's energy is part of its parent's."""
    found = []
    for zone in machine.names("sys/class/powercap"):
        if zone.count(":") == 1:
            name = _words(machine, f"sys/class/powercap/{zone}/name") or zone
            try:
                if machine.number(f"sys/class/powercap/{zone}/energy_uj") is not None:
                    found.append(PowerSource("RAPL", name, "energy counter"))
            except DeviceError as error:
                found.append(PowerSource("RAPL", name, broken=str(error.got)))
    return found


def _supplies(machine: Machine) -> list[PowerSource]:
    found = []
    for name in machine.names("sys/class/power_supply"):
        folder = f"sys/class/power_supply/{name}"
        kind = _words(machine, f"{folder}/type")
        if kind == "Battery":
            charge, status = _quietly(machine, f"{folder}/capacity"), _words(machine, f"{folder}/status")
            told = [f"{charge} %" if charge is not None else "", (status or "").lower()]
            found.append(PowerSource("battery", name, ", ".join(word for word in told if word) or None))
        elif kind is not None:
            online = _quietly(machine, f"{folder}/online")
            found.append(PowerSource("supply", name, {0: "not connected", 1: "connected"}.get(online or 0)))
    return found


def _temperature(machine: Machine, name: str, file: str, trips: dict[str, float]) -> Temperature | None:
    try:
        milli = machine.number(file)
    except DeviceError as error:
        return Temperature(name, None, broken=f"{error.what}: {error.got}", off=error.what == "cannot be read")
    if milli is None:
        return None
    temp_c = milli / 1000
    broken = None if _COLDEST_C < temp_c < _HOTTEST_C else f"says {temp_c:g} °C"
    return Temperature(name, None if broken else temp_c, trips.get("passive"), trips.get("critical"), broken)


def _trips(machine: Machine, folder: str) -> dict[str, float]:
    """The lowest passive and the lowest critical trip, °C."""
    trips: dict[str, float] = {}
    for number in range(16):
        kind = _words(machine, f"{folder}/trip_point_{number}_type")
        temp_c = _milli(machine, f"{folder}/trip_point_{number}_temp")
        if kind is None:
            break
        if temp_c is not None and temp_c > 0:
            trips[kind] = min(temp_c, trips.get(kind, temp_c))
    return trips


def _hwmons(machine: Machine) -> list[tuple[str, str]]:
    """(folder, driver's name) of each; their numbers change from boot to boot."""
    folders = [f"sys/class/hwmon/{name}" for name in machine.names("sys/class/hwmon")]
    return [(folder, _words(machine, f"{folder}/name") or "") for folder in folders]


def _pi_flags(machine: Machine) -> int | None:
    """The firmware's flags: `soc/soc:firmware/get_throttled`, hexadecimal without 0x; a Pi 5 has addresses in it."""
    for soc in machine.names("sys/devices/platform"):
        if soc == "soc" or soc.startswith("soc@"):
            for part in machine.names(f"sys/devices/platform/{soc}"):
                if "firmware" in part:
                    return _quietly(machine, f"sys/devices/platform/{soc}/{part}/get_throttled", 16)
    return None


def _harmless(kind: str) -> bool:
    return any(word in kind.lower() for word in _NOT_THROTTLING)


def _milli(machine: Machine, file: str) -> float | None:
    value = _quietly(machine, file)
    return None if value is None else value / 1000


def _quietly(machine: Machine, file: str, base: int = 10) -> int | None:
    """A number, None when it is absent or cannot be had: not each of these files can be read at each moment."""
    try:
        return machine.number(file, base)
    except DeviceError:
        return None


def _words(machine: Machine, file: str) -> str | None:
    try:
        return machine.text(file) or None
    except DeviceError:
        return None
