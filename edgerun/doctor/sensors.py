"""Sensors that a stream could read: Industrial I/O devices with their channels, and microphones."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgerun.device.machine import Machine
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, yellow

_DEVICES = "sys/bus/iio/devices"
_CHANNEL = re.compile(r"in_(\w+?)_(raw|input)")
"""Documentation/ABI/testing/sysfs-bus-iio: `in_accel_x_raw`, `in_temp_input`."""
_CAPTURE = re.compile(r"(\d+)-(\d+): [^:]*: ([^:]*) :.*capture (\d+)")
"""A line of /proc/asound/pcm: `00-00: ID : name : playback 1 : capture 1`."""
_SHOWN = 8


def look(patient: Patient) -> Iterator[Line]:
    """Raises `DeviceError` when sysfs or /proc/asound cannot be listed."""
    lines = [*_iio(patient.machine), *_microphones(patient.machine)]
    yield from lines
    if not lines:
        remedy = "where one is connected, its driver is missing: on a Raspberry Pi its dtoverlay in config.txt"
        yield absent("sensors", "no IIO device and no microphone", remedy)


def _iio(machine: Machine) -> Iterator[Line]:
    for name in machine.names(_DEVICES):
        if not name.startswith("iio:device"):  # triggers lie there too
            continue
        chip = machine.text(f"{_DEVICES}/{name}/name") or "without a name"
        found = (_CHANNEL.fullmatch(file) for file in machine.names(f"{_DEVICES}/{name}"))
        channels = sorted({match[1] for match in found if match is not None})
        if channels:
            more = f" and {len(channels) - _SHOWN} more" if len(channels) > _SHOWN else ""
            yield green("IIO sensor", f"{chip} ({name}): {', '.join(channels[:_SHOWN])}{more}")
        else:
            remedy = "it may work through its buffer only, which edgerun does not read: see what else its driver offers"
            yield yellow("IIO sensor", f"{chip} ({name}) offers no channel to poll", remedy)


def _microphones(machine: Machine) -> Iterator[Line]:
    for line in (machine.text("proc/asound/pcm") or "").splitlines():
        if (match := _CAPTURE.match(line)) is not None:
            yield green("microphone", f"{match[3].strip()} (hw:{int(match[1])},{int(match[2])})")
