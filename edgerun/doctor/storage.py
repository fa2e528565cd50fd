"""Where state is kept: space, read-only file systems, SD cards and their wear."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgerun.device import groups
from edgerun.device.machine import Machine
from edgerun.device.mounts import Card, cards, mount_of
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow
from edgerun.doctor.needs import state_folder

_MIB = 1 << 20
_LITTLE, _TOO_LITTLE = 256 * _MIB, 32 * _MIB
"""64 MiB is what results may take while the broker is away (`[mqtt.spool]`), and a model is fetched beside the old."""
_WORN = 0.9
_IN_MEMORY = ("tmpfs", "ramfs")


def look(patient: Patient) -> Iterator[Line]:
    """Raises `DeviceError` when mounts or space cannot be read."""
    machine = patient.machine
    yield from _state(machine)
    root = mount_of(machine, "/")
    if root is not None and root.read_only:
        yield green("root file system", "read-only")
    elif root is not None and root.kind == "overlay" and machine.exists("overlay"):
        yield yellow(
            "root file system",
            "an overlay: every change is forgotten at a restart",
            "keep state on another partition: StateDirectory= there, or `sudo raspi-config nonint disable_overlayfs`",
        )
    yield from (_card(card) for card in cards(machine))


def _state(machine: Machine) -> Iterator[Line]:
    folder = state_folder(machine.environ)
    there = _nearest(machine, folder)
    mount = mount_of(machine, str(there))
    what = "state folder"
    if mount is not None and mount.read_only:
        yield red(
            what,
            f"{folder} is on a read-only file system ({mount.folder})",
            "name one that can be written: STATE_DIRECTORY=/run/edgerun, or `sudo mount -o remount,rw "
            + mount.folder
            + "`",
        )
    elif mount is not None and mount.kind in _IN_MEMORY:
        yield yellow(
            what,
            f"{folder} is in memory ({mount.kind}) and forgotten at a restart",
            "set STATE_DIRECTORY to a folder on a disk, where results must survive a power cut",
        )
    elif _shut(machine, there):
        user = groups.user_name(machine, me.uid) if (me := groups.identity(machine)) is not None else "edgerun"
        remedy = f"make it: `sudo install -d -o {user} {folder}`, or set STATE_DIRECTORY to a folder of {user}'s"
        yield red(what, f"{folder} cannot be made: {there} belongs to another", remedy)
    else:
        yield green(what, f"{folder}" + ("" if there == folder else " (not made yet)"))
    space = machine.space(str(there))
    if space is None:
        yield absent("disk space", "not told", "nothing to do: this file system has no size")
        return
    value = f"{space.free_bytes / _MIB:.0f} MiB free of {space.total_bytes / _MIB:.0f}"
    remedy = "see what takes it: `sudo du -xh --max-depth=2 / | sort -h | tail`"
    if space.free_bytes < _TOO_LITTLE:
        yield red("disk space", value, remedy)
    elif space.free_bytes < _LITTLE:
        yield yellow("disk space", value, remedy)
    else:
        yield green("disk space", value)


def _shut(machine: Machine, folder: Path) -> bool:
    me, owner = groups.identity(machine), machine.owner(str(folder))
    return me is not None and owner is not None and not me.may_write_into(owner)


def _nearest(machine: Machine, folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    while folder != folder.parent and not machine.exists(str(folder)):
        folder = folder.parent
    return folder


def _card(card: Card) -> Line:
    what = f"{card.kind} {card.device}"
    value = card.name or "there"
    if card.life_used is None:
        return green(what, value + (": it does not tell its wear" if card.kind == "SD card" else ""))
    used = f"{value}, {min(card.life_used, 1.0) * 100:.0f} % of its life used" + (" up" if card.life_used > 1 else "")
    if card.life_used > _WORN or card.reserve in ("warning", "urgent"):
        remedy = (
            f"copy it while it can be read: `sudo dd if=/dev/{card.device} of=/mnt/backup.img bs=4M status=progress`"
        )
        return yellow(what, used, remedy)
    return green(what, used)
