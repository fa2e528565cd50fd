"""A box that goes down with a full spool, in order or by a power cut, and what a broker gets of it after the next boot.

The state folder lies on the host's disk; the broker is a real mosquitto on the host's loopback, which the second boot
shares. The witness is a file in which every result of the first boot stands.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inside import read_lines
from spooling import CONFIG, DONE, WITNESS

from tests import mosquitto

Boot = Callable[..., dict[str, Any]]
_MAY_BE_LOST_S = 1.0
"""Of a cut: as much as in tests/delivery. Promised is 0.1 s, which a machine under load may miss."""
_LIMIT_S = 240.0
_SPOOL_FAULTS = {"spool_broken", "spool_dropped", "spool_damaged", "spool_set_aside"}


class Failed(Exception):
    """Not what was promised."""


def run(state: Path, prepared: Callable[..., Any], boot: Boot, *, cut: bool) -> dict[str, Any]:
    """Boot, fill, go down, boot again, drain; one run with the scenarios of both boots and the verdict."""
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    how = [f"--bind={state}:/var/lib/edgerun"]
    with (
        mosquitto.broker(start=False) as broker,
        prepared(CONFIG.format(port=broker.port), f"/var/lib/edgerun/{WITNESS}"),
    ):
        cuts: list[tuple[float, str]] = []
        first = boot("cut" if cut else "full", how, lambda told, process: _cut(told, process, cuts))
        for _, told in cuts:
            first["done"] = True
            first["scenarios"].append({"name": "spool fills", "ok": True, "told": told, "seconds": 0.0})
        if not first["done"] or cut != bool(cuts):
            return {**first, "done": False}
        began = time.monotonic()
        verdict = {"name": "reboot with a full spool", "ok": True, "told": "", "seconds": 0.0}
        broker.start()
        with mosquitto.subscriber(broker, "edgerun/box/#") as seen:
            witness = read_lines((state / WITNESS).read_bytes())
            promised = [one["id"] for one in witness if not cut or _published_s(one) < cuts[0][0] - _MAY_BE_LOST_S]
            with _watching(seen, promised, state / DONE):
                second = boot("drain", how, None)
            try:
                verdict["told"] = check(witness, promised, seen.messages, cut=cut)
            except Failed as error:
                verdict["ok"], verdict["told"] = False, str(error)
    verdict["seconds"] = round(time.monotonic() - began, 1)
    print(f"{'ok  ' if verdict['ok'] else 'FAIL'}  {verdict['name']}: {verdict['told']}", file=sys.stderr, flush=True)
    shutil.rmtree(state)
    return {**first, "done": first["done"] and second["done"],
            "scenarios": [*first["scenarios"], *second["scenarios"], verdict]}  # fmt: skip


def check(
    witness: Sequence[dict[str, Any]], promised: Sequence[str], heard: Sequence[mosquitto.Heard], *, cut: bool
) -> str:
    """What a broker got, held against what was published before. Raises `Failed`."""
    made = {one["id"]: one for one in witness}
    came = [json.loads(one.payload) for one in heard if "/detections/" in one.topic]
    old = [one for one in came if one["id"].partition("-")[0] == witness[0]["id"].partition("-")[0]]
    ids = [one["id"] for one in old]
    lost = [one["id"] for one in witness if one["id"] not in set(ids)]
    events = [json.loads(one.payload)["kind"] for one in heard if one.topic.endswith("/event")]
    live = len(came) - len(old)
    unsaid = set() if ("unclean_stop" in events) == cut else {"wrong", *events}
    for wrong, what in (
        (set(promised) - set(ids), "promised and lost"),
        (set(lost) - set(list(made)[len(made) - len(lost) :]), "lost, and not the newest"),
        (set(ids) - made.keys(), "never published"),
        ({one["id"] for one in old if not one.pop("replayed", False)}, "not marked as replayed"),
        ({one["id"] for one in old if one != made.get(one["id"])}, "not what was published"),
        (_SPOOL_FAULTS & set(events), "told"),
        (set() if len(set(ids)) == len(ids) else {"twice"}, "came"),
        (set() if live else {"no result"}, "live beside the replay"),
        (unsaid, "`unclean_stop` after a cut, and then alone"),
    ):
        if wrong:
            raise Failed(f"{what}: {sorted(wrong)[:5]}, {len(wrong)} in all")
    for stream in {one["stream"] for one in witness}:
        seqs = [one["seq"] for one in old if one["stream"] == stream]
        if seqs != sorted(seqs):
            raise Failed(f"{stream} is not in order")
    newest = f", the {len(lost)} newest lost" if lost else ", none lost"
    return (
        f"{len(made)} published before, {len(promised)} of them promised, {len(old)} replayed{newest}, none twice, "
        f"each stream in order; {live} live ones meanwhile; " + ("`unclean_stop` is told" if cut else "a clean stop")
    )


def _published_s(result: dict[str, Any]) -> float:
    return float(result["ts"]) + float(result["age_ms"]) / 1000


def _cut(told: dict[str, Any], process: subprocess.Popen[str], cuts: list[tuple[float, str]]) -> None:
    """The power goes: the supervisor and the first process of the system are killed, and the kernel ends the rest."""
    if "cut" not in told:
        return
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    cuts.append((time.time(), told["cut"]))
    for pid in (*map(int, children), process.pid):
        os.kill(pid, signal.SIGKILL)
    mosquitto.wait_until(lambda: not any(map(_lives, children)), 20, "the system's end")


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def _watching(seen: mosquitto.Subscriber, promised: Sequence[str], done: Path) -> Iterator[None]:
    """Puts the file `done` there when all that is promised has come."""
    over = threading.Event()

    def look() -> None:
        missing, at = set(promised), 0
        until_s = time.monotonic() + _LIMIT_S
        while missing and time.monotonic() < until_s and not over.wait(0.2):
            messages = seen.messages
            missing -= {json.loads(one.payload)["id"] for one in messages[at:] if "/detections/" in one.topic}
            at = len(messages)
        over.wait(3)  # for what should not come: a second time, out of order
        done.touch()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
