"""What this process's own control group uses, may use, and was denied.

Linux, Documentation/admin-guide/cgroup-v2.rst. Version 1 has no reading here, nor has a system whose memory controller
is off, as on Raspberry Pi OS.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.device.board import own_groups
from edgerun.device.machine import understood
from edgerun.device.pressure import read_pressure
from edgerun.device.site import Found, PartlyBroken, Row, Site, read_rows, reading_name
from edgerun.errors import DeviceError
from edgerun.types import Reading

KIND = "cgroup"

_UNLIMITED = "max"
_SECONDS = 1e6
_MOST_BYTES = 2.0**63


class CgroupCpu:
    """`cgroup/cpu/usage_s`, `periods`, `throttled_periods`, `throttled_s`: counters.

    The last three are there where the processor controller is on; they rise when CPUQuota= of the unit bites.
    """

    def __init__(self, site: Site, folder: str) -> None:
        self._site, self._folder = site, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found("cpu", folder, cls(site, folder)) for folder in own_folder(site, "cpu.stat")]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        names = {
            "usage_usec": ("usage_s", _SECONDS),
            "nr_periods": ("periods", 1.0),
            "nr_throttled": ("throttled_periods", 1.0),
            "throttled_usec": ("throttled_s", _SECONDS),
        }
        return _counters(self._site, "cpu", f"{self._folder}/cpu.stat", names)

    def close(self) -> None:
        """Nothing is held open."""


class CgroupMemory:
    """`cgroup/memory/current_bytes`, `limit_bytes`, `high_bytes` (none where unlimited), `peak_bytes`; counters of
    events `high_events`, `max_events`, `oom_events`, `oom_kills`; and how much waits for memory, as `pressure` has it.
    """

    def __init__(self, site: Site, folder: str) -> None:
        self._site, self._folder = site, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found("memory", folder, cls(site, folder)) for folder in own_folder(site, "memory.max")]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        found: list[Reading] = []
        broken: list[DeviceError] = []
        for part in (self._amounts, self._events, self._pressure):
            try:
                found += part()
            except PartlyBroken as error:
                found += error.readings
                broken.append(error)
            except DeviceError as error:
                broken.append(error)
        if broken:
            raise PartlyBroken(broken, found)
        return found

    def close(self) -> None:
        """Nothing is held open."""

    def _amounts(self) -> Sequence[Reading]:
        files = {"memory.current": "current_bytes", "memory.peak": "peak_bytes"}
        limits = {"memory.max": "limit_bytes", "memory.high": "high_bytes"}
        limited = [name for name in limits if self._site.machine.text(f"{self._folder}/{name}") != _UNLIMITED]
        files |= {name: limits[name] for name in limited}
        rows = [Row(name, quantity, highest=_MOST_BYTES) for name, quantity in files.items()]
        return read_rows(self._site, KIND, "memory", self._folder, rows)

    def _events(self) -> Sequence[Reading]:
        names = {name: (f"{name}_events", 1.0) for name in ("high", "max", "oom")} | {"oom_kill": ("oom_kills", 1.0)}
        return _counters(self._site, "memory", f"{self._folder}/memory.events", names)

    def _pressure(self) -> Sequence[Reading]:
        return read_pressure(self._site, KIND, "memory", f"{self._folder}/memory.pressure", "pressure_")


def own_folder(site: Site, file: str) -> list[str]:
    """The folder of the process's group of version 2, where it has `file`."""
    path = dict(own_groups(site.machine)).get("")
    if path is None:
        return []
    folder = f"sys/fs/cgroup/{path.strip('/')}".rstrip("/")
    return [folder] if ".." not in path.split("/") and site.machine.exists(f"{folder}/{file}") else []


def _counters(site: Site, place: str, file: str, names: dict[str, tuple[str, float]]) -> Sequence[Reading]:
    """The readings of a file of lines "key number"; keys it lacks have none. Raises `DeviceError`."""
    text = site.machine.text(file)
    at_ns = site.clock.mono_ns()
    found = []
    with understood(file):
        for line in (text or "").splitlines():
            key, value = line.split()
            if key in names:
                count = int(value)
                if not 0 <= count < 1 << 64:
                    raise ValueError(line[:80])
                quantity, divisor = names[key]
                found.append(Reading(reading_name(KIND, place, quantity), count / divisor, at_ns))
    return found
