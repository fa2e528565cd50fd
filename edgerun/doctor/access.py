"""Groups and permissions: which device nodes this user may use, kind by kind."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from edgerun.device import groups
from edgerun.device.groups import Identity
from edgerun.device.machine import Machine
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow


class Kind(msgspec.Struct, frozen=True):
    """Nodes of one kind: where, which names, which group the distributions give them."""

    what: str
    folder: str
    name: re.Pattern[str]
    group: str


KINDS = (
    Kind("video nodes", "dev", re.compile(r"video\d+|media\d+|vchiq|vcio"), "video"),
    Kind("serial ports", "dev", re.compile(r"tty(USB|ACM|AMA|S|THS|TCU)\d+"), "dialout"),
    Kind("GPIO", "dev", re.compile(r"gpiochip\d+|gpiomem\d*"), "gpio"),
    Kind("I²C", "dev", re.compile(r"i2c-\d+"), "i2c"),
    Kind("SPI", "dev", re.compile(r"spidev\d+\.\d+"), "spi"),
    Kind("render nodes", "dev/dri", re.compile(r"renderD\d+"), "render"),
    Kind("IIO sensors", "dev", re.compile(r"iio:device\d+"), "iio"),
    Kind("sound", "dev/snd", re.compile(r"pcm.*c"), "audio"),
)


def look(patient: Patient) -> Iterator[Line]:
    """Raises `DeviceError` when /dev or /proc cannot be read."""
    machine = patient.machine
    me = groups.identity(machine)
    if me is None:
        yield absent("user", "/proc is not there", "nothing to do: only a container without /proc looks like this")
        return
    user = groups.user_name(machine, me.uid)
    names = sorted(groups.group_name(machine, gid) for gid in me.groups)
    if me.almighty and me.uid == 0:
        yield green("user", "root: every node is open to it, which may not hold for the daemon's own user")
    else:
        yield green("user", f"{user}, in {', '.join(names)}")
    for kind in KINDS:
        line = _nodes(machine, kind, me, user)
        if line is not None:
            yield line


def _nodes(machine: Machine, kind: Kind, me: Identity, user: str) -> Line | None:
    """None where the board has no such node."""
    nodes = [name for name in machine.names(kind.folder) if kind.name.fullmatch(name)]
    owners = {name: owner for name in nodes if (owner := machine.owner(f"{kind.folder}/{name}")) is not None}
    if not owners:
        return None
    shut = [name for name, owner in owners.items() if not me.may_use(owner)]
    value = f"{len(owners)} of them" if len(owners) > 1 else f"/{kind.folder}/{next(iter(owners))}"
    if not shut:
        return green(kind.what, value)
    group = groups.group_name(machine, owners[shut[0]].gid)
    closed = f"/{kind.folder}/{shut[0]}" + (f" and {len(shut) - 1} more" if len(shut) > 1 else "")
    if group == "root":
        rule = f'SUBSYSTEM=="{_subsystem(kind)}", GROUP="{kind.group}", MODE="0660"'
        remedy = (
            f"where a sensor needs it: `sudo groupadd -f {kind.group}; echo '{rule}' | "
            f"sudo tee /etc/udev/rules.d/60-edgerun-{kind.group}.rules; sudo udevadm trigger`"
        )
        return yellow(kind.what, f"{closed}: only root may use it", remedy)
    service = f"for the service, SupplementaryGroups={group} in the unit"
    remedy = f"`sudo usermod -aG {group} {user}`, then log in again; {service}"
    line = red if kind.group == "video" else yellow
    return line(kind.what, f"{closed}: {user} is not in {group}", remedy)


def _subsystem(kind: Kind) -> str:
    known = {
        "dialout": "tty",
        "i2c": "i2c-dev",
        "spi": "spidev",
        "render": "drm",
        "audio": "sound",
        "video": "video4linux",
    }
    return known.get(kind.group, kind.group)
