"""Installing and removing the service: files, then what systemd has to be told of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgerun.device.machine import Machine
from edgerun.errors import ConfigError
from edgerun.service import systemd, units
from edgerun.service.placing import Deed, Place
from edgerun.service.plan import Plan, closed_to, user_exists

_NEW_USER = "useradd --system --user-group --shell /usr/sbin/nologin"
_DROP_INS = ("edgerun.service.d", "edgerun@.service.d")


class Outcome(msgspec.Struct, frozen=True):
    """What was done: files, commands that were run, and what is left to the operator."""

    unit: str
    files: list[Deed]
    ran: list[str]
    hints: list[str] = []


def install(plan: Plan, root: Path | None, *, dry: bool = False, force: bool = False, now: bool = False) -> Outcome:
    """Write the service of `plan` below `root`, remove what an earlier install wrote and this one does not want.

    Without a `root` it is the running system: systemd is told, and with `now` the service started, or restarted where
    something changed. Raises `ConfigError` when a file was edited, `DeviceError`, `MissingError`.
    """
    live, root = root is None and not dry, root or Path("/")
    if live:
        systemd.require("install a service for")
    unit, place = units.unit_name(plan.instance), Place(root, dry=dry, force=force)
    files = units.compose(plan, units.originals())
    folders = [f"{units.UNITS}/{folder}" for folder in (*_DROP_INS, f"{unit}.d")]
    deeds = place.put(files)
    wanted = {file.path for file in files}
    deeds += place.remove(path for path in dict.fromkeys(place.written_in(folders)) if path not in wanted)
    changed = any(deed.did not in ("unchanged", "kept") for deed in deeds)
    commands = _after_install(root, live, plan, unit, now, changed) if not dry else []
    return Outcome(unit, deeds, [" ".join(_run(words)) for words in commands], _hints(plan, root, now))


def uninstall(instance: str | None, root: Path | None, *, dry: bool = False, force: bool = False) -> Outcome:
    """Stop the service and remove what `install` wrote; with an `instance` only what is its own.

    The user, the config, the passwords and the state stay.
    """
    live, root = root is None and not dry, root or Path("/")
    if live:
        systemd.require("take a service from")
    unit, place = units.unit_name(instance), Place(root, dry=dry, force=force)
    stops = [unit] if instance is not None else ["edgerun.service", "edgerun@*.service"]
    ran = [" ".join(_run(["systemctl", "stop", *stops]))] if live else []
    deeds = place.remove(_paths_of(instance, root, place))
    if live:
        ran.append(" ".join(_run(["systemctl", "daemon-reload"])))
        ran.append(" ".join(_run(["systemctl", "reset-failed", *stops], may_fail=True)))
    hints = [] if instance is not None else ["config, passwords and state stay: /etc/edgerun, /var/lib/edgerun"]
    return Outcome(unit, deeds, ran, hints)


def check_access(plan: Plan, machine: Machine, config: Path | None) -> None:
    """Raises `ConfigError` when the service's user cannot reach its program or its config (None: not there yet)."""
    for what, path in (("program", plan.program[0]), ("config", None if config is None else str(config))):
        closed = closed_to(machine, plan.user, path) if path is not None else None
        if closed is not None:
            first = "" if user_exists(machine, plan.user) else f"{_NEW_USER} {plan.user}; "
            raise ConfigError(
                f"the user {plan.user} cannot read the {what} {path}",
                where=closed,
                remedy=f"open it (`{first}chgrp {plan.group} {closed}; chmod g+rX {closed}`), move the {what} out of "
                "the home, or name another user with --user",
            )


def _after_install(root: Path, live: bool, plan: Plan, unit: str, now: bool, changed: bool) -> list[list[str]]:
    """The commands that make a system take notice of the files."""
    where = [] if live else [f"--root={root}"]
    names = [] if plan.user != "edgerun" else [["systemd-sysusers", *where, Path(units.SYSUSERS).name]]
    commands = [*names, ["systemd-tmpfiles", *where, "--create", Path(units.TMPFILES).name]]
    if not live:  # as somebody else than root nobody can be made the owner of anything
        return [words for words in commands if os.geteuid() == 0 and shutil.which(words[0]) is not None]
    commands.append(["systemctl", "daemon-reload"])
    if now:
        commands.append(["systemctl", "restart" if changed else "start", unit])
    return commands


def _hints(plan: Plan, root: Path, now: bool) -> list[str]:
    hints = []
    unit = units.unit_name(plan.instance)
    if not (root / plan.config.lstrip("/")).is_file():
        hints.append(f"there is no {plan.config} yet: write it, then `systemctl start {unit}`")
    elif not now:
        hints.append(f"it starts with the system; at once: `systemctl start {unit}`")
    return hints


def _paths_of(instance: str | None, root: Path, place: Place) -> Sequence[str]:
    """What there may be of an install: its own drop-ins; without an instance all of it."""
    wants = f"{units.UNITS}/multi-user.target.wants"
    if instance is not None:
        unit = units.unit_name(instance)
        return [*place.written_in([f"{units.UNITS}/{unit}.d"]), f"{wants}/{unit}"]
    here = root / units.UNITS
    folders = [f"{units.UNITS}/{path.name}" for path in sorted(here.glob("edgerun*.service.d"))]
    links = [f"{wants}/{path.name}" for path in sorted((root / wants).glob("edgerun*.service")) if path.is_symlink()]
    own = [f"{units.UNITS}/{unit}" for unit in ("edgerun.service", "edgerun@.service")]
    return [*links, *place.written_in(folders), *own, units.SYSUSERS, units.TMPFILES]


def _run(words: list[str], *, may_fail: bool = False) -> list[str]:
    systemd.run(words, may_fail=may_fail)
    return words
