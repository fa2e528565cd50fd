"""A daemon whose config changes while it runs, with a broker of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgerun.cli.flags import options_of
from edgerun.config import Config, build
from tests import mosquitto
from tests.mosquitto import Heard, Subscriber, wait_until

ROOT = Path(__file__).parent.parent.parent
DETECTOR = ROOT / "models" / "ssd-mobilenet-v2-oid"

BASE = """
[device]
id = "dock-1"
[mqtt]
url = "{url}"
{mqtt}
[models.detector]
path = "{model}"
[streams.yard]
source = {{ kind = "synthetic", size = [320, 240], fps = 20 }}
model = "detector"
max_age_ms = 60000
[streams.gate]
source = {{ kind = "synthetic", size = [320, 240], fps = 20 }}
model = "detector"
max_age_ms = 60000
"""


class Run:
    """A daemon with its config file, its log and what it publishes."""

    def __init__(self, folder: Path, text: str, seen: Subscriber) -> None:
        self.file, self.seen = folder / "edge.toml", seen
        self.file.write_text(text)
        self.text = text
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgerun", "run", "--config", self.file, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    @staticmethod
    def _said_goodbye(messages: list[Heard]) -> bool:
        """The last thing that it says came, and so did everything before."""
        return [one.payload for one in messages if one.topic == "edgerun/dock-1/status"][-1:] == [b"offline"]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def results(self, stream: str) -> list[dict[str, Any]]:
        topic = f"edgerun/dock-1/detections/{stream}"
        return [json.loads(one.payload) for one in self.seen.messages if one.topic == topic]

    def wait_results(self, stream: str, more: int = 5) -> None:
        """Until so many more have come."""
        topic = f"edgerun/dock-1/detections/{stream}"
        count = sum(one.topic == topic for one in self.seen.messages)
        self.seen.wait(lambda messages: sum(one.topic == topic for one in messages) >= count + more, 60)

    def events(self, kind: str) -> list[str]:
        found = [json.loads(one.payload) for one in self.seen.messages if one.topic == "edgerun/dock-1/event"]
        return [one["text"] for one in found if one["kind"] == kind]

    def hang_up(self, text: str) -> str:
        """SIGHUP with another config; what came of it."""
        before = len(self.events("reloaded")) + len(self.events("reload_refused"))
        self.file.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(self.events("reloaded")) + len(self.events("reload_refused")) > before, 60, "a reload")
        kinds = ("reloaded", "reload_refused")
        told = [one for one in self.seen.messages if one.topic == "edgerun/dock-1/event"]
        last = [one for one in (json.loads(event.payload) for event in told) if one["kind"] in kinds][-1]
        return str(last["text"])

    def thread(self, name: str) -> str | None:
        """The id of the daemon's thread of that name (its first 15 characters are what the kernel keeps)."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if (task / "comm").read_text().strip() == name[:15]:
                    return task.name
        return None

    def end(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.log
        self.seen.wait(self._said_goodbye, 30)
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        for name, stream in summary["streams"].items():
            assert stream["in_flight"] == 0, name
            fates = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed")
            assert stream["grabbed"] == sum(stream[fate] for fate in fates), name
        return summary


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(model=…, mqtt=…)`: a daemon that publishes to a mosquitto of its own, and results of both streams."""
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "#") as seen:
        runs: list[Run] = []

        def begin(model: Path | str = DETECTOR, mqtt: str = "", text: str = BASE) -> Run:
            run = Run(tmp_path, text.format(url=broker.url, model=model, mqtt=mqtt), seen)
            run.broker = broker  # type: ignore[attr-defined]
            runs.append(run)
            wait_until(lambda: run.results("yard") and run.results("gate"), 60, "results")
            return run

        yield begin
        for run in runs:
            run.process.kill()
            run.process.communicate()


def say(run: Run, topic: str, payload: str, *, retain: bool = False) -> None:
    program = mosquitto.program("mosquitto_pub")
    port = str(run.broker.port)  # type: ignore[attr-defined]
    command = [program, "-h", "127.0.0.1", "-p", port, "-q", "1", "-t", topic, "-m", payload]
    subprocess.run(command + ["-r"] * retain, check=True, timeout=30)


def newer(tmp_path: Path, version: str) -> Path:
    """The bundled detector under another version."""
    folder = tmp_path / f"detector-{version}"
    shutil.copytree(DETECTOR, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = version
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def last(seen: Subscriber, topic: str) -> bytes:
    messages = seen.wait(lambda messages: any(one.topic == topic for one in messages), 30)
    return [one for one in messages if one.topic == topic][-1].payload


TWO = """
[models.a]
path = "ssd-mobilenet-v2-oid"
[models.b]
path = "ssd-mobilenet-v2-oid"
threads = 1
[streams.x]
source = "synthetic"
model = "a"
[streams.y]
source = "synthetic"
model = "b"
"""


def config(text: str) -> Config:
    return build(tomllib.loads(text), options_of, find_model=lambda name: DETECTOR)
