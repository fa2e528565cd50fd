"""What this process itself costs: memory and CPU time, from /proc/self (proc(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from edgerun.clock import Clock
from edgerun.device.site import Found, Site
from edgerun.errors import DeviceError
from edgerun.types import Reading

_RESIDENT = 1
"""Field of /proc/self/statm: resident set size in pages."""
_USER, _SYSTEM = 11, 12
"""Fields of /proc/self/stat counted after the command's closing parenthesis: utime and stime in clock ticks."""


_STARTED = 19
"""Field of /proc/self/stat, counted likewise: starttime in clock ticks since boot."""


class LoadSensor:
    """Reads `rss_mib` (resident memory, MiB) and `cpu_s` (user and system time of all threads so far, seconds).

    `root` holds the machine's `proc`. Where a file is absent there is no reading; one that makes no sense raises
    `DeviceError`.
    """

    def __init__(self, clock: Clock, root: Path = Path("/")) -> None:
        self._clock = clock
        self._process = root / "proc/self"
        self._page_mib = os.sysconf("SC_PAGE_SIZE") / 2**20
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        """This process, where there is a `proc` to see it in."""
        if not site.machine.exists("proc/self/statm"):
            return []
        return [Found("self", "proc/self", cls(site.clock, site.machine.root))]

    def read(self) -> Sequence[Reading]:
        values = (("rss_mib", self._rss_mib()), ("cpu_s", self._cpu_s()))
        at_ns = self._clock.mono_ns()
        return tuple(Reading(name, value, at_ns) for name, value in values if value is not None)

    def close(self) -> None:
        """Nothing is held open."""

    def _rss_mib(self) -> float | None:
        path = self._process / "statm"
        text = _text(path)
        return None if text is None else _numbers(path, text.split(), _RESIDENT)[0] * self._page_mib

    def _cpu_s(self) -> float | None:
        path = self._process / "stat"
        text = _text(path)
        if text is None:
            return None
        fields = text.rpartition(")")[2].split()  # the command may hold spaces and parentheses
        return sum(_numbers(path, fields, _USER, _SYSTEM)) * self._tick_s


def process_started_ns(root: Path = Path("/")) -> int | None:
    """When this process was started, in monotonic ns, to a clock tick (10 ms); None without /proc.

    /proc/self/stat counts from boot, time asleep included (proc(5), starttime; time_namespaces(7)).
    """
    path = root / "proc/self/stat"
    text = _text(path)
    if text is None:
        return None
    (ticks,) = _numbers(path, text.rpartition(")")[2].split(), _STARTED)
    since_boot_ns = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return since_boot_ns - asleep_ns


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DeviceError("cannot be read", where=path, got=error.strerror) from error


def _numbers(path: Path, fields: list[str], *wanted: int) -> list[int]:
    try:
        return [int(fields[index]) for index in wanted]
    except (IndexError, ValueError) as error:
        raise DeviceError(
            "is not what proc(5) describes", where=path, expected="numbers", got=repr(" ".join(fields)[:80])
        ) from error
