"""Board, system, processor, memory and the limits of a container or unit."""

from __future__ import annotations

from collections.abc import Iterator

from edgerun.device import board
from edgerun.device.machine import Machine
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow

_GIB, _MIB = 1 << 30, 1 << 20
_LEAST_FREE_BYTES = 200 * _MIB
"""The daemon with the bundled detector takes about 110 MiB; the rest is room for its pictures."""


def look(patient: Patient) -> Iterator[Line]:
    """Raises `DeviceError` when a file that tells it cannot be read."""
    machine = patient.machine
    found = board.identify(machine)
    yield _model(found)
    system = ", ".join(part for part in (found.system, found.release) if part)
    kernel = f"Linux {found.kernel}" if found.kernel else "Linux"
    yield green("system", " on ".join(part for part in (system, f"{kernel} {found.architecture}") if part))
    if found.architecture not in ("aarch64", "x86_64"):
        yield yellow(
            "architecture",
            f"{found.architecture}: no ready-made runtimes",
            "install the 64-bit image of the system: the runtimes have wheels for aarch64 and x86_64 only",
        )
    count, name = board.processors(machine)
    if count:
        yield green("processor", f"{count} × {name}" if name else f"{count} core{'s' * (count > 1)}")
    yield from _memory(machine)


def _model(found: board.Board) -> Line:
    where = f" in a container ({found.container})" if found.container else ""
    if found.model:
        return green("board", found.model + where)
    return absent("board", f"not told{where}", "nothing to do: neither a device tree nor DMI can be seen from here")


def _memory(machine: Machine) -> Iterator[Line]:
    memory = board.memory_bytes(machine)
    if memory is not None:
        total, available = memory
        value = f"{total / _GIB:.1f} GiB, {available / _GIB:.1f} GiB available"
        if available >= _LEAST_FREE_BYTES:
            yield green("memory", value)
        else:
            remedy = "find what takes it with `ps aux --sort=-rss | head`, or choose a smaller model"
            yield yellow("memory", value, remedy)
    limits = board.limits(machine)
    if limits.cpus is not None:
        yield yellow(
            "CPU limit",
            f"{limits.cpus:g} CPUs",
            "a quota stops the model in mid-frame: prefer CPUWeight= to CPUQuota= (docker: --cpu-shares to --cpus)",
        )
    if limits.memory_bytes is not None:
        value = f"{limits.memory_bytes / _MIB:.0f} MiB"
        if limits.memory_bytes < _LEAST_FREE_BYTES:
            remedy = "raise MemoryMax= of the unit, or --memory of the container, to 300M or more"
            yield red("memory limit", value, remedy, needed=True)
        else:
            yield green("memory limit", value)
    elif not limits.memory_cgroup:
        yield absent(
            "memory limit",
            "the memory controller is off: MemoryMax= of a unit does nothing",
            "to have it, add cgroup_enable=memory to the line in /boot/firmware/cmdline.txt and reboot",
        )
