"""Who this process is, and which device nodes it may use (credentials(7), group(5))."""

from __future__ import annotations

import msgspec

from edgerun.device.machine import Machine, Owner, understood

_CAP_DAC_OVERRIDE = 1 << 1
"""capabilities(7): passes by every permission bit."""


class Identity(msgspec.Struct, frozen=True):
    """The effective user and all groups, by number; `almighty`: permission bits do not bind it."""

    uid: int
    groups: frozenset[int]
    almighty: bool

    def may_use(self, owner: Owner) -> bool:
        """Whether a node of that owner can be read and written."""
        return self._has(owner, 0o6)

    def may_write_into(self, owner: Owner) -> bool:
        """Whether files can be made in a folder of that owner."""
        return self._has(owner, 0o3)

    def _has(self, owner: Owner, bits: int) -> bool:
        """One set of bits counts: the owner's, the group's or the others' (path_resolution(7))."""
        if self.almighty:
            return True
        shift = 6 if owner.uid == self.uid else 3 if owner.gid in self.groups else 0
        return owner.mode >> shift & bits == bits


def identity(machine: Machine) -> Identity | None:
    """Who we are, from /proc/self/status; None without it. Raises `DeviceError`."""
    text = machine.text("proc/self/status")
    if text is None:
        return None
    with understood("proc/self/status"):
        return _identity(text)


def _identity(text: str) -> Identity:
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in text.splitlines())}
    uid, gid = int(fields["Uid"][1]), int(fields["Gid"][1])
    groups = {gid, *(int(number) for number in fields.get("Groups", []))}
    capable = int(fields.get("CapEff", ["0"])[0], 16)
    return Identity(uid, frozenset(groups), bool(capable & _CAP_DAC_OVERRIDE))


def group_name(machine: Machine, gid: int) -> str:
    """Its name in /etc/group, else the number. Raises `DeviceError`."""
    return _by_number(machine, "etc/group").get(gid, str(gid))


def user_name(machine: Machine, uid: int) -> str:
    """Its name in /etc/passwd, else the number. Raises `DeviceError`."""
    return _by_number(machine, "etc/passwd").get(uid, str(uid))


def _by_number(machine: Machine, name: str) -> dict[int, str]:
    rows = [line.split(":") for line in (machine.text(name) or "").splitlines()]
    return {int(row[2]): row[0] for row in reversed(rows) if len(row) > 2 and row[2].isdigit()}
