"""The control socket, the audit log and the model store of a service in its sandbox."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import time
from pathlib import Path

import changes
from inside import CONFIG, EDGERUN, RUN, UNIT, Failed, expect, journal, sh, show, up, wait_for

_SOCKET = RUN / "control.sock"
_STATE = Path("/var/lib/edgerun")
_HEALTH = Path(f"/etc/systemd/system/{UNIT}.d/96-health.conf")
_MODEL = "/opt/edgerun/lib/python3.11/site-packages/edgerun/_bundled/ssd-mobilenet-v2-oid"
_SILENT = CONFIG.index("[streams.silent]")


def in_sandbox(*words: str) -> tuple[bool, str]:
    """Run it as systemd runs what belongs to the service: its user, its name spaces, its system calls. Whether it
    succeeded, and what it said. ExecReload= is the one command of a service that may be run again and again.
    """
    _HEALTH.write_text(f"[Service]\nExecReload=\nExecReload={' '.join(words)}\n")
    sh("systemctl", "daemon-reload")
    since, pid = time.time(), show("MainPID")
    try:
        done = subprocess.run(["systemctl", "reload", UNIT], capture_output=True, text=True, timeout=120, check=False)
    finally:
        _HEALTH.unlink()
        sh("systemctl", "daemon-reload")
    expect("process", (show("MainPID"), up()), (pid, True))
    return done.returncode == 0, journal(since)


def control_socket() -> str:
    """Who may: root, the service's user, its group; nobody else."""
    found = _SOCKET.stat()
    socket = (stat.filemode(found.st_mode), _SOCKET.owner(), _SOCKET.group())
    expect("socket", socket, ("srw-rw----", "edgerun", "edgerun"))
    expect("its folder", (stat.filemode(RUN.stat().st_mode), RUN.group()), ("drwxr-x---", "edgerun"))
    alive = [EDGERUN, "control", "alive"]
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup"]
    sh(*alive)
    sh("runuser", "-u", "edgerun", "--", *alive)
    sh(*nobody, f"--groups={found.st_gid}", *alive)
    stranger = subprocess.run([*nobody, "--clear-groups", *alive], capture_output=True, text=True, check=False)
    if not stranger.returncode or "Permission denied" not in stranger.stderr:
        raise Failed(f"a stranger is let in: {stranger}")
    told = sh(*alive, "--json")
    expect("answer", json.loads(told)["ok"], True)
    return "0660 edgerun:edgerun; root, its user and its group may, a stranger may not"


def health() -> str:
    """`edgerun control ready` says no while a stream gives nothing, and yes without that stream; `reload` waits."""
    ok, log = in_sandbox(EDGERUN, "control", "ready")
    if ok or "no results from silent" not in log:
        raise Failed(f"ready with a silent stream: {log[-2000:]}")
    changes.put_config(CONFIG[:_SILENT] + changes.METRICS)
    sh(EDGERUN, "control", "reload")
    expect("ready, alive", [in_sandbox(EDGERUN, "control", verb)[0] for verb in ("ready", "alive")], [True, True])
    changes.put_config(CONFIG + changes.METRICS + "[streams.wrong]\n")
    wrong = subprocess.run([EDGERUN, "control", "reload"], capture_output=True, text=True, check=False)
    if not wrong.returncode or "streams.wrong" not in wrong.stderr:
        raise Failed(f"a wrong config is taken: {wrong}")
    changes.put_config(CONFIG + changes.METRICS)
    sh(EDGERUN, "control", "reload")
    return "`control ready` fails and names the silent stream; without that stream it succeeds; `control reload` waits"


def audit_log() -> str:
    """Start, reloads and commands are on record, in files of the service alone, and the chain is whole."""
    folder = changes.audit_folder()
    modes = {(path.owner(), stat.filemode(path.stat().st_mode)) for path in folder.rglob("*") if path.is_file()}
    expect("files", modes, {("edgerun", "-rw-------")})
    ok, log = in_sandbox(EDGERUN, "audit", "verify")
    expect(f"verified: {log[-500:]}", ok, True)
    kinds = [one["what"] for one in changes.audited()]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    if not {"start", "reload", "command"} <= counts.keys():
        raise Failed(f"not on record: {counts}")
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"written and verified in the sandbox, 0600: {told}"


def store() -> str:
    """A model is installed, listed and verified from within the sandbox."""
    for words in (("add", _MODEL), ("verify", "ssd-mobilenet-v2-oid"), ("list",)):
        ok, log = in_sandbox(EDGERUN, "models", *words)
        expect(f"models {words[0]}: {log[-1000:]}", ok, True)
    (found,) = (path for path in (_STATE / "models").iterdir() if re.match(r"\w", path.name))
    expect("its owner", (found.name, found.owner()), ("ssd-mobilenet-v2-oid", "edgerun"))
    sh("systemctl", "restart", UNIT)
    wait_for("a start from the store", up, 30)
    sh("rm", "-r", str(found))
    sh("systemctl", "restart", UNIT)
    return "a model is added, verified and listed in the sandbox; the service starts with it"
