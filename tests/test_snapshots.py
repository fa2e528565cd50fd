"""Pictures that leave a running device: masked, blurred, on demand, and none that nobody allowed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgerun.app.opening import open_decoder, open_model
from edgerun.cli.flags import options_of
from edgerun.config import build
from edgerun.types import Image
from tests import mosquitto, schemas
from tests.test_end_to_end import CLIP, DETECTOR, edgerun

pytestmark = pytest.mark.timeout(180)

HALF = "[[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]]"


class Device:
    """A running edgerun, everything it says, and commands to it."""

    def __init__(self, broker: mosquitto.Broker, seen: mosquitto.Subscriber, process: subprocess.Popen[str]) -> None:
        self._broker, self.seen, self.process = broker, seen, process

    def until(self, condition: Callable[[], object], what: str) -> None:
        mosquitto.wait_until(lambda: condition() or self.process.poll() is not None, 60, what)
        assert self.process.poll() is None, self.process.communicate()[1]

    def payloads(self, end: str) -> list[bytes]:
        return [one.payload for one in self.seen.messages if one.topic == f"edgerun/dock-7/{end}"]

    def told(self, end: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in self.payloads(end)]

    def pictures(self, stream: str) -> list[Image]:
        got = [np.frombuffer(payload, np.uint8) for payload in self.payloads(f"snapshot/{stream}") if payload]
        return [cv2.imdecode(one, cv2.IMREAD_COLOR) for one in got]

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a command."""
        before = len(self.told(f"cmd/{verb}/result"))
        client = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(self._broker.port), "-q", "1"]
        subprocess.run([*client, "-t", f"edgerun/dock-7/cmd/{verb}", "-m", json.dumps(arguments)], check=True)
        self.until(lambda: len(self.told(f"cmd/{verb}/result")) > before, "the answer")
        return self.told(f"cmd/{verb}/result")[-1]


@contextlib.contextmanager
def device(folder: Path, streams: str, broker: mosquitto.Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    config = folder / "edge.toml"
    config.write_text(
        f'device.id = "dock-7"\nmqtt.url = "{broker.url}"\nmqtt.home_assistant = true\n'
        f'models.detector = {{ path = "{DETECTOR}", threads = 1 }}\n{streams}',
        encoding="utf-8",
    )
    with mosquitto.subscriber(broker, "edgerun/dock-7/#") as seen:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", config, "--quiet"], stderr=subprocess.PIPE, text=True
        )
        try:
            yield Device(broker, seen, process)
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err


def stream(name: str, more: str, snapshot: str | None, source: object = CLIP) -> str:
    told = f'[streams.{name}]\nsource = "{source}"\nloop = true\nmodel = "detector"\n{more}\n'
    return told if snapshot is None else f"{told}[streams.{name}.snapshot]\n{snapshot}\n"


def test_masks_are_in_it_and_of_other_streams_nothing_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = stream("dock", f"privacy.mask = {HALF}", "every_s = 1\nboxes = false\nquality = 95") + stream(
        "yard", "", None
    )
    with mosquitto.broker() as broker:
        with mosquitto.subscriber(broker) as client:  # of an earlier run, with other rights
            subprocess.run(
                [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-r", "-t",
                 "edgerun/dock-7/snapshot/yard", "-m", "a picture"], check=True,
            )  # fmt: skip
            client.wait(len)
        with device(tmp_path, streams, broker, monkeypatch) as one:
            one.until(lambda: len(one.pictures("dock")) >= 2, "pictures")
            refused = one.ask("snapshot", stream="yard")
            unknown = one.ask("snapshot", stream="barn")
            one.until(lambda: one.payloads("snapshot/yard")[-1:] == [b""], "the old picture's removal")
            (info,) = one.told("info")
    for picture in one.pictures("dock"):
        assert picture.shape == (480, 640, 3)
        assert picture[:, 330:].max() < 16, "black, as far as JPEG can"
        assert picture[:, :310].mean() > 40
    assert refused["ok"] is False
    assert "[streams.yard.snapshot] allows it" in refused["error"]
    assert "no such stream" in unknown["error"]
    assert [payload for payload in one.payloads("snapshot/yard") if payload] == [b"a picture"]
    schemas.validate("info", info)
    policy = info["data_policy"]["streams"]
    assert policy["yard"] == {"results": True, "masks": 0, "snapshots": False, "collect": False}
    assert policy["dock"]["masks"] == 1
    assert policy["dock"]["snapshots"]["blur"] == []


