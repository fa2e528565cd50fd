"""Which board this is and what runs on it: model, system, processor, memory, and the limits a container sets."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgerun.device.machine import Machine, understood

BoardKind = Literal["raspberry-pi", "jetson", "coral-dev", "arm", "pc", "unknown"]

_JETPACK = {32: "JetPack 4", 34: "JetPack 5", 35: "JetPack 5", 36: "JetPack 6", 38: "JetPack 7", 39: "JetPack 7"}
"""By the release of Jetson Linux in /etc/nv_tegra_release (docs.nvidia.com, JetPack archive)."""
_FIRMWARE_NOTHING = ("", "To Be Filled By O.E.M.", "System Product Name", "Default string", "None")


class Board(msgspec.Struct, frozen=True):
    """What the machine says it is; a field that it does not tell is None."""

    kind: BoardKind
    model: str | None
    serial: str | None
    system: str | None
    """`PRETTY_NAME` of os-release(5)."""
    kernel: str | None
    architecture: str
    release: str | None
    """The vendor's release where the board has one: "JetPack 6 (L4T R36.3.0)"."""
    container: str | None
    """What kind of container this is; None outside of one."""


class Limits(msgspec.Struct, frozen=True):
    """What a control group allows; None where it sets no limit. `memory_cgroup`: whether memory limits exist at all."""

    memory_bytes: int | None
    cpus: float | None
    memory_cgroup: bool


def identify(machine: Machine) -> Board:
    """Which board it is. Raises `DeviceError` when a file that tells it cannot be read."""
    compatible = (machine.text("proc/device-tree/compatible") or "").split("\0")
    model = machine.text("proc/device-tree/model") or _firmware_model(machine)
    return Board(
        kind=_kind(machine, compatible),
        model=model,
        serial=machine.text("proc/device-tree/serial-number") or None,
        system=_os_release(machine).get("PRETTY_NAME"),
        kernel=machine.text("proc/sys/kernel/osrelease"),
        architecture=machine.architecture(),
        release=_tegra_release(machine),
        container=_container(machine),
    )


def processors(machine: Machine) -> tuple[int, str | None]:
    """How many, and what they call themselves (only x86 has a name here)."""
    lines = (machine.text("proc/cpuinfo") or "").splitlines()
    fields = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    names = [value for key, value in fields if key == "model name"]
    return sum(key == "processor" for key, _ in fields), names[0] if names else None


def memory_bytes(machine: Machine) -> tuple[int, int] | None:
    """All of it and what is available (proc(5), meminfo); None where it is not told."""
    lines = (machine.text("proc/meminfo") or "").splitlines()
    with understood("proc/meminfo"):
        kib = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if value.strip()}
    if "MemTotal" not in kib:
        return None
    return kib["MemTotal"] * 1024, kib.get("MemAvailable", kib.get("MemFree", 0)) * 1024


def limits(machine: Machine) -> Limits:
    """The narrowest limit of the process's own control group and those above it (cgroups(7), both versions)."""
    groups = dict(own_groups(machine))
    memory: list[int] = []
    cpus: list[float] = []
    for folder in _upwards("sys/fs/cgroup", groups.get("")):
        memory += _amount(machine.text(f"{folder}/memory.max"))
        quota, _, period = (machine.text(f"{folder}/cpu.max") or "max 100000").partition(" ")
        with understood(f"{folder}/cpu.max"):
            cpus += [] if quota == "max" else [int(quota) / int(period or 100000)]
    for folder in _upwards("sys/fs/cgroup/memory", groups.get("memory")):
        memory += [size for size in _amount(machine.text(f"{folder}/memory.limit_in_bytes")) if size < 1 << 60]
    return Limits(min(memory, default=None), min(cpus, default=None), _has_memory_cgroup(machine))


def _kind(machine: Machine, compatible: list[str]) -> BoardKind:
    makers = {name.partition(",")[0] for name in compatible}
    if "raspberrypi" in makers:
        return "raspberry-pi"
    if any(name.startswith("nvidia,tegra") for name in compatible):
        return "jetson"
    if any("phanbell" in name for name in compatible):  # the Coral Dev Board's name inside Google
        return "coral-dev"
    if machine.architecture() in ("x86_64", "i686"):
        return "pc"
    return "arm" if machine.architecture().startswith(("aarch64", "arm")) else "unknown"


def _firmware_model(machine: Machine) -> str | None:
    """What DMI says: maker and product, without the words of those who filled nothing in."""
    words = [machine.text(f"sys/class/dmi/id/{name}") or "" for name in ("sys_vendor", "product_name")]
    told = " ".join(word for word in words if word not in _FIRMWARE_NOTHING)
    return told or None


def _os_release(machine: Machine) -> dict[str, str]:
    text = machine.text("etc/os-release") or machine.text("usr/lib/os-release") or ""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value.strip("\"'") for key, _, value in pairs}


def _tegra_release(machine: Machine) -> str | None:
    """From `# R36 (release), REVISION: 3.0, …`."""
    text = machine.text("etc/nv_tegra_release") or ""
    words = text.replace(",", " ").split()
    if len(words) < 2 or not words[1].startswith("R") or not words[1][1:].isdigit():
        return None
    revision = words[words.index("REVISION:") + 1] if "REVISION:" in words[:-1] else ""
    linux = f"L4T {words[1]}" + (f".{revision}" if revision else "")
    jetpack = _JETPACK.get(int(words[1][1:]))
    return f"{jetpack} ({linux})" if jetpack else linux


def _container(machine: Machine) -> str | None:
    """systemd's own word for it, else the files that Docker and Podman leave."""
    told = machine.text("run/systemd/container")
    if told:
        return told
    if machine.exists(".dockerenv"):
        return "docker"
    return "podman" if machine.exists("run/.containerenv") else None


def own_groups(machine: Machine) -> list[tuple[str, str]]:
    """(controller, path) of this process's control groups; version 2 has the empty controller."""
    found = []
    for line in (machine.text("proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found += [(name, path) for name in controllers.split(",")]
    return found


def _upwards(base: str, path: str | None) -> list[str]:
    """The folders of a control group and those above it, its own first."""
    if path is None:
        return []
    parts = [part for part in path.split("/") if part]
    return ["/".join([base, *parts[:count]]) for count in range(len(parts), -1, -1)]


def _amount(text: str | None) -> list[int]:
    return [int(text)] if text is not None and text.isdigit() else []


def _has_memory_cgroup(machine: Machine) -> bool:
    """Raspberry Pi OS switches it off (`cgroup_disable=memory`): then MemoryMax= of a unit does nothing."""
    if "memory" in (machine.text("sys/fs/cgroup/cgroup.controllers") or "").split():
        return True
    for line in (machine.text("proc/cgroups") or "").splitlines():
        words = line.split()
        if words[:1] == ["memory"]:
            return words[-1] == "1" and machine.exists("sys/fs/cgroup/memory")
    return False
