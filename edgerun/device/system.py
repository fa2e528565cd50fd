"""How busy the whole machine is, and how much memory it has left."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from edgerun.device.board import memory_bytes
from edgerun.device.site import Found, Site, reading_name
from edgerun.errors import DeviceError
from edgerun.types import Reading

_psutil_lock = threading.Lock()
_IDLE = ("idle", "iowait")
_COUNTED_TWICE = ("guest", "guest_nice")
"""proc(5), stat: both are in `user` and `nice` already."""


class CpuLoad:
    """`system/cpu/busy_share`: of all processors' time since the reading before, 0..1; the first read gives none."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._before: dict[str, float] | None = None

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found("cpu", "proc/stat", cls(site))] if site.machine.exists("proc/stat") else []

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        before, self._before = self._before, self._times()
        if before is None:
            return ()
        spent = {name: max(0.0, value - before.get(name, 0.0)) for name, value in self._before.items()}
        total = sum(spent.values())
        if total <= 0.0:
            return ()
        share = 1.0 - sum(spent.get(name, 0.0) for name in _IDLE) / total
        return (Reading(reading_name("system", "cpu", "busy_share"), share, self._site.clock.mono_ns()),)

    def close(self) -> None:
        """Nothing is held open."""

    def _times(self) -> dict[str, float]:
        import psutil  # 47 ms that only those who read sensors should pay

        place: Any = psutil
        with _psutil_lock:  # its root is one for the whole process
            known, place.PROCFS_PATH = place.PROCFS_PATH, str(self._site.machine.path("proc"))
            try:
                times: dict[str, float] = psutil.cpu_times()._asdict()
            except (OSError, ValueError, IndexError, TypeError) as error:
                raise DeviceError("is not what proc(5) describes", where="/proc/stat", got=str(error)) from error
            finally:
                place.PROCFS_PATH = known
        return {name: value for name, value in times.items() if name not in _COUNTED_TWICE}


class Memory:
    """`system/memory/available_bytes` and `total_bytes` (proc(5), meminfo)."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found("memory", "proc/meminfo", cls(site))] if site.machine.exists("proc/meminfo") else []

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        told = memory_bytes(self._site.machine)
        if told is None:
            return ()
        if not 0 <= told[1] <= told[0] < 1 << 63:
            raise DeviceError("says what memory cannot be", where="/proc/meminfo", got=f"{told[1]} of {told[0]} bytes")
        values = {"total_bytes": float(told[0]), "available_bytes": float(told[1])}
        at_ns = self._site.clock.mono_ns()
        return tuple(Reading(reading_name("system", "memory", q), value, at_ns) for q, value in values.items())

    def close(self) -> None:
        """Nothing is held open."""
