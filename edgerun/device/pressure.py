"""How much work stalls for want of processor, memory or disk: Linux, Documentation/accounting/psi.rst."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from edgerun.device.machine import understood
from edgerun.device.site import Found, Site, failed_with, reading_name
from edgerun.errors import DeviceError
from edgerun.types import Reading

KIND = "pressure"

_RESOURCES = ("cpu", "memory", "io", "irq")


class Pressure:
    """`pressure/memory/some_10s_share`, `some_60s_share`, `some_total_s`, and the same of `full`, 0..1.

    `some`: at least one task waited; `full`: all did. A kernel started without `psi=1` has none.
    """

    def __init__(self, site: Site, place: str, file: str) -> None:
        self._site, self._place, self._file = site, place, file

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        files = {name: f"proc/pressure/{name}" for name in _RESOURCES}
        return [Found(name, f, cls(site, name, f)) for name, f in files.items() if site.machine.exists(f)]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        return read_pressure(self._site, KIND, self._place, self._file)

    def close(self) -> None:
        """Nothing is held open."""


def read_pressure(site: Site, kind: str, place: str, file: str, prefix: str = "") -> tuple[Reading, ...]:
    """The readings of one file in that format. Raises `DeviceError`."""
    try:
        text = site.machine.text(file)
    except DeviceError as error:
        if failed_with(error, errno.EOPNOTSUPP):
            return ()
        raise
    at_ns = site.clock.mono_ns()
    found = []
    with understood(file):
        for line in (text or "").splitlines():
            degree, *fields = line.split()
            told = dict(field.split("=", 1) for field in fields)
            for key, quantity, divisor, highest in (
                ("avg10", "10s_share", 100.0, 1.0),
                ("avg60", "60s_share", 100.0, 1.0),
                ("total", "total_s", 1e6, 1e12),
            ):
                value = float(told[key]) / divisor
                if degree not in ("some", "full") or not 0.0 <= value <= highest:
                    raise ValueError(line[:80])
                found.append(Reading(reading_name(kind, place, f"{prefix}{degree}_{quantity}"), value, at_ns))
    return tuple(found)
