"""What is wanted of the service on this machine: made of the command's flags and of what the machine is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edgerun.device import board, usb
from edgerun.device.machine import Machine, Owner
from edgerun.errors import ConfigError, DeviceError

BoardName = Literal["pi", "jetson", "coral"]

_KINDS: dict[str, BoardName] = {"raspberry-pi": "pi", "jetson": "jetson", "coral-dev": "coral"}
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""As strict as `device.id`: what systemd would have to escape (systemd-escape(1)) is not a name."""
_HOMES = ("/home/", "/root/", "/run/user/")
_SHARED_LIBRARY = re.compile(r"libsystemd-shared-(\d+)")


class Plan(msgspec.Struct, frozen=True):
    """`groups`: those that exist. `homes`: the program or the config lies in a home. Paths as the service sees them."""

    program: tuple[str, ...]
    config: str
    user: str = "edgerun"
    group: str = "edgerun"
    instance: str | None = None
    boards: frozenset[BoardName] = frozenset()
    groups: frozenset[str] = frozenset()
    systemd_version: int | None = None
    strict_wx: bool = False

    @property
    def homes(self) -> bool:
        return any(each.startswith(_HOMES) for each in (*self.program, self.config))


def check_instance(name: str) -> str:
    """`name`, if it can be an instance's. Raises `ConfigError`."""
    if _INSTANCE.fullmatch(name):
        return name
    raise ConfigError(
        "not a name for an instance",
        where="--instance",
        expected="lower-case letters, digits, - and _, at most 64",
        got=repr(name),
        remedy="the config of the instance yard is /etc/edgerun/yard.toml",
    )


def boards_of(machine: Machine) -> frozenset[BoardName]:
    """Which drop-ins this machine needs. Raises `DeviceError` when a file that tells it cannot be read."""
    found = {_KINDS[kind] for kind in (board.identify(machine).kind,) if kind in _KINDS}
    corals = {usb.CORAL_BOOT, usb.CORAL_RUN, usb.CORAL_PCI}
    ids = {one.id for one in usb.usb_devices(machine)} | {identity for _, identity in usb.pci_devices(machine)}
    if ids & corals or any(name.startswith("apex_") for name in machine.names("dev")):
        found.add("coral")
    return frozenset(found)


def groups_of(machine: Machine) -> frozenset[str]:
    """The groups of the system, by name."""
    return frozenset(row[0] for row in _rows(machine, "etc/group"))


def group_of(machine: Machine, user: str) -> str:
    """A user's own group. Raises `ConfigError` for a user who does not exist."""
    for row in _rows(machine, "etc/passwd"):
        if row[0] == user:
            return next((group[0] for group in _rows(machine, "etc/group") if group[2] == row[3]), row[3])
    raise ConfigError(
        "no such user",
        where="--user",
        expected="a user of this system",
        got=repr(user),
        remedy="leave --user out: the service then has a user of its own, edgerun",
    )


def systemd_version(machine: Machine) -> int | None:
    """By the number in the name of its shared library; None where there is none."""
    folders = ["usr/lib/systemd", "lib/systemd"]
    folders += [f"usr/lib/{name}/systemd" for name in machine.names("usr/lib") if name.endswith("-linux-gnu")]
    names = (name for folder in folders for name in machine.names(folder))
    found = [int(match[1]) for name in names if (match := _SHARED_LIBRARY.match(name))]
    return max(found, default=None)


def quoted(word: str) -> str:
    """A word of a command line as systemd reads it: systemd.syntax(7), "Quoting"; `%` begins a specifier."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[\s'\"\\;]", word) else escaped


def closed_to(machine: Machine, user: str, path: str) -> str | None:
    """The first part of `path` that `user` cannot pass or read; None when all is open to it, or nobody can tell.

    A user who does not exist yet is taken as one without groups.
    """
    uid, gids = _numbers(machine, user)
    if uid == 0:
        return None
    for part, last in _parts(path):
        owner = machine.owner(part)
        if owner is None:
            return None
        if not _may(owner, uid, gids, 0o4 if last else 0o1):
            return part
    return None


def user_exists(machine: Machine, user: str) -> bool:
    """Whether the machine knows `user` already. Raises `DeviceError` for lists of users that are none."""
    return _numbers(machine, user)[0] >= 0


def _parts(path: str) -> Iterator[tuple[str, bool]]:
    real = Path(path)
    for folder in reversed(real.parents):
        yield str(folder), False
    yield str(real), True


def _may(owner: Owner, uid: int, gids: Sequence[int], bits: int) -> bool:
    shift = 6 if owner.uid == uid else 3 if owner.gid in gids else 0
    return owner.mode >> shift & bits == bits


def _numbers(machine: Machine, user: str) -> tuple[int, tuple[int, ...]]:
    found = next((row for row in _rows(machine, "etc/passwd") if row[0] == user), None)
    if found is None:
        return -1, ()
    try:
        joined = [int(row[2]) for row in _rows(machine, "etc/group") if user in row[3].split(",")]
        return int(found[2]), (int(found[3]), *joined)
    except ValueError as error:
        raise DeviceError("is not a list of users", where="/etc/passwd or /etc/group", got=error) from error


def _rows(machine: Machine, name: str) -> list[list[str]]:
    """passwd(5), group(5): what has its first four fields."""
    rows = [line.split(":") for line in (machine.text(name) or "").splitlines()]
    return [row for row in rows if len(row) >= 4 and row[0]]
