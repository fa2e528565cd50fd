"""Rollouts on a real daemon: real models on real pictures, a real broker, processes killed by real signals."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.models.rollout import ORDER
from edgerun.models.signing import sign_path
from tests import schemas
from tests.models.stores import KEY, trusting
from tests.mosquitto import wait_until
from tests.rollout.runs import (
    DETECTOR,
    NAME,
    Device,
    audit,
    bundle,
    garbage_weights,
    shuffled_labels,
    slow_weights,
)  # fmt: skip

pytestmark = pytest.mark.timeout(600)  # more than all that it may wait for


def test_a_good_update_goes_all_the_way(device: Device, tmp_path: Path) -> None:
    device.write()
    device.begin()
    answer = device.say("model/install", name="detector", source=str(bundle(tmp_path, "3")), rollout="spring")
    assert (answer["ok"], answer["version"], answer["previous"]) == (True, "3", "2"), answer
    device.wait_kind("committed")
    assert device.kinds() == ["staged", "verified", "shadow", "canary", "active", "committed"]
    device.wait_version("3")
    assert device.versions() == ["2", "3"]
    told = device.told_of("committed")
    assert (told["installed_version"], told["latest_version"], told["in_progress"]) == ("3", "3", False)
    assert told["rollout"]["comparison"]["disagreement"] == 0.0
    assert told["rollout"]["comparison"]["seen"] >= 5
    summary = device.end()
    stream = summary["streams"]["yard"]
    assert (stream["failed"], stream["expired"]) == (0, 0)
    assert device.kept().state == "committed"
    assert device.active() == "3"
    whats = [one["what"] for one in audit(device.state)]
    for what in ("command", "model_installed", "model_activated", "rollout_canary", "rollout_committed"):
        assert what in whats


def test_a_bad_one_never_serves(device: Device, tmp_path: Path) -> None:
    device.write()
    device.begin()
    bad = bundle(tmp_path, "3", labels_txt=shuffled_labels())
    assert device.say("model/install", name="detector", source=str(bad))["ok"]
    device.wait_kind("rolled_back")
    assert device.kinds() == ["staged", "verified", "shadow", "rolled_back"]
    assert "disagreement 1.00" in device.kept().reason
    assert "disagreement 1.00" in device.events()[-1]["text"]
    assert device.told_of("rolled_back")["rollout"]["comparison"]["disagreement"] == 1.0
    device.end()
    assert device.versions() == ["2"]
    assert device.store().record(NAME).active == "2"


def test_one_whose_weights_are_garbage_never_serves(device: Device, tmp_path: Path) -> None:
    device.write()
    device.begin()
    bad = bundle(tmp_path, "3", model_tflite=garbage_weights())
    assert device.say("model/install", name="detector", source=str(bad))["ok"]
    device.wait_kind("rolled_back")
    assert "canary" not in device.kinds()
    device.end()
    assert device.versions() == ["2"]


def test_one_that_is_slow_when_it_serves_goes_back(device: Device, tmp_path: Path) -> None:
    device.write(latency_ratio=1.3, shadow_frames=1, canary_frames=100_000)
    device.begin()
    slow = bundle(tmp_path, "3", model_tflite=slow_weights())
    assert device.say("model/install", name="detector", source=str(slow))["ok"]
    device.wait_kind("rolled_back")
    assert device.kinds() == ["staged", "verified", "shadow", "canary", "rolled_back"]
    assert "slow: the p95 of its inference is" in device.kept().reason
    wait_until(lambda: device.versions() == ["2", "3"] and device.results()[-1]["model"]["version"] == "2", 60)
    wait_until(lambda: not device.kept().placed, 60)
    assert device.active() == "2"

    def told() -> tuple[str, str, str]:
        found = device.last("models/detector")
        return found["rollout"]["state"], found["installed_version"], found["latest_version"]

    wait_until(lambda: told() == ("rolled_back", "2", "2"), 60, "what is told once the old one serves again")
    stream = device.end()["streams"]["yard"]
    assert (stream["failed"], stream["expired"]) == (0, 0)
    assert [one["ok"] for one in audit(device.state) if one["what"] == "rollout_rolled_back"] == [False]


def test_a_download_that_does_not_come_is_given_up_when_it_is_taken_back(device: Device) -> None:
    device.write()
    device.begin()
    device.send("model/install", name="detector", source="https://127.0.0.1:1/3.zip", id="in")
    device.wait_kind("staged")
    answer = device.say("model/rollback", name="detector", reason="a wrong address")
    assert (answer["ok"], answer["state"]) == (True, "rolled_back"), answer
    assert "taken back while it was fetched" in device.kept().reason
    again = device.say("model/install", name="detector", source=str(device.folder / "none.zip"))
    assert "no such file" in again["error"], "the next one has its turn"
    device.end()


def test_who_is_no_canary_waits_and_where_memory_is_short_there_is_a_gap(device: Device, tmp_path: Path) -> None:
    device.write(extra='swap = "gap"')
    device.begin()
    wish = {"name": "detector", "source": str(bundle(tmp_path, "3")), "rollout": "spring", "share": 0}
    assert device.say("model/install", **wish)["ok"]
    device.wait_kept(lambda rollout: rollout.waiting)
    assert "memory does not hold two" in device.kept().reason
    assert device.active() == "2"
    other = device.say("model/install", **{**wish, "rollout": "autumn"})
    assert "another rollout of this model is under way" in other["error"]
    assert device.say("model/install", **{**wish, "share": 1})["state"] == "canary"
    device.wait_kind("committed")
    device.wait_version("3")
    stream = device.end()["streams"]["yard"]
    assert (stream["failed"], stream["expired"]) == (0, 0)


def test_only_what_is_signed_is_taken_and_a_hand_takes_it_back(device: Device, tmp_path: Path) -> None:
    trusting(tmp_path / "trust", KEY)
    device.write(signed=True, shadow=0)
    device.begin()
    path = bundle(tmp_path, "3")
    refused = device.say("model/install", name="detector", source=str(path))
    assert (refused["ok"], "not signed, and models from elsewhere must be" in refused["error"]) == (False, True)
    assert list(device.store().record(NAME).versions) == ["2"]
    sign_path(path, KEY)
    for wrong, told in (
        ({"name": "detectr"}, 'Did you mean "detector"?'),
        ({"name": "detector", "force": True}, "a key that model/install does not know"),
        ({"name": "detector", "share": 2}, "not a share"),
        ({"name": "detector", "version": "4", "source": str(path)}, "the source holds another model"),
        ({"name": "detector", "source": "http://models.example/net.zip"}, "not a source of models"),
        ({"name": "detector", "source": str(path), "sha256": "0" * 64}, "a folder has no SHA-256"),
    ):
        answer = device.say("model/install", **wrong)
        assert (answer["ok"], told in answer["error"]) == (False, True), answer
    assert device.versions() == ["2"]
    assert device.say("model/install", name="detector", source=str(path))["ok"]
    device.wait_version("3")
    device.wait_kind("committed")
    answer = device.say("model/rollback", name="detector", reason="it barks")
    assert (answer["ok"], answer["state"], answer["previous"]) == (True, "rolled_back", "2"), answer
    device.wait_version("2")
    assert device.active() == "2"
    assert "it barks" in device.events()[-1]["text"] or "it barks" in device.kept().reason
    again = device.say("model/install", name="detector", source=str(path), rollout=device.kept().id)
    assert "this rollout was taken back" in again["error"]
    device.end()


def test_home_assistant_installs_what_lies_in_the_store(device: Device, tmp_path: Path) -> None:
    device.write(shadow=0)
    device.add(DETECTOR, activate=True)
    device.add(bundle(tmp_path, "3"), activate=False)
    device.begin()
    wait_until(lambda: device.last("models/detector").get("latest_version") == "3", 30)
    assert device.last("models/detector")["installed_version"] == "2"
    assert device.say("model/install", model="detector")["ok"], "the payload of its button"
    device.wait_version("3")
    device.wait_kind("committed")
    for topic, schema in (("models/detector", "model"), ("telemetry", "telemetry"), ("event", "event")):
        wait_until(lambda topic=topic: "rollout" in str(device.last(topic)), 30)
        schemas.validate(schema, device.last(topic))
    device.end()


def test_a_hand_takes_back_what_never_served(device: Device, tmp_path: Path) -> None:
    device.write(shadow_frames=1_000_000)
    device.begin()
    device.send("model/install", name="detector", source=str(bundle(tmp_path, "3")))
    answer = device.say("model/rollback", name="detector")  # while it is fetched
    assert (answer["ok"], answer["state"]) == (True, "rolled_back"), answer
    assert device.say("model/install", name="detector", rollout="again")["ok"], "it is in the store already"
    device.wait_kept(lambda rollout: rollout.state == "shadow" and rollout.starts == 1)
    assert device.say("model/rollback", name="detector")["state"] == "rolled_back"
    assert device.say("model/rollback", name="detector")["ok"] is False, "there is no version to go back to"
    device.end()
    assert device.versions() == ["2"]


def test_three_starts_that_fail_bring_the_old_one_back(device: Device, tmp_path: Path) -> None:
    device.write(shadow=0, watch_minutes=10_000)
    device.begin()
    assert device.say("model/install", name="detector", source=str(bundle(tmp_path, "3")))["ok"]
    device.wait_kind("active")
    device.kill()
    for number in (1, 2, 3):
        assert device.active() == "3"
        device.begin(results=False)
        device.wait_kept(lambda rollout, number=number: rollout.starts == number)
        device.kill()
    device.begin()
    device.wait_version("2")
    assert device.kept().reason == "3 starts with it failed"
    assert (device.kept().state, device.active()) == ("rolled_back", "2")
    device.wait_kind("rolled_back")
    device.end()


def test_killed_once_in_every_state_it_goes_on(device: Device, tmp_path: Path) -> None:
    device.write(shadow_frames=10, canary_frames=20, watch_minutes=0.2)
    device.begin()
    device.send("model/install", name="detector", source=str(bundle(tmp_path, "3")))
    states = []
    for state in ("staged", "verified", "shadow", "canary", "active"):
        at = ORDER.index(state)
        device.wait_kept(lambda rollout, at=at: rollout.state in ORDER and ORDER.index(rollout.state) >= at)
        device.kill()
        states.append(device.kept().state)
        assert device.active() in (None, "2", "3")
        device.begin()
    assert states[2:] == ["shadow", "canary", "active"]
    device.wait_kind("committed")
    device.wait_version("3")
    assert device.versions() == ["2", "3"]
    device.end()
    assert device.active() == "3"


def test_an_end_that_was_asked_for_is_no_failed_start(device: Device, tmp_path: Path) -> None:
    device.write(shadow=0, watch_minutes=10_000, starts=1)
    device.begin()
    assert device.say("model/install", name="detector", source=str(bundle(tmp_path, "3")))["ok"]
    device.wait_kind("active")
    device.end()
    for _ in range(3):
        device.begin()
        device.wait_kept(lambda rollout: rollout.starts == 1)
        device.end()
        assert (device.kept().starts, device.kept().state) == (0, "active")
