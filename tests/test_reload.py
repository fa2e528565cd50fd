"""A run takes another config while it goes on: real processes, real models, a real broker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.app import App
from edgerun.app.comparing import Difference, compare
from edgerun.app.reloading import Outcome
from edgerun.cli.flags import options_of
from edgerun.clock import SystemClock
from edgerun.config import Config, RunOptions, build
from edgerun.config.overlay import Overlay, merge_patch
from edgerun.control.desired import read_desired
from edgerun.errors import ConfigError, ConfigErrors
from edgerun.pipeline.notice import Asked, NoticeBoard
from edgerun.types import Publication
from tests import mosquitto, schemas
from tests.mosquitto import Heard, Subscriber, wait_until

ROOT = Path(__file__).parent.parent
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
        out, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, self.log
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


def test_one_stream_changes_and_the_other_goes_on(start: Start) -> None:
    run = start()
    run.wait_results("yard")
    model, yard = run.thread("worker:detector"), run.thread("capture:yard")
    assert run.hang_up(run.text + 'threshold = 0.01\nlabels = ["person"]\n') == "changed gate"
    run.wait_results("gate", 10)
    assert run.hang_up(run.text.replace("[streams.gate]", "[streams.door]")) == "added door; removed gate"
    run.wait_results("door")
    run.wait_results("yard")
    assert run.thread("capture:yard") == yard, "its source was opened anew"
    assert run.thread("worker:detector") == model
    assert run.thread("capture:gate") is None
    summary = run.end()
    assert set(summary["streams"]) == {"yard", "door"}
    seqs = [one["seq"] for one in run.results("yard")]
    assert seqs == sorted(set(seqs))
    # What is missing in between was skipped, as ever; a frame may be counted just before the result that it belongs to.
    missing = seqs[-1] + 1 - len(seqs)
    assert abs(missing - sum(sum(one["dropped"].values()) for one in run.results("yard"))) <= 2
    assert summary["streams"]["yard"]["failed"] == summary["streams"]["yard"]["expired"] == 0
    states = [one for one in run.seen.messages if one.topic == "edgerun/dock-1/state/gate"]
    assert states[-1].payload == b"", "a gone stream leaves its state at the broker"
    infos = [json.loads(one.payload) for one in run.seen.messages if one.topic == "edgerun/dock-1/info"]
    assert set(infos[-1]["streams"]) == {"yard", "door"}


def test_a_stream_whose_source_changes_counts_on(start: Start) -> None:
    run = start()
    run.wait_results("gate")
    text = run.text.replace("fps = 20", "fps = 21")
    assert run.hang_up(text) == "begun anew gate, yard"
    run.wait_results("gate", 10)
    summary = run.end()
    for stream in ("gate", "yard"):
        results = run.results(stream)
        seqs = [one["seq"] for one in results]
        assert seqs == sorted(set(seqs)), "its numbers began anew"
        assert summary["streams"][stream]["grabbed"] > seqs[-1]
        assert summary["streams"][stream]["failed"] == 0


def test_a_model_is_swapped_without_losing_a_frame(start: Start, tmp_path: Path) -> None:
    run = start()
    for version in ("3", "4", "5"):
        run.wait_results("yard")
        text = run.text.replace(str(DETECTOR), str(newer(tmp_path, version)))
        told = run.hang_up(text)
        assert f"model detector from version {int(version) - 1} to {version}, not served for" in told
    run.wait_results("yard")
    summary = run.end()
    versions = [one["model"]["version"] for one in run.results("yard")]
    assert versions == sorted(versions)
    assert set(versions) == {"2", "3", "4", "5"}
    for stream in summary["streams"].values():
        assert stream["failed"] == stream["expired"] == 0
    assert summary["engines"]["detector"]["model"] == "ssd-mobilenet-v2-oid"
    info = [json.loads(one.payload) for one in run.seen.messages if one.topic == "edgerun/dock-1/info"][-1]
    assert info["models"]["detector"]["version"] == "5"


def test_files_that_change_under_their_path_are_another_model(start: Start, tmp_path: Path) -> None:
    folder = newer(tmp_path, "3")
    run = start(model=folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": "4"}))
    assert "from version 3 to 4" in run.hang_up(run.text)
    assert run.hang_up(run.text) == "nothing to change"
    run.wait_results("yard")
    run.end()


def test_where_memory_is_short_the_old_model_goes_first(start: Start, tmp_path: Path) -> None:
    run = start()
    text = run.text.replace(f'path = "{DETECTOR}"', f'path = "{newer(tmp_path, "3")}"\nswap = "gap"')
    assert "from version 2 to 3" in run.hang_up(text)
    run.wait_results("yard")
    damaged = newer(tmp_path, "4")
    (damaged / "model.tflite").write_bytes(b"\0" * 64)
    refused = run.hang_up(text.replace("detector-3", "detector-4"))
    assert "a file of the bundle is not the one its manifest lists" in refused
    run.wait_results("yard")
    summary = run.end()
    assert run.results("yard")[-1]["model"]["version"] == "3", "the one before did not come back"
    assert all(stream["failed"] == 0 for stream in summary["streams"].values())


MISTAKES = {
    "two at once": ("max_age_ms = 60000", "max_age_ms = -1", ["streams.yard.max_age_ms", "streams.gate.max_age_ms"]),
    "no such model": ('model = "detector"', 'model = "detectr"', ['Did you mean "detector"?']),
    "a file that is not there": ("models/ssd", "models/sdd", ["models.detector.path: no such file"]),
    "another device": ('"dock-1"', '"dock-2"', ["device: cannot change while it runs"]),
    "another broker": ("[mqtt]", "[mqtt]\nkeepalive_s = 60", ["mqtt: cannot change while it runs"]),
    "not TOML": ("[device]", "[device", ["not valid TOML"]),
}


def test_a_bad_config_changes_nothing_and_says_everything(start: Start) -> None:
    run = start()
    threads = [run.thread(f"capture:{name}") for name in ("yard", "gate")]
    for old, new, expected in MISTAKES.values():
        refused = run.hang_up(run.text.replace(old, new))
        for text in expected:
            assert text in refused
            assert text in run.log
    checked = run.text.replace("max_age_ms = 60000", "max_age_ms = -1")
    run.file.write_text(checked)
    say(run, "edgerun/dock-1/cmd/reload", '{"id": "1"}')
    answer = json.loads(_last(run.seen, "edgerun/dock-1/cmd/reload/result"))
    done = subprocess.run(
        [sys.executable, "-m", "edgerun", "check", "--config", run.file], capture_output=True, text=True, check=False
    )
    assert answer["ok"] is False
    assert all(f"edgerun: {line}." in done.stderr for line in answer["error"].splitlines())
    run.file.write_text(run.text)
    say(run, "edgerun/dock-1/cmd/reload", '{"id": "2"}')
    topic = "edgerun/dock-1/cmd/reload/result"
    run.seen.wait(lambda messages: sum(one.topic == topic for one in messages) == 2, 30)
    assert json.loads(_last(run.seen, topic)) | {"seconds": 0} == {
        "v": 1, "verb": "reload", "ok": True, "id": "2", "changed": {}, "seconds": 0,
    }  # fmt: skip
    assert [run.thread(f"capture:{name}") for name in ("yard", "gate")] == threads
    run.end()


def test_a_model_that_cannot_be_opened_changes_nothing(start: Start, tmp_path: Path) -> None:
    run = start()
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 200)
    text = run.text.replace("[streams.gate]", "[streams.door]") + f'[models.other]\npath = "{broken}"\n'
    text += '[streams.more]\nsource = "synthetic"\nmodel = "other"\n'
    run.hang_up(text)
    assert len(run.events("reload_refused")) == 1
    run.wait_results("gate")
    assert set(run.end()["streams"]) == {"yard", "gate"}


def test_twenty_reloads_leave_nothing_behind(start: Start, tmp_path: Path) -> None:
    run = start()
    other = run.text.replace(str(DETECTOR), str(newer(tmp_path, "3"))).replace("[streams.gate]", "[streams.door]")

    def held() -> tuple[int, int, float]:
        process = Path(f"/proc/{run.process.pid}")
        resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir())), resident

    def turn(times: int) -> None:
        for _ in range(times):
            assert "model detector from version" in run.hang_up(other)
            assert "model detector from version" in run.hang_up(run.text)
            run.wait_results("gate", 2)

    turn(4)
    wait_until(lambda: run.thread("reload") is None)
    threads, fds, resident = held()
    turn(10)
    wait_until(lambda: run.thread("reload") is None and held()[0] <= threads, what="its threads to end")
    wait_until(lambda: held()[1] <= fds, what="its descriptors to be closed")
    model_mib = sum(file.stat().st_size for file in DETECTOR.glob("*.tflite")) / 2**20
    assert held()[2] < resident + 10 * model_mib, "each of twenty left something of the size of its model"
    summary = run.end()
    assert all(stream["failed"] == 0 for stream in summary["streams"].values())


def test_a_signal_in_the_midst_of_a_reload_is_an_ordinary_end(start: Start, tmp_path: Path) -> None:
    run = start()
    run.file.write_text(run.text.replace(str(DETECTOR), str(newer(tmp_path, "3"))))
    run.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "is read again" in run.log)
    run.end()


def test_what_is_wished_for_runs_and_is_answered(start: Start) -> None:
    run = start(mqtt="desired = true")
    root = "edgerun/dock-1/config"

    def wish(said: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(said)
        say(run, f"{root}/desired", body, retain=True)
        mark = hashlib.sha256(body.encode()).hexdigest()

        def answered(messages: list[Heard]) -> bool:
            reports = [one for one in messages if one.topic == f"{root}/reported" and one.payload]
            return bool(reports) and json.loads(reports[-1].payload)["sha256"] == mark

        run.seen.wait(answered, 30)
        report: dict[str, Any] = json.loads(_last(run.seen, f"{root}/reported"))
        schemas.validate("reported", report)
        return report

    said = {"v": 1, "version": 3, "config": {"streams": {"gate": {"threshold": 0.01}, "yard": None}}}
    report = wish(said)
    assert report | {"sha256": ""} == {"v": 1, "version": 3, "state": "applied", "errors": [], "sha256": ""}
    assert run.events("reloaded") == ["removed yard; changed gate"]
    assert "nothing to change" in run.hang_up(run.text), "the file alone has no say any more"
    refused = {
        "older than what runs": {"version": 2, "config": {}},
        "another config of the version that runs": {"version": 3, "config": {"streams": {"yard": None}}},
        "config/desired: mqtt: not to be changed from afar": {"version": 4, "config": {"mqtt": {"url": "mqtt://x"}}},
        "config/desired: streams.gate.threshold: wrong type": {
            "version": 4, "config": {"streams": {"gate": {"threshold": "high"}}},
        },
        "config/desired: streams.gate.source: a password": {
            "version": 4, "config": {"streams": {"gate": {"source": "rtsp://me:secret@camera/1"}}},
        },
        "config/desired: not a JSON object": "no table",
    }  # fmt: skip
    for what, said_so in refused.items():
        report = wish(said_so)  # type: ignore[arg-type]
        assert report["state"] == "rejected"
        assert any(what in error for error in report["errors"]), report
    assert "secret" not in run.log
    toml = '[streams.other]\nsource = "synthetic:320x240@10"\nmodel = "detector"\n'
    assert wish({"version": 5, "toml": toml})["state"] == "applied"
    assert run.events("reloaded")[-1] == "added other; removed gate"
    say(run, f"{root}/desired", "", retain=True)
    wait_until(lambda: run.events("reloaded")[-1] == "added gate, yard; removed other")
    wait_until(lambda: _last(run.seen, f"{root}/reported") == b"", what="the report's end")
    say(run, f"{root}/desired", json.dumps({"version": 1, "config": {"streams": {"yard": None}}}), retain=True)
    wait_until(lambda: b'"version":1' in _last(run.seen, f"{root}/reported"), 30, "the report")
    assert b"applied" in _last(run.seen, f"{root}/reported")
    run.end()
    again = Run(run.file.parent, run.text, run.seen)
    try:
        wait_until(lambda: "removed yard" in again.log, 60, "the retained wish")
    finally:
        again.process.send_signal(signal.SIGTERM)
        again.process.communicate(timeout=30)


def test_a_wish_from_afar_has_no_say_unless_it_is_allowed(start: Start) -> None:
    run = start()
    say(run, "edgerun/dock-1/config/desired", json.dumps({"version": 1, "config": {"streams": {"yard": None}}}))
    assert run.hang_up(run.text) == "nothing to change"
    assert not [one for one in run.seen.messages if one.topic == "edgerun/dock-1/config/reported"]
    run.end()


def test_systemd_is_told_when_a_reload_begins_and_when_it_is_done(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    text = f'[models.m]\npath = "{DETECTOR}"\n[streams.a]\nsource = "synthetic"\nmodel = "m"\n'
    file.write_text(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, (tmp_path / "log").open("w") as log:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", file, "--quiet"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )  # fmt: skip

        def until(word: str) -> None:
            while not systemd.recv(4096).startswith(word.encode()):
                assert process.poll() is None

        try:
            until("READY=1")
            for changed in (text + "threshold = 0.1\n", text + "threshold = 10\n"):  # one is refused
                file.write_text(changed)
                process.send_signal(signal.SIGHUP)
                until("RELOADING=1\nMONOTONIC_USEC=")
                until("READY=1")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait(10)


class Looking:
    """A sink that wants pictures."""

    wants_picture = True
    broken = False

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def publish(self, publication: Publication) -> None:
        result = publication.result
        self.seen.append((result.model.version, result.lease is not None))

    def flush(self, timeout_s: float) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """Nothing is held."""


def test_a_run_can_be_asked_for_another_model_and_for_its_pictures(tmp_path: Path) -> None:
    notices: NoticeBoard = NoticeBoard()
    made = build(tomllib.loads(TWO), options_of, find_model=lambda name: DETECTOR)
    app = App(made, RunOptions(console=False), SystemClock(), notices, "0123abcd")
    outcomes: list[Outcome] = []
    looking = Looking()

    def until(condition: Callable[[], object]) -> None:
        """The main thread's turns."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            with contextlib.suppress(queue.Empty):
                notice = notices.get(timeout=0.1)
                if isinstance(notice, Asked):
                    notice.do()
            app.tick()

    try:
        app.start()
        app.changing.add_sink(looking, outcomes.append)
        until(lambda: outcomes and (looking.seen and looking.seen[-1][1]))
        with pytest.raises(ConfigError, match="no such model runs; expected one of a, b; got 'c'"):
            app.swap_model("c", DETECTOR, outcomes.append)
        app.swap_model("a", newer(tmp_path, "7"), outcomes.append)
        until(lambda: len(outcomes) == 2 and {"2", "7"} <= {version for version, _ in looking.seen[-20:]})
        assert outcomes[1].changed.swapped.keys() == {"a"}
        assert outcomes[1].told()["changed"].keys() == {"swapped"}
        app.swap_model("a", tmp_path / "nowhere", outcomes.append)
        until(lambda: len(outcomes) == 3)
        assert "nowhere" in outcomes[2].error
        app.changing.remove_sink(looking, outcomes.append)
        until(lambda: len(outcomes) == 4)
        count = len(looking.seen)
        published = app.pipeline.publisher.published
        until(lambda: app.pipeline.publisher.published > published + 5)
        assert len(looking.seen) == count
        assert app.pipeline.workers[0].idle in (True, False)
    finally:
        app.stop(10)
        app.close()
    for stream in app.summary()["streams"].values():
        assert stream["in_flight"] == 0
        assert stream["failed"] == 0


