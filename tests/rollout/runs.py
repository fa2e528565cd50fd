"""A daemon whose model is one of the store, a broker, what it publishes; bundles that differ from the bundled one."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgerun.convert.tflite.graph import tools
from edgerun.models.install import install
from edgerun.models.rollout import Rollout, decode
from edgerun.models.store import Store
from edgerun.models.verify import Policy
from tests import mosquitto
from tests.mosquitto import Broker, Subscriber, wait_until

ROOT = Path(__file__).parent.parent.parent
DETECTOR = ROOT / "models" / "ssd-mobilenet-v2-oid"
CLIP = ROOT / "models" / "clips" / "street.mp4"
NAME = "ssd-mobilenet-v2-oid"

QUICK = {
    "shadow": 1.0,
    "shadow_frames": 5,
    "shadow_minutes": 10,
    "disagreement": 0.3,
    "canary_minutes": 0,
    "canary_frames": 10,
    "watch_minutes": 0.1,
    "latency_ratio": 1000,
    "failure_rate": 1.0,
    "stable_s": 3600,
}
TEXT = """
[device]
id = "dock-1"
[mqtt]
url = "{url}"
telemetry_interval = 1
[security]
commands = ["model/*", "reload"]
require_signed = {signed}
trust = "{trust}"
[rollout]
{rollout}
[models.detector]
path = "{model}"
{extra}
[streams.yard]
source = "{clip}"
loop = true
model = "detector"
max_age_ms = 60000
max_fps = {fps}
"""


def bundle(folder: Path, version: str, **changes: bytes) -> Path:
    """The bundled detector as `version`, with other contents of some files: `labels_txt=b"…"`."""
    path = folder / f"detector-{version}"
    shutil.copytree(DETECTOR, path, ignore=shutil.ignore_patterns("report.*"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["version"] = version
    manifest["files"] = {name: one for name, one in manifest["files"].items() if not name.startswith("report")}
    for key, content in changes.items():
        name = key.replace("_", ".")
        (path / name).write_bytes(content)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def shuffled_labels() -> bytes:
    """Every class is called by another one's name."""
    lines = (DETECTOR / "labels.txt").read_text().splitlines()
    return ("\n".join(lines[1:] + lines[:1]) + "\n").encode()


def garbage_weights() -> bytes:
    """The same graph, its weights turned round in their buffer: it opens, and sees nonsense."""
    content = bytearray((DETECTOR / "model.tflite").read_bytes())
    begin, end = len(content) // 4, len(content) // 2
    content[begin:end] = content[begin:end][::-1]
    return bytes(content)


