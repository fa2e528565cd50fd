"""How fast the processor runs, how fast it may, and how often it was slowed for heat.

Linux, Documentation/admin-guide/pm/cpufreq.rst (kHz): `scaling_max_freq` below `cpuinfo_max_freq` is a cap, set by the
operator, by nvpmodel or by a cooling device. x86 counts its thermal events besides
(drivers/thermal/intel/therm_throt.c, `thermal_throttle`).
"""

from __future__ import annotations

from collections.abc import Sequence

from edgerun.device.site import Found, Row, Site, read_rows
from edgerun.types import Reading

_CPU = "sys/devices/system/cpu"
_HIGHEST_HZ = 1e11
_ROWS = (
    Row("scaling_cur_freq", "freq_hz", 1e-3, 1.0, _HIGHEST_HZ),
    Row("scaling_max_freq", "limit_hz", 1e-3, 1.0, _HIGHEST_HZ),
    Row("cpuinfo_max_freq", "highest_hz", 1e-3, 1.0, _HIGHEST_HZ),
)


class CpuPolicy:
    """One frequency domain: `cpufreq/policy0/freq_hz`, `limit_hz` (what it may), `highest_hz` (what it can)."""

    def __init__(self, site: Site, place: str, folder: str) -> None:
        self._site, self._place, self._folder = site, place, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        names = [name for name in site.machine.names(f"{_CPU}/cpufreq") if name.startswith("policy")]
        folders = {name: f"{_CPU}/cpufreq/{name}" for name in names}
        if not folders:  # kernels before 4.3 have it below each processor only
            cpus = [name for name in site.machine.names(_CPU) if name.startswith("cpu") and name[3:].isdigit()]
            folders = {name: f"{_CPU}/{name}/cpufreq" for name in cpus if site.machine.exists(f"{_CPU}/{name}/cpufreq")}
        return [Found(name, folder, cls(site, name, folder)) for name, folder in folders.items()]

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        return read_rows(self._site, "cpufreq", self._place, self._folder, _ROWS)

    def close(self) -> None:
        """Nothing is held open."""


class ThermalThrottle:
    """x86: how often the package (and this processor) were throttled since boot, and for how long.

    `throttle/cpu0/package_events`, `core_events`, `package_s`. Only the first processor of each package is read.
    """

    def __init__(self, site: Site, place: str, folder: str) -> None:
        self._site, self._place, self._folder = site, place, folder

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        found, packages = [], set[str | None]()
        for name in site.machine.names(_CPU):
            folder = f"{_CPU}/{name}/thermal_throttle"
            if not (name.startswith("cpu") and name[3:].isdigit() and site.machine.exists(folder)):
                continue
            package = site.machine.text(f"{_CPU}/{name}/topology/physical_package_id")
            if package not in packages:
                packages.add(package)
                found.append(Found(name, folder, cls(site, name, folder)))
        return found

    def read(self) -> Sequence[Reading]:
        """Raises `DeviceError`."""
        rows = (
            Row("package_throttle_count", "package_events"),
            Row("core_throttle_count", "core_events"),
            Row("package_throttle_total_time_ms", "package_s", 1000.0),
        )
        return read_rows(self._site, "throttle", self._place, self._folder, rows)

    def close(self) -> None:
        """Nothing is held open."""
