"""Whether the wall clock is right: timestamps in messages and certificates depend on it."""

from __future__ import annotations

from collections.abc import Iterator

from edgerun.device.machine import Machine
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, yellow
from edgerun.errors import DeviceError

_TOLERABLE_MS = 2000.0
"""The kernel lets its bound grow by 0.5 ms a second; systemd-timesyncd asks at least every 2048 s."""


def look(patient: Patient) -> Iterator[Line]:
    """One line for synchronisation, one for the clock that runs while the power is off."""
    machine = patient.machine
    yield _synchronised(machine)
    if machine.names("sys/class/rtc"):
        yield green("hardware clock", ", ".join(machine.names("sys/class/rtc")))
    else:
        remedy = "after a start without network the time is wrong until NTP answers; a DS3231 module keeps it"
        yield absent("hardware clock", "none", remedy)


def _synchronised(machine: Machine) -> Line:
    try:
        state = machine.clock()
    except DeviceError as error:
        remedy = "nothing to do where a container forbids it: the host keeps the clock"
        return absent("clock", f"not told: {error.got}", remedy)
    if state.synchronised and state.max_error_ms <= _TOLERABLE_MS:
        return green("clock", f"in sync, at most {state.max_error_ms:.0f} ms off")
    if state.synchronised:
        remedy = "see which servers answer: `chronyc sources` or `timedatectl timesync-status`"
        return yellow("clock", f"in sync once, by now up to {state.max_error_ms / 1000:.0f} s off", remedy)
    if machine.exists("run/systemd/timesync/synchronized"):
        # timesyncd makes the file at its first success; the kernel forgets after a long silence.
        remedy = "see why the server is silent: `timedatectl timesync-status`"
        return yellow("clock", "was in sync, is no longer", remedy)
    has_timedatectl = machine.exists("usr/bin/timedatectl")
    remedy = (
        "`sudo timedatectl set-ntp true`" if has_timedatectl else "install a time service: `sudo apt install chrony`"
    )
    if machine.exists(".dockerenv") or machine.exists("run/.containerenv") or machine.exists("run/systemd/container"):
        remedy = "synchronise the host's clock: `sudo timedatectl set-ntp true` there"
    return yellow("clock", "not synchronised", remedy)
