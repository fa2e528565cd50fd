"""Rollouts on a real daemon: real models on real pictures, a real broker, processes killed by real signals."""

from __future__ import annotations

from pathlib import Path

from tests.rollout.runs import NAME, Device, audit, bundle, shuffled_labels


def test_a_good_update_goes_all_the_way(device: Device, tmp_path: Path) -> None:
    device.write()
    device.begin()
    answer = device.say("model/install", name="detector", source=str(bundle(tmp_path, "3")), rollout="spring")
    assert (answer["ok"], answer["version"], answer["previous"]) == (True, "3", "2"), answer
    device.wait_kind("committed")
    assert device.kinds() == ["staged", "verified", "shadow", "canary", "active", "committed"]
    device.wait_version("3")
    assert device.versions() == ["2", "3"]
    told = device.last("models/detector")
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
    assert device.last("models/detector")["rollout"]["comparison"]["disagreement"] == 1.0
    device.end()
    assert device.versions() == ["2"]
    assert device.store().record(NAME).active == "2"