def test_home_assistant_learns_of_other_streams(start: Start) -> None:
    run = start(mqtt="home_assistant = true")
    run.hang_up(run.text.replace("[streams.gate]", "[streams.door]"))

    def told(messages: list[Heard]) -> bool:
        found = [one.payload for one in messages if one.topic.startswith("homeassistant/device/")]
        return bool(found) and b"door_state" in found[-1] and b"gate_state" not in found[-1]

    run.seen.wait(told, 30)
    assert b"reload" in next(one.payload for one in run.seen.messages if one.topic.startswith("homeassistant/device/"))
    run.end()


def test_a_run_from_flags_has_nothing_to_read_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--model", DETECTOR, "--source", "synthetic", "--quiet"],
            stdin=subprocess.DEVNULL, stdout=err, stderr=err,
        )  # fmt: skip
    try:
        hung_up = [0]

        def refused() -> bool:  # until its handler is there a SIGHUP would end it: systemd waits for READY
            status = Path(f"/proc/{process.pid}/status").read_text()
            caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
            if caught >> (signal.SIGHUP - 1) & 1 and not hung_up[0]:
                hung_up[0] += 1
                process.send_signal(signal.SIGHUP)
            return "no config file that could be read again" in log.read_text()

        wait_until(refused, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)


def _last(seen: Subscriber, topic: str) -> bytes:
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


