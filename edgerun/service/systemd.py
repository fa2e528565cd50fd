"""What is asked of systemd's own programs, and what they answer: systemctl(1), systemd-sysusers(8), -tmpfiles(8)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgerun.errors import DeviceError, MissingError

_LIMIT_S = 150.0
"""`systemctl start` waits until the service is ready: TimeoutStartSec= and a little."""
_ASKED = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "Result",
    "MainPID",
    "ExecMainStatus",
    "NRestarts",
    "StatusText",
    "ActiveEnterTimestamp",
    "MemoryCurrent",
    "CPUUsageNSec",
    "TasksCurrent",
)
_UNKNOWN = ("", "[not set]", "infinity", str((1 << 64) - 1))
"""How systemd writes a number that it does not have."""


class UnitStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One unit as systemd sees it; what it does not know is left out.

    `active`: active, activating, reloading, deactivating, inactive, failed. `result` says why it failed or ended last:
    success, watchdog, exit-code, signal, oom-kill, timeout …; `starts_at`: enabled, disabled, static.
    """

    unit: str
    loaded: bool
    active: str
    sub: str
    starts_at: str | None = None
    result: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    restarts: int | None = None
    text: str | None = None
    since: str | None = None
    memory_mib: float | None = None
    cpu_s: float | None = None
    tasks: int | None = None


def is_running(root: Path = Path("/")) -> bool:
    """Whether systemd is what started this system: sd_booted(3)."""
    return (root / "run/systemd/system").is_dir()


def require(what: str) -> None:
    """Raises `MissingError` where systemd does not run, or its programs are not there."""
    if not is_running() or shutil.which("systemctl") is None:
        raise MissingError(
            f"there is no systemd to {what}",
            where="/run/systemd/system",
            remedy="run `edgerun run --config FILE` under whatever starts services here, or prepare an image of a "
            "system with systemd by --root DIR",
        )


def run(words: Sequence[str], *, may_fail: bool = False) -> str:
    """What the command says. Raises `DeviceError` with its own words when it fails and may not, `MissingError` where
    it is not installed.
    """
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise MissingError(f"there is no {words[0]} here", remedy="apt-get install systemd") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError("says nothing", where=" ".join(words), expected=f"an end within {_LIMIT_S:g} s") from error
    if done.returncode and not may_fail:
        raise DeviceError(
            "failed",
            where=" ".join(words),
            got=" ".join(done.stderr.split())[:500] or f"exit code {done.returncode}",
            remedy="see `journalctl -u 'edgerun*' -n 50`" if "start" in words else None,
        )
    return done.stdout


def status() -> list[UnitStatus]:
    """All units of edgerun that systemd has loaded; `edgerun.service` first, also where it is not installed."""
    words = ["systemctl", "show", "--no-pager", f"--property={','.join(_ASKED)}", "edgerun.service"]
    return read_show(run([*words, "edgerun@*.service"]))


def read_show(text: str) -> list[UnitStatus]:
    """The answer of `systemctl show`: lines of KEY=VALUE, a blank line between two units."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        if "Id" in fields:
            found.append(_unit(fields))
    return found


def _unit(fields: dict[str, str]) -> UnitStatus:
    memory, cpu_ns = _number(fields, "MemoryCurrent"), _number(fields, "CPUUsageNSec")
    active = fields.get("ActiveState", "")
    return UnitStatus(
        unit=fields["Id"],
        loaded=fields.get("LoadState") == "loaded",
        active=active,
        sub=fields.get("SubState", ""),
        starts_at=fields.get("UnitFileState") or None,
        result=fields.get("Result") or None,
        pid=_number(fields, "MainPID") or None,
        exit_code=_number(fields, "ExecMainStatus") if active in ("failed", "activating") else None,
        restarts=_number(fields, "NRestarts"),
        text=fields.get("StatusText") or None,
        since=fields.get("ActiveEnterTimestamp") or None,
        memory_mib=None if memory is None else round(memory / (1 << 20), 1),
        cpu_s=None if cpu_ns is None else round(cpu_ns / 1e9, 1),
        tasks=_number(fields, "TasksCurrent"),
    )


def _number(fields: dict[str, str], key: str) -> int | None:
    value = fields.get(key, "")
    return int(value) if value not in _UNKNOWN and value.isdecimal() else None
