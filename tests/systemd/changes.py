"""Reloads under a real systemd: what it sees, what changes, and what goes on."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from inside import CONFIG, EDGERUN, UNIT, Failed, expect, journal, never, results, sh, show, up, wait_for

ETC = Path("/etc/edgerun/edgerun.toml")
METRICS = "[metrics]\nport = 9464\n"
_YARD = """
[models.second]
path = "ssd-mobilenet-v2-oid"
threads = 1
[streams.yard]
source = {{ kind = "synthetic", fps = 5, size = [{width}, 240] }}
model = "second"
"""
_WRONG = """
[models.third]
path = "no-such-model"
[streams.yard]
source = { kind = "synthetic", fps = -5 }
model = "second"
treshold = 0.5
"""


class States(threading.Thread):
    """The unit's states, as systemd gives them while this is entered; each that follows another, once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            now = show("ActiveState")
            if self.seen[-1:] != [now]:
                self.seen.append(now)

    def __enter__(self) -> States:
        self.start()
        wait_for("a first state", lambda: self.seen, 10)
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()


def counters() -> dict[str, float]:
    """Frames that became results, by stream, as Prometheus would read them."""
    with urllib.request.urlopen("http://127.0.0.1:9464/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("edgerun_frames_total{") and 'fate="published"' in line]
    return {line.partition('stream="')[2].partition('"')[0]: float(line.split()[-1]) for line in found}


def sizes(stream: str) -> list[int]:
    """The widths of its pictures, each that follows another once."""
    widths = [one["frame"]["w"] for one in results() if one["stream"] == stream]
    return [width for at, width in enumerate(widths) if at == 0 or widths[at - 1] != width]


def put_config(text: str) -> None:
    ETC.write_text(text)


def reloaded(text: str, how: tuple[str, ...] = ("systemctl", "reload", UNIT)) -> tuple[str, float]:
    """Have the config `text` taken over; what the audit log says of it, and the seconds until it did."""
    before, began = len(reloads()), time.monotonic()
    put_config(text)
    with States() as states:
        sh(*how)
        wait_for("the end of the reload", lambda: len(reloads()) > before, 60)
        took = time.monotonic() - began
        wait_for("the state after it", lambda: states.seen[-1] == "active", 10)
    expect("states", states.seen, ["active", "reloading", "active"])
    return reloads()[-1]["changed"], took


def reload() -> str:
    """A stream and its model are added, changed, and taken away; "dock" goes on as if nothing were."""
    pid, restarts, before = show("MainPID"), show("NRestarts"), counters()
    said = []
    said.append(reloaded(CONFIG + METRICS + _YARD.format(width=320)))
    wait_for("results of the added stream", lambda: sizes("yard") == [320], 30)
    added = counters()
    hang_up = ("systemctl", "kill", "--kill-whom=main", "--signal=HUP", UNIT)
    said.append(reloaded(CONFIG + METRICS + _YARD.format(width=160), hang_up))
    wait_for("results of the changed stream", lambda: sizes("yard") == [320, 160], 30)
    changed = counters()
    said.append(reloaded(CONFIG + METRICS))
    expect("process", (show("MainPID"), show("NRestarts"), up()), (pid, restarts, True))
    for (what, _), mark in zip(said, ("added yard", "yard", "removed yard"), strict=True):
        if mark not in what or "dock" in what:
            raise Failed(f"the audit log does not say {mark!r} alone: {what!r}")
    dock = [one for one in results() if one["stream"] == "dock"]
    expect("runs", len({one["id"].partition("-")[0] for one in results()}), 1)
    seqs = [one["seq"] for one in dock]
    expect("order of dock", seqs, sorted(set(seqs)))
    expect("gaps of dock", [one["seq"] for one in dock if one.get("gap")], [])
    if not before["dock"] < added["dock"] < changed["dock"] or changed["yard"] <= added["yard"]:
        raise Failed(f"counters do not run on: {before}, {added}, {changed}")
    took = ", ".join(f"{seconds:.1f} s" for _, seconds in said)
    return (
        f"active, reloading, active in the same process; a stream with its model added, changed, removed in {took}; "
        f"the other one's counter runs on ({before['dock']:.0f}, {added['dock']:.0f}, {changed['dock']:.0f}), no gap"
    )


def refused() -> str:
    """A config with three mistakes: all are told, nothing changes."""
    pid, since, before = show("MainPID"), time.time(), counters()
    put_config(CONFIG + METRICS + _WRONG)
    sh("systemctl", "reload", UNIT)
    wait_for("the refusal", lambda: journal(since).count("not changed:") >= 3, 30)
    never.wait(1)
    log = journal(since)
    for what in ("no-such-model", "fps", "treshold"):
        if not any("not changed:" in line and what in line for line in log.splitlines()):
            raise Failed(f"{what} is not told: {log[-2000:]}")
    told = log.count("not changed:")
    expect("process", (show("MainPID"), up()), (pid, True))
    wait_for("results after it", lambda: counters()["dock"] > before["dock"], 30)
    expect("on record as done", reloads()[-1]["ok"], False)
    put_config(CONFIG + METRICS)
    return f"the same process goes on; the journal has all {told} mistakes"


def reloads() -> list[dict[str, Any]]:
    """What the audit log has of them."""
    return [one for one in audited() if one["what"] == "reload"]


def audited() -> list[dict[str, Any]]:
    folder = str(audit_folder())
    return list(json.loads(sh(EDGERUN, "audit", "show", "--last", "0", "--json", "--folder", folder))["records"])


def audit_folder() -> Path:
    return next(Path("/var/lib/edgerun/audit").iterdir())
