"""Which files make edgerun a service of systemd, and what stands in them: a pure function of a `Plan`.

The files of the folder systemd/ are the originals; here the program's path, the user, the config and the groups that
exist are put in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import msgspec

from edgerun.errors import MissingError
from edgerun.service.plan import BoardName, Plan, quoted

UNITS = "etc/systemd/system"
SYSUSERS = "etc/sysusers.d/edgerun.conf"
TMPFILES = "etc/tmpfiles.d/edgerun.conf"

_BACK_OFF_SINCE = 254
"""RestartSteps= and RestartMaxDelaySec= came with systemd 254 (its NEWS)."""
_BOARD_FILES: Mapping[BoardName, str] = {
    "pi": "25-raspberry-pi.conf",
    "jetson": "25-jetson.conf",
    "coral": "25-coral.conf",
}
_PROGRAM = "/opt/edgerun/bin/edgerun "
_GROUPS = "SupplementaryGroups="


class File(msgspec.Struct, frozen=True):
    """A file below the root of the file system, `path` without its first slash; or a link, where `target` is given."""

    path: str
    text: str = ""
    target: str | None = None


def originals() -> Path:
    """The folder of the units that ship with edgerun. Raises `MissingError`."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_systemd", package.parent / "systemd"):
        if (folder / "edgerun.service").is_file():
            return folder
    raise MissingError(
        "the units that ship with edgerun are not there",
        where=package / "_systemd",
        remedy="pip install --force-reinstall edgerun",
    )


def unit_name(instance: str | None) -> str:
    """The unit that is started: `edgerun.service`, or `edgerun@yard.service`."""
    return "edgerun.service" if instance is None else f"edgerun@{instance}.service"


def default_config(instance: str | None) -> str:
    """The config of a unit that says nothing else."""
    return f"/etc/edgerun/{instance or 'edgerun'}.toml"


def compose(plan: Plan, folder: Path) -> list[File]:
    """Every file of the service as `plan` wants it, from the originals in `folder`."""
    files = []
    for unit in ("edgerun.service", "edgerun@.service"):
        text = (folder / unit).read_text(encoding="utf-8")
        files.append(File(f"{UNITS}/{unit}", text.replace(_PROGRAM, " ".join(map(quoted, plan.program)) + " ")))
        files += [File(f"{UNITS}/{unit}.d/{name}", text) for name, text in _shared_drop_ins(plan, folder)]
    name = unit_name(plan.instance)
    files += [File(f"{UNITS}/{name}.d/{drop_in}", text) for drop_in, text in _own_drop_ins(plan)]
    if plan.user == "edgerun":
        files.append(File(SYSUSERS, (folder / "sysusers.d" / "edgerun.conf").read_text(encoding="utf-8")))
    files.append(File(TMPFILES, _tmpfiles(plan, folder)))
    link = "edgerun.service" if plan.instance is None else "edgerun@.service"
    files.append(File(f"{UNITS}/multi-user.target.wants/{name}", target=f"/{UNITS}/{link}"))
    return files


def _shared_drop_ins(plan: Plan, folder: Path) -> Iterator[tuple[str, str]]:
    names = ["15-restart-backoff.conf"] if (plan.systemd_version or 0) >= _BACK_OFF_SINCE else []
    names += ["20-devices.conf"]
    names += [_BOARD_FILES[board] for board in get_args(BoardName) if board in plan.boards]
    names += ["30-strict-wx.conf"] if plan.strict_wx else []
    for name in names:
        text = (folder / "drop-ins" / name).read_text(encoding="utf-8")
        yield name, "".join(_with_groups(line, plan.groups) for line in text.splitlines(keepends=True))


def _with_groups(line: str, known: frozenset[str]) -> str:
    """A line of a drop-in; of groups only those that exist, since one that does not keeps the service from starting."""
    if not line.startswith(_GROUPS):
        return line
    wanted = line.removeprefix(_GROUPS).split()
    missing = [group for group in wanted if group not in known]
    there = [group for group in wanted if group in known]
    note = f"# not on this system: {' '.join(missing)}\n" if missing else ""
    return note + (f"{_GROUPS}{' '.join(there)}\n" if there else "")


def _own_drop_ins(plan: Plan) -> Iterator[tuple[str, str]]:
    """What is true of the one unit that is installed."""
    if plan.user != "edgerun":
        yield "10-user.conf", f"[Service]\nUser={plan.user}\nGroup={plan.group}\n"
    if plan.config != default_config(plan.instance):
        yield "10-config.conf", f"[Service]\nEnvironment={quoted(f'EDGERUN_CONFIG={plan.config}')}\n"
    if plan.homes:
        yield "10-home.conf", "# The program or its config lies in a home.\n[Service]\nProtectHome=read-only\n"


def _tmpfiles(plan: Plan, folder: Path) -> str:
    text = (folder / "tmpfiles.d" / "edgerun.conf").read_text(encoding="utf-8")
    return text.replace(" root edgerun ", f" root {plan.group} ").replace(
        " edgerun edgerun ", f" {plan.user} {plan.group} "
    )
