"""Which file system a folder lies on, and which cards and chips hold them (proc(5), mounts; sysfs block/mmc)."""

from __future__ import annotations

import re

import msgspec

from edgerun.device.machine import Machine, understood

_WORN = {1: "normal", 2: "warning", 3: "urgent"}
"""JESD84-B51, 7.4.44, PRE_EOL_INFO."""
_BEYOND_LIFE = 0x0B


class Mount(msgspec.Struct, frozen=True):
    """One file system: what is mounted, where, its type, and whether it is read-only."""

    source: str
    folder: str
    kind: str
    read_only: bool


class Card(msgspec.Struct, frozen=True):
    """An SD card or eMMC. `life_used` is the upper end of the used part of its life, 0.1 … 1.1, where it tells (eMMC).

    JESD84-B51, 7.4.42: 0x01 is 0–10 %, 0x0A 90–100 %, 0x0B beyond.
    """

    device: str
    kind: str
    name: str | None
    life_used: float | None = None
    reserve: str | None = None


def mount_of(machine: Machine, folder: str) -> Mount | None:
    """The file system that `folder` (absolute) lies on; None where that is not told. Raises `DeviceError`."""
    best: Mount | None = None
    for line in (machine.text("proc/self/mounts") or "").splitlines():
        with understood("proc/self/mounts"):
            source, where, kind, options, *_ = (_unescaped(word) for word in line.split(" "))
        inside = folder == where or folder.startswith(where.rstrip("/") + "/")
        if inside and (best is None or len(where) >= len(best.folder)):  # the last of equals covers the others
            best = Mount(source, where, kind, "ro" in options.split(","))
    return best


def cards(machine: Machine) -> list[Card]:
    """SD cards and eMMC chips. Raises `DeviceError`."""
    return [card(machine, name) for name in card_names(machine)]


def card_names(machine: Machine) -> list[str]:
    """The block devices that are SD cards or eMMC chips ("mmcblk0"). Raises `DeviceError`."""
    return [name for name in machine.names("sys/block") if re.fullmatch(r"mmcblk\d+", name)]


def card(machine: Machine, name: str) -> Card:
    """What one of them tells. Raises `DeviceError`."""
    folder = f"sys/block/{name}/device"
    kind = machine.text(f"{folder}/type") or "MMC"
    with understood(f"{folder}/life_time"):
        used = [int(word, 16) for word in (machine.text(f"{folder}/life_time") or "").split()]
        if any(not 0 <= tenths <= _BEYOND_LIFE for tenths in used):
            raise ValueError(f"0x{max(used, key=abs):x}"[:40])
    reserve = machine.number(f"{folder}/pre_eol_info", 16)
    return Card(
        device=name,
        kind="SD card" if kind == "SD" else "eMMC",
        name=machine.text(f"{folder}/name") or None,
        life_used=max(used) / 10 if any(used) else None,
        reserve=_WORN.get(reserve) if reserve else None,
    )


def _unescaped(word: str) -> str:
    """Blanks are written as octal numbers there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
