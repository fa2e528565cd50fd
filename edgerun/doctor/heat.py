"""Temperatures, throttling, power readings and the power supply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgerun.device import board
from edgerun.device.inventory import PowerSource, Temperature, power_sources, temperatures, throttling
from edgerun.device.machine import Machine
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow

_WARM_C, _HOT_C = 80.0, 90.0
"""Where a zone names no passive trip: the Raspberry Pi's soft limit, and what lies little below every critical trip."""
_MARGIN_C = 5.0
_PI5_WANTED_MA = 5000
_COOLER = "give it a heat sink or a fan, or lower the rate: max_fps under [streams.NAME]"


def look(patient: Patient) -> Iterator[Line]:
    """Raises `DeviceError` when sysfs cannot be listed."""
    machine = patient.machine
    found = temperatures(machine)
    if not found:
        remedy = "nothing to do: a virtual machine or a container has none; edgerun then publishes no temperature"
        yield absent("temperature", "no sensor", remedy)
    for one in found:
        yield _temperature(one)
    yield from _throttling(machine)
    yield from _power(power_sources(machine))
    yield from _pi_supply(machine)


def _temperature(one: Temperature) -> Line:
    what = f"temperature of {one.name}"
    if one.temp_c is None:
        if one.name.startswith("Edge TPU"):
            return red(
                what, f"{one.broken}: the Edge TPU does not answer", "switch the board off and on, and check its seat"
            )
        if one.off:
            return absent(what, f"{one.broken}", "nothing to do while that part is switched off; edgerun leaves it out")
        return yellow(what, f"unusable: {one.broken}", "report it to the board's maker; edgerun leaves it out")
    hot = one.critical_c - _MARGIN_C if one.critical_c else _HOT_C
    warm = (one.passive_c or _WARM_C) - _MARGIN_C
    value = f"{one.temp_c:.1f} °C"
    if one.temp_c >= max(hot, warm):
        return red(what, f"{value}, the kernel switches off at {one.critical_c or _HOT_C:g} °C", _COOLER)
    if one.temp_c >= warm:
        return yellow(what, f"{value}, it is slowed down from {one.passive_c or _WARM_C:g} °C on", _COOLER)
    return green(what, value)


def _throttling(machine: Machine) -> Iterator[Line]:
    found = throttling(machine)
    if not found.told_by:
        yield absent("throttling", "nothing tells of it", "nothing to do: this kernel shows neither flags nor limits")
        return
    under_voltage = (
        "use the board's own power supply and a short, thick cable; `vcgencmd get_throttled` shows the flags"
    )
    if "under-voltage" in found.now:
        yield red("supply voltage", "too low now", under_voltage)
    elif "under-voltage" in found.since_boot:
        yield yellow("supply voltage", "has been too low since boot", under_voltage)
    elif "firmware" in found.told_by or "rpi_volt" in found.told_by:
        yield green("supply voltage", "never too low since boot" if "firmware" in found.told_by else "not too low now")
    now = [words for words in found.now if words != "under-voltage"]
    before = [words for words in found.since_boot if words != "under-voltage" and words not in now]
    if now:
        capped = all("capped to" in words and "policy" in words for words in now)
        remedy = (
            "`sudo cpupower frequency-set -u max` lifts the cap, where nobody set it on purpose" if capped else _COOLER
        )
        yield yellow("throttling", f"now: {', '.join(now)}", remedy)
    elif before:
        yield yellow("throttling", f"since boot: {', '.join(before)}", _COOLER)
    else:
        yield green("throttling", f"none ({', '.join(found.told_by)})")


def _power(found: Sequence[PowerSource]) -> Iterator[Line]:
    readable = [one for one in found if one.broken is None and one.kind != "supply"]
    for one in found:
        what = one.name if one.kind == one.name else f"{one.kind} {one.name}"
        if one.broken is None:
            yield green(what, one.value or "there")
        elif one.kind == "RAPL":
            yield yellow(
                what,
                f"cannot be read: {one.broken}",
                "open it until the next boot: `sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`",
            )
        else:
            yield yellow(what, f"cannot be read: {one.broken}", "run it as root to see whether that is a permission")
    if not readable:
        remedy = (
            "nothing to do; for power figures an INA219 on the supply line is enough (`dtoverlay=i2c-sensor,ina219`)"
        )
        yield absent("power reading", "no rail, battery or counter", remedy)


def _pi_supply(machine: Machine) -> Iterator[Line]:
    """What the Raspberry Pi 5's boot loader agreed on with the supply: big-endian mA in the device tree."""
    raw = machine.read("proc/device-tree/chosen/power/max_current")
    if raw is None or len(raw) != 4 or board.identify(machine).kind != "raspberry-pi":
        return
    current_ma = int.from_bytes(raw, "big")
    if current_ma >= _PI5_WANTED_MA:
        yield green("power supply", f"{current_ma} mA agreed")
    elif current_ma:
        remedy = (
            "use the 27 W supply (5 V, 5 A): below that USB gets 600 mA in all, too little for a Coral and a camera"
        )
        yield yellow("power supply", f"{current_ma} mA agreed, of {_PI5_WANTED_MA}", remedy)
