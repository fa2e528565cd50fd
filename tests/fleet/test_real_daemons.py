"""Rollouts to real daemons: real models on real pictures, one broker, and what every device makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgerun.models.rollout import in_cohort
from tests import mosquitto
from tests.fleet.daemons import daemons, fleet, id_with
from tests.mosquitto import Broker, Subscriber, wait_until
from tests.rollout.runs import NAME, bundle, garbage_weights

NAMES = ["gate-1", "gate-2", "yard-1"]
EASY: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
STAGES = ("--stages", "34%,100%", "--stage-timeout", 240)

pytestmark = pytest.mark.timeout(900)  # more than all that it may wait for


@pytest.fixture
def site() -> Iterator[tuple[Broker, Subscriber]]:
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "#") as seen:
        yield broker, seen


def rollout(broker: Broker, folder: Path, name: str, version: str, source: Path, *more: object) -> list[object]:
    what = ["rollout", "--broker", broker.url, "--model", "detector", "--version", version, "--source", source]
    return [*what, "--id", name, "--state", folder / f"{name}.json", "--json", *more]


def test_a_good_version_reaches_every_daemon(site: tuple[Broker, Subscriber], tmp_path: Path) -> None:
    broker, seen = site
    name = id_with(NAMES, 0.34, 1)
    with daemons(tmp_path, broker, seen, **EASY) as made:
        shown = fleet("status", "--broker", broker.url)
        north = fleet("status", "--broker", broker.url, "--label", "site=north", "--json")
        done = fleet(*rollout(broker, tmp_path, name, "3", bundle(tmp_path, "3"), *STAGES))
        assert done.returncode == 0, done.stderr + done.stdout
        for one in made.values():
            wait_until(lambda one=one: one.rollout().get("state") == "committed", 120, f"the end at {one.name}")
        after = fleet("status", "--broker", broker.url, "--json")
        accounts = [one.end() for one in made.values()]
    assert "3 devices: 3 online, 0 offline, 0 with alarms" in shown.stdout
    assert "model detector: 2 on 3" in shown.stdout
    assert set(json.loads(north.stdout)["devices"]) == {"gate-2", "yard-1"}
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["state"], told["devices"], told["asked"]) == ("done", {"good": 3}, 3)
    summary = json.loads(after.stdout)["summary"]
    assert summary["models"] == {"detector": {"3": 3}}
    assert summary["rollouts"] == {name: {"committed": 3}}
    for one in made.values():
        assert [asked["share"] for asked in one.asked()] == [0.34 if in_cohort(one.name, name, 0.34) else 1.0]
        assert one.versions() == ["2", "3"]
        assert one.store().record(NAME).active == "3"
    assert [account["failed"] for account in accounts] == [0, 0, 0]


def test_a_bad_version_ends_at_the_first_daemon(site: tuple[Broker, Subscriber], tmp_path: Path) -> None:
    broker, seen = site
    name = id_with(NAMES, 0.34, 1)
    bad = bundle(tmp_path, "3", model_tflite=garbage_weights())
    with daemons(tmp_path, broker, seen, **EASY) as made:
        halted = fleet(*rollout(broker, tmp_path, name, "3", bad, *STAGES, "--take-back"))
        status = fleet("status", "--broker", broker.url, "--json")
        accounts = [one.end() for one in made.values()]
    assert halted.returncode == 3, halted.stderr + halted.stdout
    told = json.loads(halted.stdout.splitlines()[-1])
    assert (told["state"], told["devices"], told["asked"], told["share"]) == ("halted", {"rolled_back": 1}, 1, 0.34)
    (first,) = [one for one in made.values() if in_cohort(one.name, name, 0.34)]
    assert told["reason"].startswith("1 of 1 in this stage failed (1 went back)")
    assert [bool(one.asked()) for one in made.values()] == [one is first for one in made.values()]
    (alarm,) = json.loads(status.stdout)["devices"][first.name]["alarms"]
    assert alarm.startswith("detector 3 rolled back: ")
    assert all(one.versions() == ["2"] for one in made.values()), "it never served"
    assert all(one.store().record(NAME).active == "2" for one in made.values())
    assert [account["failed"] for account in accounts] == [0, 0, 0]


def test_what_fails_on_one_daemon_is_taken_back_on_the_others(site: tuple[Broker, Subscriber], tmp_path: Path) -> None:
    broker, seen = site
    slow = {"latency_ratio": 0.001, "canary_frames": 100_000}  # what no model can be
    with daemons(tmp_path, broker, seen, **{**EASY, "yard-1": slow}) as made:
        what = rollout(broker, tmp_path, "r1", "3", bundle(tmp_path, "3"), "--stages", "100%", "--take-back")
        halted = fleet(*what)
        assert halted.returncode == 3, halted.stderr + halted.stdout
        for one in made.values():
            wait_until(lambda one=one: one.rollout().get("state") == "rolled_back", 120, f"the end at {one.name}")
            wait_until(lambda one=one: one.heard("detections/yard")[-1]["model"]["version"] == "2", 60, one.name)
            wait_until(lambda one=one: one.store().record(NAME).active == "2", 60, one.name)
        accounts = [one.end() for one in made.values()]
    told = json.loads(halted.stdout.splitlines()[-1])
    assert (told["state"], told["asked"]) == ("halted", 3)
    assert "1 went back" in told["reason"]
    assert "slow: " in made["yard-1"].rollout()["reason"]
    for name in ("gate-1", "gate-2"):
        assert "rollout r1 was halted" in made[name].rollout()["reason"]
    assert [account["failed"] for account in accounts] == [0, 0, 0]
