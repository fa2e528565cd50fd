"""Rollouts over a real broker to devices that answer through the real desk; a command that is killed and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgerun.control.desk import Desk
from edgerun.errors import ConfigError
from edgerun.fleet import keeping
from edgerun.fleet.driver import Driver
from edgerun.fleet.plan import Plan, Progress
from tests import mosquitto
from tests.fleet.parts import TestDevice, opened, publish, retained

GOOD = {"state": "active"}
BAD = {"state": "rolled_back", "reason": "disagreement 0.71"}


@contextlib.contextmanager
def devices(broker: mosquitto.Broker, outcomes: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, TestDevice]]:
    made = {}
    try:
        for name, outcome in outcomes.items():
            made[name] = TestDevice(broker, name, outcome)
        mosquitto.wait_until(lambda: all(one.link.connected for one in made.values()), what="all of them online")
        yield made
    finally:
        for one in made.values():
            one.close()


def roll(broker: mosquitto.Broker, path: Path, stages: tuple[float, ...] = (0.3, 1.0), **how: Any) -> Progress:
    with opened(broker) as line:
        plan = Plan(id="r1", model="detector", version="3", source="https://models.example/3.zip", stages=stages)
        driver = Driver(line, "edgerun", Progress(plan=plan, since=0.0), path, clock=lambda: 1.0, **how)
        deadline = threading.Event()
        timer = threading.Timer(60, deadline.set)
        timer.start()
        try:
            return driver.run(deadline.is_set)
        finally:
            timer.cancel()


def test_a_good_version_reaches_all_of_them(tmp_path: Path) -> None:
    names = [f"d{at}" for at in range(6)]
    with mosquitto.broker() as broker, devices(broker, dict.fromkeys(names, GOOD)) as made:
        ended = roll(broker, tmp_path / "r.json")
        assert (ended.state, ended.at) == ("done", 1)
        first = [made[name].asked[0] for name in names]
    assert all(len(one.asked) == 1 for one in made.values()), "nobody is asked twice"
    assert {one["share"] for one in first} == {0.3, 1.0}, "in stages"
    assert {(one["name"], one["version"], one["rollout"]) for one in first} == {("detector", "3", "r1")}
    assert keeping.load(tmp_path / "r.json") == ended


def test_a_bad_version_halts_it_and_is_taken_back(tmp_path: Path) -> None:
    outcomes = {f"d{at}": BAD if at % 2 else GOOD for at in range(6)}
    with mosquitto.broker() as broker, devices(broker, outcomes) as made:
        ended = roll(broker, tmp_path / "r.json", (1.0,), take_back=True)
        assert ended.state == "halted"
        assert "disagreement 0.71" in ended.reason
        mosquitto.wait_until(lambda: sum(bool(one.asked[1:]) for one in made.values()) == 3, what="all that have it")
    back = {name for name, one in made.items() if any(asked.get("back") for asked in one.asked)}
    assert back == {"d0", "d2", "d4"}, "those that have it, and no others"


def test_who_has_not_begun_when_it_is_halted_is_taken_back_too(tmp_path: Path) -> None:
    """Its command is still on the way: it says nothing of the rollout before that was halted."""
    with mosquitto.broker() as broker, devices(broker, {"d0": GOOD, "d1": BAD}) as made:
        late, begins = made["d0"], threading.Event()
        install = late._install

        def begin(arguments: Mapping[str, Any]) -> dict[str, Any]:
            begins.set()
            mosquitto.wait_until(lambda: '"halted"' in (tmp_path / "r.json").read_text(), 30, "the halt")
            return install(arguments)

        late.desk = Desk({"model/install": begin, "model/rollback": late._rollback})
        ended = roll(broker, tmp_path / "r.json", (1.0,), take_back=True)
        assert begins.is_set()
    assert ended.state == "halted"
    assert [bool(one.get("back")) for one in late.asked] == [False, True]
    assert not any(one.get("back") for one in made["d1"].asked), "it went back by itself"


def test_devices_that_refuse_halt_it_with_what_they_say(tmp_path: Path) -> None:
    error = {"error": ConfigError("this model is not one of the store")}
    with mosquitto.broker() as broker, devices(broker, dict.fromkeys(["d0", "d1"], error)):
        ended = roll(broker, tmp_path / "r.json", (1.0,))
    assert ended.state == "halted"
    assert set(ended.refused) <= {"d0", "d1"}
    assert "refused" in ended.reason
    assert "not one of the store" in ended.reason


def fleet(*args: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgerun", "fleet", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def rollout_args(broker: mosquitto.Broker, path: Path, *more: object) -> list[object]:
    what = ["rollout", "--broker", broker.url, "--model", "detector", "--version", "3", "--state", path]
    return [*what, "--stages", "100%", *more]


def test_status_tells_a_person_and_a_program() -> None:
    with mosquitto.broker() as broker:
        evil = retained("d2", {"site": "south"}, "stalled")
        publish(broker, [*retained("d1", {"site": "north"}), *evil])
        shown = fleet("status", "--broker", broker.url)
        told = fleet("status", "--broker", broker.url, "--label", "site=north", "--json")
        nobody = fleet("status", "--broker", broker.url, "--label", "site=west", "--json")
    for one in (shown, told, nobody):
        assert one.returncode == 0, one.stderr
    assert "2 devices: 2 online, 0 offline, 1 with alarms" in shown.stdout
    assert "! dock stalled: no frames" in shown.stdout
    assert "model detector: 2 on 2" in shown.stdout
    assert list(json.loads(told.stdout)["devices"]) == ["d1"]
    assert json.loads(nobody.stdout)["summary"]["devices"] == 0


def test_a_rollout_that_is_killed_is_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    slow = {"state": "canary"}
    with mosquitto.broker() as broker, devices(broker, {"d0": GOOD, "d1": slow}) as made:
        words = [sys.executable, "-m", "edgerun", "fleet", *map(str, rollout_args(broker, path, "--enough", "100%"))]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        mosquitto.wait_until(lambda: made["d1"].asked and made["d0"].asked, 60, "both asked")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        kept = keeping.load(path)
        assert kept is not None
        assert (kept.state, set(kept.asked)) == ("running", {"d0", "d1"})
        other = fleet(*rollout_args(broker, path, "--source", "https://other.example/3.zip"))
        assert other.returncode == 2, "another one is kept there"
        made["d1"]._outcome = GOOD
        made["d1"]._install({"name": "detector", "version": "3", "rollout": "detector-3"})
        done = fleet(*rollout_args(broker, path, "--json"))
        again = fleet(*rollout_args(broker, path, "--json"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["state"], told["devices"], told["asked"]) == ("done", {"good": 2}, 2)
    assert len(made["d0"].asked) == 1, "who was asked before is not asked again"
    assert json.loads(again.stdout)["state"] == "done"


def test_labels_that_no_device_has_are_told_and_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with mosquitto.broker() as broker, devices(broker, {"d0": GOOD}) as made:
        refused = fleet(*rollout_args(broker, path, "--label", "site=nort"))
        assert not made["d0"].asked
    assert refused.returncode == 2
    assert "no device has these labels; expected of" in refused.stderr
    assert "got site=nort" in refused.stderr
    assert not path.exists()


def test_a_halted_one_says_why_and_stays_halted(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with mosquitto.broker() as broker, devices(broker, {"d0": BAD}):
        halted = fleet(*rollout_args(broker, path))
        again = fleet(*rollout_args(broker, path))
        anyway = fleet(*rollout_args(broker, path, "--anyway", "--limit", "100%"))
    assert (halted.returncode, again.returncode) == (3, 2), halted.stderr + again.stderr
    assert "halted at the share 1: 1 of 1 in this stage failed (1 went back)" in halted.stdout
    assert "--anyway" in again.stderr
    assert anyway.returncode == 0, "its limit is another now"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["status", "--broker", "broker.example"], "--broker"),
        (["status", "--broker", "mqtt://u:pw@h", "--label", "site"], "--label"),
        (["status", "--broker", "mqtt://127.0.0.1:1"], "cannot be reached"),
        (["rollout", "--broker", "mqtt://h", "--model", "m", "--version", "3", "--stages", "9%,1%"], "--stages"),
        (["rollout", "--broker", "mqtt://h", "--model", "m", "--version", "3", "--limit", "200%"], "--limit"),
        (["rollout", "--broker", "mqtt://h", "--model", "m", "--version", "3", "--rate", "0"], "--rate"),
        (["rollout", "--broker", "mqtt://h", "--model", "m", "--version", "3", "--sha256", "ab"], "--sha256"),
        (
            ["rollout", "--broker", "mqtt://h", "--model", "m", "--version", "3", "--source", "http://h/m.zip"],
            "--source",
        ),
        (
            ["rollout", "--broker", "mqtt://h", "--model", "m", "--version", "3", "--source", "https://u:pw@h:x/"],
            "--source",
        ),
        (["rollout", "--broker", "mqtt://h", "--model", "m", "--version", "3", "--source", "pypi:m"], "--source"),
    ],
)
def test_mistakes_are_told_in_a_paragraph(args: list[str], says: str) -> None:
    done = fleet(*args)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "pw" not in done.stderr
