"""What a running device announces: taken by Home Assistant's own schemas, and nothing in it is an empty promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgerun.security.keys import generate
from tests import mosquitto
from tests.publish.home_assistant import says
from tests.schemas import validate
from tests.test_snapshots import device, stream

pytestmark = pytest.mark.timeout(240)

STREAMS = stream("dock", 'labels = ["person", "car"]\ntrack = true', 'on = "always"\nevery_s = 1') + stream(
    "yard", "", None
)


def test_what_is_announced_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every topic that an entity reads is published, and every button and switch is obeyed."""
    config = f"mqtt.telemetry_interval = '1s'\n{STREAMS}"
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, "homeassistant/#") as announced,
        device(tmp_path, config, broker, monkeypatch) as one,
    ):
        one.until(lambda: len(one.told("telemetry")) >= 3, "telemetry")
        one.until(lambda: one.told("event"), "an event")
        one.until(lambda: any(b'"memory":' in last.payload for last in announced.messages[-1:]), "entities")
        discovery = announced.messages[-1]
        told: dict[str, Any] = json.loads(discovery.payload)
        wanted = {entity[key] for entity in told["cmps"].values() for key in ("stat_t", "img_t") if key in entity}
        wanted |= {entity["t"] for entity in told["avty"]}
        one.until(lambda: wanted <= {message.topic for message in one.seen.messages}, f"all of {wanted}")
        answers = {}
        for key, entity in told["cmps"].items():
            if entity["p"] == "button":
                verb = entity["cmd_t"].removeprefix("edgerun/dock-7/cmd/")
                answers[key] = one.ask(verb, **json.loads(entity["pl_prs"]))
        switch = told["cmps"]["dock_running"]
        for payload, state in (("pl_off", "paused"), ("pl_on", "running")):
            assert one.ask("pause", **json.loads(switch[payload]))["ok"]
            one.until(lambda state=state: one.told("state/dock")[-1]["state"] == state, state)
    assert discovery.topic == "homeassistant/device/edgerun_dock-7/config"
    assert discovery.retain is False
    assert set(told["cmps"]) >= {
        "memory", "spool", "events", "trace", "model_detector", "dock_state", "dock_rate", "dock_age", "dock_objects",
        "dock_events", "dock_snapshot", "dock_running", "dock_take_snapshot", "dock_input", "dock_person_occupancy",
        "dock_person_count", "yard_state", "yard_occupied", "yard_running",
    }  # fmt: skip
    assert "yard_snapshot" not in told["cmps"]
    assert "yard_take_snapshot" not in told["cmps"]
    assert answers["trace"]["ok"], answers
    taken = answers["dock_take_snapshot"]
    assert taken["ok"] or "moment ago" in taken["error"]
    assert told["cmps"]["memory"]["exp_aft"] == 10
    assert all(
        "exp_aft" in entity for entity in told["cmps"].values() if entity.get("stat_t", "").endswith("telemetry")
    )
    (model,) = one.told("models/detector")
    validate("model", model)
    assert (model["installed_version"], model["title"]) == ("2", "ssd-mobilenet-v2-oid")
    assert says(discovery.payload)["problems"] == []


def test_where_commands_are_signed_no_button_promises_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Home Assistant signs nothing; the picture and the rest are shown all the same."""
    key = generate("of nobody").public.line
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, "homeassistant/#") as announced,
        device(tmp_path, f"security = {{ signed_commands = true, command_keys = ['{key}'] }}\n{STREAMS}", broker,
               monkeypatch) as one,
    ):  # fmt: skip
        one.until(lambda: announced.messages, "the announcement")
        told: dict[str, Any] = json.loads(announced.messages[0].payload)["cmps"]
    assert "dock_snapshot" in told
    assert not [key for key, entity in told.items() if entity["p"] in ("button", "switch")]
