"""A box whose broker is away until its spool is full, and the same box after the next boot."""

from __future__ import annotations

from pathlib import Path

from inside import EDGERUN, Failed, expect, never, read_lines, results_flow, sh, show, tell, up, wait_for

STATE = Path("/var/lib/edgerun")
WITNESS = "witness.jsonl"
DONE = "all-came"
"""A file that whoever listens at the broker puts into the state folder."""
ENOUGH = 400
CONFIG = """\
[device]
id = "box"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
username = "box"
password = {{ credential = "mqtt-password" }}
[models.detector]
path = "ssd-mobilenet-v2-oid"
threads = 1
[streams.dock]
source = {{ kind = "synthetic", fps = 15, size = [320, 240] }}
model = "detector"
[streams.yard]
source = {{ kind = "synthetic", fps = 15, size = [320, 240] }}
model = "detector"
"""


def fill() -> str:
    """The broker cannot be reached until some hundred results are spooled; then the system goes down in order."""
    wait_for("its start at boot", lambda: up() and results_flow(), 120)
    wait_for("enough results", lambda: _count() >= ENOUGH, 240)
    if "broker away" not in show("StatusText"):
        raise Failed(f"the broker is not away: {show('StatusText')!r}")
    size = sum(path.stat().st_size for path in (STATE / "spool").rglob("*.seg"))
    return f"{_count()} results with no broker, {size // 1024} KiB of spool on disk"


def fill_until_the_cut() -> str:
    told = fill()
    tell(cut=told)
    never.wait(60)
    raise Failed("nobody cut the power")


def drain() -> str:
    """After the boot: results flow, what was spooled is sent, the audit log is whole."""
    took = wait_for("its start at boot", lambda: up() and results_flow(), 120)
    wait_for("the end of the replay", (STATE / DONE).exists, 240)
    expect("restarts", show("NRestarts"), "0")
    sh(EDGERUN, "control", "ready")
    (audit,) = (STATE / "audit").iterdir()
    sh(EDGERUN, "audit", "verify", "--folder", str(audit))
    return f"starts by itself, results after {took:.1f} s; `control ready` succeeds, the audit log is whole"


def _count() -> int:
    return len(read_lines((STATE / WITNESS).read_bytes())) if (STATE / WITNESS).exists() else 0
