"""What the scenarios of the systemd tests stand on, inside the tree of tools/test-systemd: asking, waiting, telling.

Nothing but the standard library of the tree's Python.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EDGERUN = "/opt/edgerun/bin/edgerun"
UNIT = "edgerun.service"
RUN = Path("/run/edgerun")
WATCHDOG_S = 6
CONFIG = """\
[device]
id = "box"
[mqtt]
url = "mqtt://127.0.0.1:1"
username = "box"
password = { credential = "mqtt-password" }
[models.detector]
path = "ssd-mobilenet-v2-oid"
threads = 1
[streams.dock]
source = { kind = "synthetic", fps = 5 }
model = "detector"
[streams.silent]
source = { kind = "synthetic", fps = 5 }
model = "detector"
"""
SLOW_WATCHDOG_S = 180
"""Where the processor is emulated."""
never = threading.Event()


SEEN = RUN / "seen.jsonl"
"""Every result, as it is published: the witness of what the broker is to get."""


def drop_in(watchdog_s: int, seen: Path | str = SEEN) -> str:
    """The drop-in of the tests."""
    return (
        "[Service]\nEnvironment=PYTHONPATH=/edgerun-test/faults PYTHONDONTWRITEBYTECODE=1\n"
        f"WatchdogSec={watchdog_s}\nRestartSec=1\n"
        f"ExecStart=\nExecStart={EDGERUN} run --quiet --config ${{EDGERUN_CONFIG}} --jsonl {seen}\n"
    )


class Failed(Exception):
    """A scenario did not go as it should."""


def sh(*words: str, ok: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    if ok and done.returncode:
        raise Failed(f"{' '.join(words)}: {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def show(key: str, unit: str = UNIT) -> str:
    return sh("systemctl", "show", "--value", f"--property={key}", unit).strip()


def wait_for(what: str, condition: Callable[[], object], limit_s: float) -> float:
    """Poll until it is true; returns how long it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise Failed(f"{what} did not come true within {limit_s:g} s: {state()}")
        never.wait(0.02)
    return time.monotonic() - began


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise Failed(f"{what}: expected {wanted!r}, got {found!r}")


def state(unit: str = UNIT) -> str:
    keys = "ActiveState,SubState,Result,NRestarts,StatusText,ExecMainStatus"
    return " ".join(sh("systemctl", "show", f"--property={keys}", unit, ok=False).split())


def journal(since: float) -> str:
    return sh("journalctl", "--no-pager", "-o", "cat", "-u", UNIT, "--since", f"@{since:.6f}")


def results_flow(unit: str = UNIT) -> bool:
    found = re.search(r"([\d.]+) results/s", show("StatusText", unit))
    return bool(found) and float(found[1]) > 1


def up(unit: str = UNIT) -> bool:
    return show("ActiveState", unit) == "active"


def restarted_by(fault: Callable[[], object], limit_s: float) -> tuple[float, float, str]:
    """Seconds from the fault until systemd noticed, and until it is up again; the journal meanwhile."""
    restarts, since, pid = int(show("NRestarts")), time.time(), show("MainPID")
    fault()
    gone_s = wait_for("its end", lambda: show("MainPID") != pid, limit_s)
    up_s = wait_for("a restart", lambda: up() and int(show("NRestarts")) > restarts, 120)
    return gone_s, gone_s + up_s, journal(since)


def results(path: Path = SEEN) -> list[dict[str, Any]]:
    """What is in the witness; the line that is just being written is left out."""
    return read_lines(path.read_bytes()) if path.exists() else []


def read_lines(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split(b"\n")[:-1] if line]


def tell(**what: object) -> None:
    line = f"EDGERUN-TEST {json.dumps(what)}\n"
    with open("/dev/console", "w") as console:
        console.write(line)