def slow_weights(times: int = 4) -> bytes:
    """The same answers, for far more work: every convolution is done `times` times, and the largest of all taken."""
    schema, utils = tools()
    model = utils.read_model_from_bytearray(bytearray((DETECTOR / "model.tflite").read_bytes()))
    graph, convolutions = model.subgraphs[0], (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MAXIMUM
    code.version = 2
    model.operatorCodes.append(code)

    def another(like: int) -> int:
        tensor = copy.copy(graph.tensors[like])
        tensor.name = b"again %d" % len(graph.tensors)
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def larger(one: int, other: int, out: int) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex = len(model.operatorCodes) - 1
        made.inputs, made.outputs = [one, other], [out]
        made.builtinOptionsType = schema.BuiltinOptions.MaximumMinimumOptions
        made.builtinOptions = schema.MaximumMinimumOptionsT()
        return made

    operators = []
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode not in convolutions:
            operators.append(operator)
            continue
        out = operator.outputs[0]
        each = [another(out) for _ in range(times)]
        for tensor in each:
            again = copy.copy(operator)
            again.outputs = [tensor]
            operators.append(again)
        largest = each[0]
        for tensor in each[1:]:
            to = out if tensor == each[-1] else another(out)
            operators.append(larger(largest, tensor, to))
            largest = to
    graph.operators = operators
    return bytes(utils.convert_object_to_bytearray(model))


class Device:
    """One device: its state folder, and the daemon that runs on it, one process after the other."""

    def __init__(self, folder: Path, broker: Broker, seen: Subscriber, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.broker, self.seen = folder, broker, seen
        self.state = folder / "state"
        monkeypatch.setenv("STATE_DIRECTORY", str(self.state))
        self.process: subprocess.Popen[str] | None = None
        self.number = 0

    def write(
        self, *, fps: float = 5, signed: bool = False, model: str = NAME, extra: str = "", **rollout: Any
    ) -> None:
        """Its config."""
        table = "\n".join(f"{key} = {value}" for key, value in {**QUICK, **rollout}.items())
        text = TEXT.format(
            url=self.broker.url, rollout=table, clip=CLIP, fps=fps, signed=str(signed).lower(), model=model,
            trust=self.folder / "trust", extra=extra,
        )  # fmt: skip
        (self.folder / "edge.toml").write_text(text)

    def begin(self, *, results: bool = True) -> None:
        """Start the daemon, and wait for its results."""
        assert self.process is None
        self.number += 1
        before = len(self.results())
        log_path, out_path = self.folder / f"log-{self.number}", self.folder / f"out-{self.number}"
        with log_path.open("w") as log, out_path.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgerun", "run", "--config", self.folder / "edge.toml", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                text=True,
            )
        if results:
            wait_until(lambda: len(self.results()) > before + 2 or self._ended(), 120, "results")

    def kill(self) -> None:
        """No goodbye."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def end(self) -> dict[str, Any]:
        """Ended as it should; the account adds up, and nothing of it failed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        out = (self.folder / f"out-{self.number}").read_text()
        code, self.process = self.process.returncode, None
        assert code == 0, self.log
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        for stream in summary["streams"].values():
            fates = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed")
            assert stream["grabbed"] == sum(stream[fate] for fate in fates)
        return summary

    @property
    def log(self) -> str:
        return "".join((self.folder / f"log-{n}").read_text() for n in range(1, self.number + 1))

    def send(self, verb: str, **arguments: Any) -> None:
        """Send a command over MQTT."""
        command = [mosquitto.program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(self.broker.port), "-q", "1"]
        command += ["-t", f"edgerun/dock-1/cmd/{verb}", "-m", json.dumps(arguments)]
        subprocess.run(command, check=True, timeout=30)

    def say(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Send a command over MQTT; its answer."""
        mark, topic = str(len(self.seen.messages)), f"edgerun/dock-1/cmd/{verb}"
        self.send(verb, **arguments, id=mark)
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            answers = [json.loads(one.payload) for one in self.seen.messages if one.topic == f"{topic}/result"]
            found[:] = [one for one in answers if one.get("id") == mark]
            return bool(found) or self._ended()

        wait_until(answered, 120, f"an answer to {verb}")
        assert found, self.log
        return found[0]

    def results(self) -> list[dict[str, Any]]:
        topic = "edgerun/dock-1/detections/yard"
        return [json.loads(one.payload) for one in self.seen.messages if one.topic == topic]

    def versions(self) -> list[str]:
        """Those that gave results, each once, in order."""
        return list(dict.fromkeys(one["model"]["version"] for one in self.results()))

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(one.payload) for one in self.seen.messages if one.topic == "edgerun/dock-1/event"]

    def kinds(self) -> list[str]:
        return [one["kind"].removeprefix("rollout_") for one in self.events() if one["kind"].startswith("rollout_")]

    def last(self, topic: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            [one for one in self.seen.messages if one.topic == f"edgerun/dock-1/{topic}"][-1].payload
        )
        return found

    def told_of(self, state: str) -> dict[str, Any]:
        """What `models/detector` says once it says that the rollout is there: the event comes before it."""
        topic = "models/detector"
        wait_until(lambda: self.last(topic)["rollout"]["state"] == state, 60, f"{state}, not {self.last(topic)}")
        return self.last(topic)

    def kept(self) -> Rollout:
        """As it lies on the medium."""
        path = self.state / "rollout" / f"{NAME}.json"
        return decode(path.read_bytes(), path)

    def store(self) -> Store:
        return Store.open(self.state / "models")

    def active(self) -> str | None:
        store = self.store()
        return store.record(NAME).active if NAME in store.names() else None

    def add(self, path: Path, *, activate: bool) -> None:
        """Put a bundle into the store, as a person at the device would."""
        install(self.store(), str(path), Policy(0.0, None, require_signed=False), activate=activate)

    def wait_kind(self, kind: str, timeout_s: float = 180) -> None:
        wait_until(lambda: kind in self.kinds() or self._ended(), timeout_s, f"{kind}, after {self.kinds()}")
        assert kind in self.kinds(), self.log

    def wait_kept(self, what: Callable[[Rollout], bool], timeout_s: float = 120) -> None:
        path = self.state / "rollout" / f"{NAME}.json"
        wait_until(lambda: path.exists() and what(self.kept()), timeout_s, "the state of the rollout")

    def wait_version(self, version: str) -> None:
        wait_until(lambda: self.results()[-1]["model"]["version"] == version, 120, f"results of version {version}")

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None


def audit(state: Path) -> list[dict[str, Any]]:
    """The records of the device's audit log."""
    (path,) = state.glob("audit/*/audit.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]
