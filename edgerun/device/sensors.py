"""Which sensors there are, and which of them this board has."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from edgerun.device.reader import PatientReader
from edgerun.device.site import Found, SensorKind, Site
from edgerun.errors import EdgerunError

KINDS: dict[str, str] = {
    "thermal": "edgerun.device.thermal:ThermalZone",
    "cooling": "edgerun.device.thermal:CoolingDevice",
    "hwmon": "edgerun.device.hwmon:HwmonChannel",
    "ina": "edgerun.device.rails:InaRail",
    "jetpack4": "edgerun.device.rails:Jetpack4Rail",
    "cpufreq": "edgerun.device.cpufreq:CpuPolicy",
    "throttle": "edgerun.device.cpufreq:ThermalThrottle",
    "rapl": "edgerun.device.rapl:RaplDomain",
    "pi-voltage": "edgerun.device.raspberry:VoltageAlarm",
    "pi-firmware": "edgerun.device.raspberry:FirmwareFlags",
    "pi-vcgencmd": "edgerun.device.vcgencmd:VcgencmdFlags",
    "pi-pmic": "edgerun.device.vcgencmd:PmicRails",
    "gpu": "edgerun.device.gpu:Gpu",
    "apex": "edgerun.device.apex:Apex",
    "battery": "edgerun.device.battery:Battery",
    "mains": "edgerun.device.battery:Mains",
    "pressure": "edgerun.device.pressure:Pressure",
    "cgroup-cpu": "edgerun.device.cgroup:CgroupCpu",
    "cgroup-memory": "edgerun.device.cgroup:CgroupMemory",
    "disk": "edgerun.device.disk:DiskSpace",
    "wear": "edgerun.device.disk:CardWear",
    "wifi": "edgerun.device.wireless:WifiSignal",
    "uptime": "edgerun.device.uptime:Uptime",
    "clock": "edgerun.device.uptime:ClockSync",
    "cpu": "edgerun.device.system:CpuLoad",
    "memory": "edgerun.device.system:Memory",
    "load": "edgerun.device.load:LoadSensor",
}


class Sought(msgspec.Struct, frozen=True):
    """What was found: (kind, sensor) of each, and (kind, reason) of each kind that could not be looked for."""

    sensors: tuple[tuple[str, Found], ...]
    broken: tuple[tuple[str, str], ...]


def builtin_kinds(only: Sequence[str] | None = None) -> dict[str, SensorKind]:
    """The classes of `KINDS`, or of those named."""
    kinds = {}
    for kind in only if only is not None else KINDS:
        module, _, name = KINDS[kind].partition(":")
        kinds[kind] = getattr(importlib.import_module(module), name)
    return kinds


def find_sensors(site: Site, kinds: Mapping[str, SensorKind], reader: PatientReader) -> Sought:
    """Every sensor of `kinds` that is there now; a kind that blocks or fails costs itself only."""
    sensors: list[tuple[str, Found]] = []
    broken: list[tuple[str, str]] = []
    for kind, sensor_class in kinds.items():
        try:
            sensors += [(kind, found) for found in reader.run(("find", kind), partial(sensor_class.find, site))]
        except EdgerunError as error:
            broken.append((kind, str(error)))
    return Sought(tuple(sensors), tuple(broken))