def test_who_is_blurred_is_found_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`labels` leave people out of the results; in the picture the same model finds none of them any more."""
    snapshot = 'on = "always"\nevery_s = 1\nboxes = false\nquality = 95\nblur = ["person"]'
    with (
        mosquitto.broker() as broker,
        device(tmp_path, stream("dock", 'labels = ["car"]', snapshot), broker, monkeypatch) as one,
    ):
        one.until(lambda: len(one.pictures("dock")) >= 3, "pictures")
    assert not [
        found for told in one.told("detections/dock") for found in told["detections"] if found["label"] == "person"
    ]
    plain = cv2.VideoCapture(str(CLIP)).read()[1]
    assert len(people([plain])) >= 3
    assert not people(one.pictures("dock"))


def people(pictures: list[Image]) -> list[float]:
    """The scores of the people that the bundled detector finds, at its own threshold."""
    tables = {"models": {"m": {"path": str(DETECTOR)}}, "streams": {"s": {"source": "synthetic", "model": "m"}}}
    config = build(tables, options_of)
    model = open_model(config.models["m"])
    decoder = open_decoder("s", model, config.streams["s"])
    found: list[float] = []
    for picture in pictures:
        tensor, placement = model.preprocess.prepare(picture)
        answer = decoder.decode(model.engine.infer((tensor,)), placement)
        found += [one.score for one in answer.detections or () if one.label == "person"]
    model.engine.close()
    return found


def test_a_reload_hides_and_takes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the answer on: with `blur` nobody is seen any more, without the table there is no picture at all."""
    shown = 'on = "always"\nevery_s = 1\nboxes = false\nquality = 95\n'
    config = tmp_path / "edge.toml"
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, "homeassistant/#") as announced,
        device(tmp_path, stream("dock", "", shown), broker, monkeypatch) as one,
    ):
        one.until(lambda: one.pictures("dock"), "a picture")
        before = config.read_text(encoding="utf-8")
        config.write_text(before.replace(shown, shown + 'blur = ["person"]\n'), encoding="utf-8")
        assert one.ask("reload")["ok"]
        plain = len(one.pictures("dock"))
        one.until(lambda: len(one.pictures("dock")) >= plain + 2, "pictures without people")
        config.write_text(before.replace("[streams.dock.snapshot]\n" + shown, ""), encoding="utf-8")
        assert one.ask("reload")["ok"]
        one.until(lambda: one.payloads("snapshot/dock")[-1] == b"", "the picture's removal")
        assert "[streams.dock.snapshot] allows it" in one.ask("snapshot", stream="dock")["error"]
        told = len(one.told("detections/dock"))
        one.until(lambda: len(one.told("detections/dock")) >= told + 5, "results")
        one.until(lambda: b"dock_snapshot" not in announced.messages[-1].payload, "the entity's removal")
        one.until(lambda: one.told("info")[-1]["data_policy"]["streams"]["dock"]["snapshots"] is False, "the policy")
        with mosquitto.subscriber(broker, "edgerun/dock-7/#") as late:
            late.wait(lambda messages: any(message.topic.endswith("/info") for message in messages))
    pictures = one.pictures("dock")
    assert len(people(pictures[:1])) >= 2
    assert not people(pictures[plain:])
    assert one.payloads("snapshot/dock")[-1] == b""
    assert not [message.topic for message in late.messages if "/snapshot/" in message.topic]


def test_one_is_taken_on_demand_also_of_a_scene_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate has closed, nothing is inferred any more: the command has the model look once."""
    still = tmp_path / "still.avi"
    writer = cv2.VideoWriter(str(still), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    for _ in range(600):
        writer.write(cv2.resize(cv2.imread(str(_first(tmp_path))), (320, 240)))
    writer.release()
    streams = stream("dock", "gate = { hold_s = 0.2 }", "on = []", source=still)
    with mosquitto.broker() as broker, device(tmp_path, streams, broker, monkeypatch) as one:
        one.until(lambda: one.told("state/dock") and one.told("state/dock")[-1]["state"] == "running", "its start")
        told = one.ask("snapshot", stream="dock")
        assert told["ok"], told
        assert told["topic"] == "edgerun/dock-7/snapshot/dock"
        one.until(lambda: one.pictures("dock"), "the picture")
        one.ask("pause", stream="dock")
        one.until(lambda: one.told("state/dock")[-1]["state"] == "paused", "the pause")
        assert "the stream is paused" in one.ask("snapshot", stream="dock")["error"]
        assert len(one.pictures("dock")) == 1


def _first(folder: Path) -> Path:
    """The clip's first frame as a file."""
    path = folder / "first.png"
    if not path.exists():
        cv2.imwrite(str(path), cv2.VideoCapture(str(CLIP)).read()[1])
    return path


@pytest.mark.parametrize(
    ("more", "snapshot", "message"),
    [
        ("", 'blur = ["persn"]', "streams.dock.snapshot.blur: no such label"),
        ("", 'blur = ["person", "face"]', 'got "face"'),
        ("", 'on = ["cat", "zebra"]', "streams.dock.snapshot.on: no such label"),
        ('labels = ["car"]', 'on = ["person"]', "a label that the stream's labels leave out"),
    ],
)
def test_check_tells_what_cannot_be_hidden(tmp_path: Path, more: str, snapshot: str, message: str) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        f'mqtt.url = "mqtt://broker.example"\nmodels.detector = {{ path = "{DETECTOR}" }}\n'
        + stream("dock", more, snapshot)
    )
    done = edgerun("check", "--config", config)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
