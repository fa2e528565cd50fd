"""How long the machine has been up, and whether its clock is kept by a time service."""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.device.machine import understood
from edgerun.device.site import Found, Site, reading_name
from edgerun.types import Reading

_FILE = "proc/uptime"
_LONGEST_S = 1e10


class Uptime:
    """`system/boot/uptime_s`, time asleep included (proc(5), uptime)."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found("boot", _FILE, cls(site))] if site.machine.exists(_FILE) else []

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        text = self._site.machine.text(_FILE)
        if text is None:
            return ()
        with understood(_FILE):
            uptime_s = float(text.split()[0])
            if not 0.0 <= uptime_s <= _LONGEST_S:
                raise ValueError(text[:80])
        return (Reading(reading_name("system", "boot", "uptime_s"), uptime_s, self._site.clock.mono_ns()),)

    def close(self) -> None:
        """Nothing is held open."""


class ClockSync:
    """`system/clock/synchronised` (1 or 0) and `max_error_s`, the kernel's own bound of its error (adjtimex(2))."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found("clock", "adjtimex", cls(site), every_s=10.0)]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        state = self._site.machine.clock()
        values = {"synchronised": float(state.synchronised), "max_error_s": state.max_error_ms / 1000}
        at_ns = self._site.clock.mono_ns()
        return tuple(Reading(reading_name("system", "clock", q), value, at_ns) for q, value in values.items())

    def close(self) -> None:
        """Nothing is held open."""