CHANGES: dict[str, tuple[Callable[[str], str], Difference]] = {
    "nothing": (lambda text: text, Difference()),
    "a model": (lambda text: text.replace("threads = 1", "threads = 2"), Difference(opened=frozenset("b"))),
    "how a model is swapped": (lambda text: text.replace("threads = 1", 'threads = 1\nswap = "gap"'), Difference()),
    "a threshold": (
        lambda text: text + "threshold = 0.2\n",
        Difference(changed=frozenset("y"), governed=True),
    ),
    "a source": (
        lambda text: text + "loop = true\n",
        Difference(renewed=frozenset("y"), governed=True),
    ),
    "another model": (
        lambda text: text.replace('model = "b"', 'model = "a"'),
        Difference(closed=frozenset("b"), renewed=frozenset("y"), governed=True),
    ),
    "a name": (
        lambda text: text.replace("streams.y", "streams.z"),
        Difference(added=frozenset("z"), removed=frozenset("y"), governed=True),
    ),
    "what governs": (lambda text: text + "[governor]\npower_w = 5\n", Difference(governed=True)),
    "a model nobody uses": (lambda text: text + '[models.c]\npath = "ssd-mobilenet-v2-oid"\n', Difference()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_only_what_differs_is_touched(what: str) -> None:
    change, expected = CHANGES[what]
    assert compare(config(TWO), config(change(TWO))) == expected


def test_a_file_that_differs_is_another_model() -> None:
    assert compare(config(TWO), config(TWO), replaced=["a"]) == Difference(opened=frozenset("a"))


KEYS = st.text("abc", min_size=1, max_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(target=st.dictionaries(KEYS, JSON, max_size=3), patch=JSON)
def test_a_patch_applied_twice_is_applied_once(target: dict[str, Any], patch: Any) -> None:
    patch = patch if isinstance(patch, dict) else {}
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_the_standard(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged


def test_an_overlay_knows_its_own_places() -> None:
    patch = Overlay("afar", {"streams": {"a": {"threshold": 0.5}}})
    assert patch.holds("streams.a.threshold")
    assert not patch.holds("streams.a")
    assert not patch.holds("streams.b.threshold")
    assert Overlay("afar", {"streams": {}}, whole=True).holds("streams.b.threshold")


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("[]", "not a JSON object"),
        ('{"version": 1}', "twice, or not at all"),
        ('{"version": 1, "config": {}, "toml": ""}', "twice, or not at all"),
        ('{"version": true, "config": {}}', "no usable version"),
        ('{"v": 2, "version": 1, "config": {}}', "another format"),
        ('{"version": 1, "toml": "a = "}', "not valid TOML"),
        ('{"version": 1, "config": [], "x": 1}', "unknown key"),
        ('{"version": 1, "config": {"security": {}}}', "not to be changed from afar"),
        ('{"version": 1, "config": {"streams": {"a": {"source": {"kind": "exec"}}}}}', "runs a program"),
        ('{"version": 1, "config": {"models": {"a": {"accelerators": [{"kind": "external"}]}}}}', "loads a library"),
        ('{"version": 1, "config": {"models": {"a": {"key": {"file": "/etc/key"}}}}}', "a secret"),
        ('{"version": 1, "config": {"streams": {"a": {"collect": {"folder": "/"}}}}}', "a folder to write to"),
        ('{"version": 1, "config": {"streams": {"a": {"source": "http://u:p@h/"}}}}', "a password"),
    ],
)
def test_what_may_not_be_wished_for(said: str, what: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read_desired(said.encode())
    assert what in str(caught.value)
    assert "config/desired" in str(caught.value)


@given(st.binary(max_size=200))
def test_any_message_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(ConfigErrors):
        read_desired(payload)
