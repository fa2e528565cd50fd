"""A run takes another config while it goes on: real processes, real models, a real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mosquitto import Heard, wait_until
from tests.reload.running import DETECTOR, Start, last, newer, say

pytestmark = pytest.mark.timeout(400)  # more than all that one of them may wait for


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
    results = run.results("yard")
    seqs = [one["seq"] for one in results]
    assert seqs == sorted(set(seqs))
    # What is missing in between was skipped, as ever; while the last one was inferred frames behind it were, too.
    missing = seqs[-1] + 1 - len(seqs)
    behind = summary["streams"]["yard"]["grabbed"] - seqs[-1] - 1
    assert 0 <= sum(sum(one["dropped"].values()) for one in results) - missing <= behind
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
    answer = json.loads(last(run.seen, "edgerun/dock-1/cmd/reload/result"))
    done = subprocess.run(
        [sys.executable, "-m", "edgerun", "check", "--config", run.file], capture_output=True, text=True, check=False
    )
    assert answer["ok"] is False
    assert all(f"edgerun: {line}." in done.stderr for line in answer["error"].splitlines())
    run.file.write_text(run.text)
    say(run, "edgerun/dock-1/cmd/reload", '{"id": "2"}')
    topic = "edgerun/dock-1/cmd/reload/result"
    run.seen.wait(lambda messages: sum(one.topic == topic for one in messages) == 2, 30)
    assert json.loads(last(run.seen, topic)) | {"seconds": 0} == {
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
