"""Measure models on another device: copy them there with scp, run its `edgerun bench` over ssh, and clean up.

Nothing but the ssh programs is needed here, and `edgerun` there. Hosts, users, ports and keys are ssh's own business
(ssh_config(5)); a password is never asked for, since nobody may be there to type it.
"""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edgerun.bench.compare import Comparison
from edgerun.bench.engine import Plan, Report, Round, summarise_rounds
from edgerun.bench.samples import Spread
from edgerun.convert.measure import Entry, Measurement, as_measured, notes_on
from edgerun.convert.parts import Progress
from edgerun.decoding import decode
from edgerun.errors import ConfigError, DeviceError, EngineError, MissingError

_log = logging.getLogger(__name__)
_Kind = TypeVar("_Kind")

_HOST = re.compile(r"[A-Za-z0-9_.@:%\[\]-]{1,255}")
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15")
_FAILED, _NOT_FOUND, _MISSING = 255, 127, 4
"""What ssh returns of its own (ssh(1)), what a shell does for a command it has not (POSIX), and `edgerun` itself."""
_COPY_TIMEOUT_S = 900.0
_SHORT_TIMEOUT_S = 60.0
_SPARE_S = 300.0
"""To start Python and load the models on a slow device, beyond the rounds themselves."""


def measure_on(host: str, entries: Sequence[Entry], threads: int, plan: Plan, progress: Progress) -> Measurement:
    """The `entries` measured on `host`, each against the first, in alternating rounds.

    With more than two entries the first is measured several times; its figures are the medians of all its rounds.
    Raises `ConfigError` for a host that ssh could take for an option, `MissingError` where a program is missing here
    or there, `EngineError` where a model does not run there, and `DeviceError` where the host cannot be reached.
    """
    if host.startswith("-") or not _HOST.fullmatch(host):
        raise ConfigError("not a host", where="--on", expected="HOST or USER@HOST as ssh takes it", got=repr(host))
    progress(f"copying to {host}", 0, len(entries))
    folder = _run(host, "mktemp -d").strip().splitlines()[-1:]
    if not folder or not folder[0].startswith("/"):
        raise DeviceError("no folder could be made", where=host, expected="what mktemp -d prints", got=folder)
    try:
        return _measure_in(folder[0], host, entries, threads, plan, progress)
    finally:
        try:
            _run(host, f"rm -rf {shlex.quote(folder[0])}")
        except DeviceError as error:
            _log.warning("%s: %s stays behind: %s", host, folder[0], error)


def _measure_in(
    folder: str, host: str, entries: Sequence[Entry], threads: int, plan: Plan, progress: Progress
) -> Measurement:
    there = {}
    for at, one in enumerate(entries):
        progress(f"copying {one.name} to {host}", at, len(entries))
        there[one.name] = f"{folder}/{at}{one.path.suffix}"
        _copy(host, one.path, there[one.name])
    first, *others = entries
    reports: dict[str, Report] = {}
    firsts: list[Round] = []
    ratios: dict[str, dict[str, Spread]] = {}
    for at, other in enumerate(others):
        progress(f"measuring {other.name} on {host}", at, len(others))
        words = ["--compare", there[first.name], there[other.name]]
        found = _bench(host, words, threads, plan, _Compared)
        firsts += found.a.rounds
        reports[first.name], reports[other.name] = found.a, found.b
        ratios[other.name] = found.ratios
    if not others:
        reports[first.name] = _bench(host, [there[first.name]], threads, plan, _Reported)
    else:
        figures = msgspec.structs.asdict(summarise_rounds(firsts))
        reports[first.name] = msgspec.structs.replace(reports[first.name], **figures)
    progress(f"measuring on {host}", len(others), len(others))
    measured = [as_measured(one, host, reports[one.name], _peak(reports[one.name])) for one in entries]
    return Measurement(tuple(measured), ratios, notes_on(reports, host))


class _Reported(Report, frozen=True, omit_defaults=True, kw_only=True):
    """What another version may say beyond our own."""

    peak_rss_mib: float | None = None


class _Compared(Comparison, frozen=True):
    a: _Reported
    b: _Reported


def _peak(report: Report) -> float | None:
    return report.peak_rss_mib if isinstance(report, _Reported) else None


def _bench(host: str, words: Sequence[str], threads: int, plan: Plan, kind: type[_Kind]) -> _Kind:
    """What `edgerun bench … --json` says there."""
    duration_s = plan.duration_s or 1.0
    command = ["edgerun", "bench", *words, "--threads", str(threads), "--warmup", str(plan.warmup)]
    command += ["--rounds", str(plan.rounds), "--duration", f"{duration_s:g}", "--json"]
    # A login shell knows the PATH that its user has set; one that runs a single command does not.
    line = f"sh -lc {shlex.quote(shlex.join(command))}"
    done = _ssh(host, line, _SPARE_S + 4 * plan.rounds * duration_s)
    said = _last_line(done.stderr)
    if done.returncode == _NOT_FOUND:
        raise MissingError(
            "edgerun is not installed there, or not on the PATH of a login shell",
            where=host,
            got=said,
            remedy="install it there: pip install edgerun",
        )
    if done.returncode:
        error = MissingError if done.returncode == _MISSING else EngineError
        raise error("edgerun bench failed there", where=host, got=said)
    out = done.stdout
    try:
        return decode(out.strip().rpartition("\n")[2].encode(), kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise DeviceError(
            "what edgerun bench printed there is no report",
            where=host,
            got=f"{error}: {out.strip()[-200:]!r}",
            remedy="install the same version of edgerun on both",
        ) from error


def _copy(host: str, source: Path, target: str) -> None:
    where = f"[{host}]" if ":" in host and not host.startswith("[") else host
    command = ["scp", "-q", "-r", *_OPTIONS, "--", str(source), f"{where}:{target}"]
    done = _call(command, host, _COPY_TIMEOUT_S)
    if done.returncode:
        raise DeviceError("the model cannot be copied there", where=host, got=_last_line(done.stderr))


def _run(host: str, command: str) -> str:
    """Standard output of `command`, which the shell of `host` runs. Raises `DeviceError` when it fails."""
    done = _ssh(host, command, _SHORT_TIMEOUT_S)
    if done.returncode:
        raise DeviceError(f"`{command}` failed there", where=host, got=_last_line(done.stderr))
    return done.stdout


def _ssh(host: str, command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    done = _call(["ssh", *_OPTIONS, "--", host, command], host, timeout_s)
    if done.returncode == _FAILED:
        raise DeviceError(
            "the host cannot be reached over ssh",
            where=host,
            got=_last_line(done.stderr),
            remedy=f"make `ssh {host} true` work without a password (ssh-copy-id {host})",
        )
    return done


def _call(command: Sequence[str], host: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise MissingError(
            f"the program {command[0]} is not on PATH", remedy="install OpenSSH's client: apt install openssh-client"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{command[0]} did not end within {timeout_s:g} s", where=host) from error


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:300] or "nothing on standard error"
