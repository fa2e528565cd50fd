"""The discovery message in the eyes of Home Assistant itself: its schemas, its template engine, real messages."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgerun.publish.homeassistant import DescribedDevice, DescribedStream, discovery
from edgerun.telemetry.payload import state
from tests import mosquitto
from tests.publish.home_assistant import says
from tests.publish.test_home_assistant import BARE, DOCK, RICH

pytestmark = pytest.mark.timeout(240)

CLIP = Path(__file__).parent.parent.parent / "models" / "clips" / "street.mp4"
DETECTOR = Path(__file__).parent.parent.parent / "models" / "ssd-mobilenet-v2-oid"
HOSTILE = ("it's", 'say "no"', "back\\slash", "{{ x }}", "{% if %}", "items", "line\nbreak", "🚲", "\x1b[2J", "]", "é")


def entity(answer: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = answer["components"][key]
    return found


def test_home_assistant_takes_every_entity() -> None:
    many = tuple(DescribedStream(f"cam-{i}", (f"cam-{i}",), tuple(f"l{j}" for j in range(80))) for i in range(16))
    for device in (RICH, BARE, msgspec.structs.replace(RICH, streams=many)):
        answer = says(discovery(device).payload)
        assert answer["problems"] == []
        assert set(answer["components"]) == set(discovery(device).platforms)


def test_home_assistant_takes_a_removal() -> None:
    answer = says(discovery(BARE, removed={"gone": "sensor", "gone_too": "binary_sensor"}).payload)
    assert answer["problems"] == []
    assert entity(answer, "gone") == {"platform": "sensor"}


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("power", {"dev_cla": "heat"}),
        ("power", {"unit_of_meas": "horse"}),
        ("dock_state", {"uniq_id": None}),
        ("dock_state", {"stat_t": "a/#/b"}),
        ("dock_person_occupancy", {"val_tpl": "{{ unclosed"}),
        ("dock_running", {"cmd_t": "cmd/+"}),
        ("dock_snapshot", {"img_t": None}),
        ("dock_person_count", {"made_up": 1}),
    ],
)
def test_the_check_itself_refuses_what_is_wrong(key: str, change: dict[str, Any]) -> None:
    told = json.loads(discovery(RICH).payload)
    told["cmps"][key] = {k: v for k, v in (told["cmps"][key] | change).items() if v is not None}
    assert says(json.dumps(told).encode())["problems"]


def test_labels_that_want_to_be_templates_are_counted_as_themselves() -> None:
    chance = random.Random(6)
    wild = ["".join(chr(chance.choice((chance.randrange(1, 0x300), 0x1F600))) for _ in range(6)) for _ in range(40)]
    labels = tuple(dict.fromkeys((*HOSTILE, *wild)))
    device = msgspec.structs.replace(BARE, streams=(DescribedStream("s", ("s",), labels),))
    made = discovery(device, limit_bytes=10**9)
    told = json.loads(made.payload)["cmps"]
    counts = {label: number for number, label in enumerate(labels, 3)}
    message = json.dumps(state("running", counts=counts))
    keys = [key for key in told if key.endswith("_count")]
    answer = says(made.payload, [(told[key]["val_tpl"], message) for key in keys])
    assert answer["problems"] == []
    assert [int(one) for one in answer["rendered"]] == list(counts.values())
    nothing = says(made.payload, [(told[key]["val_tpl"], json.dumps(state("stalled"))) for key in keys])
    assert set(nothing["rendered"]) == {"None"}


def test_what_messages_lack_is_unknown_not_zero() -> None:
    told = json.loads(discovery(RICH).payload)["cmps"]
    empty = json.dumps({"v": 1, "streams": {}, "engines": {}})
    keys = [key for key, one in told.items() if one.get("stat_t", "").endswith("/telemetry")]
    answer = says(discovery(RICH).payload, [(told[key]["val_tpl"], empty) for key in keys])
    assert set(answer["rendered"]) == {"None"}


def test_what_holds_a_device_back_and_what_ails_a_camera_is_shown_with_its_reason() -> None:
    told = json.loads(discovery(RICH).payload)["cmps"]
    held = {"level": 2, "levels": 4, "reason": "soc at 81 °C", "streams": {"dock": {"max_fps": 5.0}}}
    quiet = {"v": 1, "streams": {"dock": {}, "yard/detector": {}}}
    telemetry = {"v": 1, "streams": {"dock": {"input": ["dark", "frozen"]}, "yard/detector": {}}, "governor": held}
    asked = [
        (told[key][template], json.dumps(message))
        for message in (telemetry, quiet)
        for key in ("governor", "dock_input", "yard_input")
        for template in ("val_tpl", "json_attr_tpl")
    ]
    answer = says(discovery(RICH).payload, asked)
    assert answer["problems"] == []
    values, attributes = answer["rendered"][::2], [json.loads(one) for one in answer["rendered"][1::2]]
    assert values == ["2", "ON", "OFF", "None", "OFF", "OFF"]
    assert attributes[:3] == [held, {"input": ["dark", "frozen"]}, {"input": []}]


def test_an_update_message_passes_home_assistants_own_check() -> None:
    told = json.loads(discovery(RICH).payload)["cmps"]["model_detector"]
    message = {"v": 1, "installed_version": "1", "latest_version": "2", "title": "detector", "sha256": "aa"}
    (rendered,) = says(discovery(RICH).payload, [(told["val_tpl"], json.dumps(message))])["rendered"]
    assert json.loads(rendered) == {"installed_version": "1", "latest_version": "2", "title": "detector"}
    assert says(discovery(RICH).payload, updates=(rendered,))["problems"] == []
    assert says(discovery(RICH).payload, updates=(json.dumps(message),))["problems"]


def test_entities_of_a_real_run_show_what_it_published(tmp_path: Path) -> None:
    device = DescribedDevice(
        "dock-7", "0.1.0", (msgspec.structs.replace(DOCK, labels=("person", "car"), events=("appeared", "lost")),), 1.0,
        verbs=frozenset({"pause", "resume"}), known={"memory": {"rss_mib": 1.0}},
    )  # fmt: skip
    messages = _messages_of_a_run(tmp_path)
    made = discovery(device)
    told = json.loads(made.payload)["cmps"]
    renders: list[tuple[str, str]] = []
    wanted: list[Any] = []

    def ask(key: str, message: dict[str, Any], value: Any, template: str = "val_tpl") -> None:
        renders.append((told[key][template], json.dumps(message)))
        wanted.append(value)

    for one in messages["telemetry"]:
        stream = one["streams"]["dock"]
        ask("dock_rate", one, str(stream["fps"]))
        ask("dock_age", one, str(stream["age_ms"]["p95"]) if "age_ms" in stream else "None")
        ask("memory", one, str(one["memory"]["rss_mib"]))
    for one in messages["state/dock"]:
        people = one.get("counts", {}).get("person", 0)
        seen = "counts" in one
        ask("dock_state", one, one["state"])
        ask("dock_person_count", one, str(people) if seen else "None")
        ask("dock_person_occupancy", one, ("ON" if people else "OFF") if seen else "None")
        ask("dock_car_occupancy", one, ("ON" if one["counts"].get("car") else "OFF") if seen else "None")
        ask("dock_objects", one, str(sum(one["counts"].values())) if seen else "None")
        ask("dock_running", one, "OFF" if one["state"] == "paused" else "ON")
    scene = [one for one in messages["event"] if "label" in one]
    for one in messages["event"]:
        ask("events", one, "" if "label" in one else {**one, "event_type": one["kind"]})
        ours = one.get("kind") in ("appeared", "lost") and "label" in one
        ask("dock_events", one, {**one, "event_type": one["kind"]} if ours else "")
    assert scene, "nothing happened in the street"
    assert {one["state"] for one in messages["state/dock"]} >= {"running", "paused", "ended"}
    answer = says(made.payload, renders)
    assert answer["problems"] == []
    got = [
        json.loads(one) if isinstance(want, dict) else one for one, want in zip(answer["rendered"], wanted, strict=True)
    ]
    assert got == wanted


def _messages_of_a_run(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By the end of their topic: what a tracked stream says that runs, is paused by a command, goes on and is ended."""
    config = folder / "edgerun.toml"
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/#") as seen:
        config.write_text(
            f'device.id = "dock-7"\nmqtt = {{ url = "{broker.url}", telemetry_interval = "1s" }}\n'
            f'[models.detector]\npath = "{DETECTOR}"\n'
            f'[streams.dock]\nsource = "{CLIP}"\nloop = true\nmodel = "detector"\ntrack = true\n'
            'labels = ["person", "car"]\n'
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", config, "--quiet"], stderr=subprocess.PIPE, text=True
        )

        def told(end: str) -> list[dict[str, Any]]:
            return [json.loads(m.payload) for m in seen.messages if m.topic == f"edgerun/dock-7/{end}"]

        def until(condition: Callable[[], object], what: str) -> None:
            mosquitto.wait_until(lambda: condition() or process.poll() is not None, 60, what)
            assert process.poll() is None, process.communicate()[1]

        def ask(verb: str, **arguments: Any) -> None:
            client = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1"]
            subprocess.run([*client, "-t", f"edgerun/dock-7/cmd/{verb}", "-m", json.dumps(arguments)], check=True)

        try:
            until(lambda: any("label" in one for one in told("event")), "an event of the scene")
            until(lambda: any(one.get("counts") for one in told("state/dock")), "counts")
            until(lambda: len(told("telemetry")) >= 2, "telemetry")
            ask("pause", stream="dock")
            until(lambda: told("state/dock")[-1]["state"] == "paused", "the pause")
            ask("resume", stream="dock")
            until(lambda: told("state/dock")[-1]["state"] == "running", "its end")
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        mosquitto.wait_until(lambda: told("state/dock")[-1]["state"] == "ended", 60, "the last state")
        return {end: told(end) for end in ("telemetry", "state/dock", "event")}


def test_the_switch_sends_what_the_device_understands() -> None:
    told = json.loads(discovery(RICH).payload)["cmps"]["dock_running"]
    assert json.loads(told["pl_off"]) == {"stream": "dock", "paused": True}
    assert json.loads(told["pl_on"]) == {"stream": "dock", "paused": False}
