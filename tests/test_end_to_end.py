"""The main job as a user runs it: real processes, the bundled model and clip, a real broker, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import emulators, mosquitto, schemas
from tests.real_models import model_file

CLIP = Path(__file__).parent.parent / "models" / "clips" / "street.mp4"
DETECTOR = Path(__file__).parent.parent / "models" / "ssd-mobilenet-v2-oid"
FATES = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed")


def edgerun(*args: object, timeout_s: float = 90, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgerun", *map(str, args)], capture_output=True, text=True, timeout=timeout_s, **how
    )


def start(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgerun", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def summary_of(stdout: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    schemas.validate("summary", summary)
    for stream in summary["streams"].values():
        assert stream["in_flight"] == 0
        assert stream["grabbed"] == sum(stream[fate] for fate in FATES)
    return summary


def results_of(path: Path) -> list[dict[str, Any]]:
    results = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for result in results:
        schemas.validate("result", result)
    return results


def test_demo_finds_the_people_in_the_street(tmp_path: Path) -> None:
    snapshot, video, lines = tmp_path / "s.jpg", tmp_path / "v.mp4", tmp_path / "r.jsonl"
    done = edgerun(
        "demo", "--seconds", 4, "--json", "--snapshot", snapshot, "--save", video, "--jsonl", lines,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (stream,) = summary_of(done.stdout)["streams"].values()
    assert stream["published"] >= 5
    results = results_of(lines)
    assert len(results) == stream["published"]
    people = [d for r in results for d in r["detections"] if d["label"].lower() == "person"]
    assert len(people) >= len(results)
    assert snapshot.stat().st_size > 10_000
    assert video.stat().st_size > 10_000


def test_as_fast_infers_every_frame(tmp_path: Path) -> None:
    lines = tmp_path / "r.jsonl"
    done = edgerun(
        "run", "--model", DETECTOR, "--source", CLIP, "--as-fast", "--quiet", "--json", "--jsonl", lines
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stream = summary_of(done.stdout)["streams"]["main"]
    assert stream["grabbed"] == stream["published"] >= 90
    results = results_of(lines)
    assert [r["seq"] for r in results] == list(range(len(results)))
    assert len({r["id"] for r in results}) == len(results)


def test_overload_is_accounted_for_and_what_comes_out_is_fresh(tmp_path: Path) -> None:
    lines = tmp_path / "r.jsonl"
    done = edgerun(
        "run", "--model", DETECTOR, "--source", "synthetic:640x480@4000", "--seconds", 5, "--max-age-ms", 400,
        "--quiet", "--json", "--jsonl", lines,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stream = summary_of(done.stdout)["streams"]["main"]
    assert 0 < stream["published"] < stream["grabbed"]
    assert stream["skipped"] > 0
    results = results_of(lines)
    assert max(r["age_ms"] for r in results) <= 400
    seqs = [r["seq"] for r in results]
    assert seqs == sorted(set(seqs))


@pytest.mark.parametrize("results_before_signal", [0, 1, 7])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_summary_that_adds_up(results_before_signal: int, number: signal.Signals) -> None:
    process = start(
        "run", "--model", DETECTOR, "--source", "synthetic:320x240@200", "--source", CLIP, "--loop", "--json",
        "--jsonl", "-", "--quiet",
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(results_before_signal):
        assert process.stdout.readline()
    if not results_before_signal:  # handlers are in place before anything is opened
        assert process.stderr is not None
        assert process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert len(summary_of(out)["streams"]) == 2


def test_config_file_to_real_subscriber(tmp_path: Path) -> None:
    with mosquitto.broker() as broker:
        config = tmp_path / "edgerun.toml"
        config.write_text(
            f"""
            [device]
            id = "dock-7"
            [mqtt]
            url = "{broker.url}"
            telemetry_interval = "1s"
            [models.detector]
            path = "{DETECTOR}"
            [streams.dock]
            source = "{CLIP}"
            loop = true
            model = "detector"
            labels = ["person"]
            """
        )
        with mosquitto.subscriber(broker, "edgerun/#") as seen:
            process = start("run", "--config", config, "--quiet")
            try:
                wanted = {
                    "edgerun/dock-7/status", "edgerun/dock-7/info", "edgerun/dock-7/state/dock",
                    "edgerun/dock-7/detections/dock", "edgerun/dock-7/telemetry",
                }  # fmt: skip
                seen.wait(lambda messages: wanted <= {m.topic for m in messages}, timeout_s=60)
            finally:
                process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
            messages = seen.wait(lambda ms: ms[-1].topic.endswith("/status") and ms[-1].payload == b"offline", 30)
    statuses = [m.payload for m in messages if m.topic == "edgerun/dock-7/status"]
    assert statuses == [b"online", b"offline"]
    for message in messages:
        kind = message.topic.split("/")[2]
        if kind != "status":
            schemas.validate({"detections": "result", "models": "model"}.get(kind, kind), json.loads(message.payload))
    results = [json.loads(m.payload) for m in messages if "/detections/" in m.topic]
    assert all(d["label"] == "person" for r in results for d in r["detections"])
    states = [json.loads(m.payload)["state"] for m in messages if "/state/" in m.topic]
    assert (states[0], states[-1]) == ("stalled", "ended"), "before the first frame and after the stop it runs nothing"
    assert "running" in states
    assert len({r["id"] for r in results}) == len(results)


def test_mosquitto_sub_sees_every_result(tmp_path: Path) -> None:
    with mosquitto.broker("log_type all") as broker:
        listener = mosquitto.mosquitto_sub(broker, "edgerun/+/detections/#", 20)
        done = edgerun(
            "run", "--model", DETECTOR, "--source", CLIP, "--as-fast", "--frames", 20,
            "--broker", broker.url, "--quiet", "--json",
        )  # fmt: skip
        messages = mosquitto.lines_of(listener)
    assert done.returncode == 0, done.stderr
    summary = summary_of(done.stdout)
    assert summary["streams"]["main"]["published"] == len(messages) == 20
    assert summary["mqtt"]["dropped"] == {}
    for message in messages:
        schemas.validate("result", json.loads(message["payload"]))


def test_results_survive_a_broker_that_restarts(tmp_path: Path) -> None:
    lines = tmp_path / "r.jsonl"
    with mosquitto.broker() as broker:
        process = start(
            "run", "--model", DETECTOR, "--source", CLIP, "--loop", "--broker", broker.url, "--jsonl", lines, "--quiet"
        )
        try:
            with mosquitto.subscriber(broker, "edgerun/+/detections/#") as seen:
                seen.wait(lambda ms: len(ms) >= 3, 60)
            broker.kill()
            broker.start()
            with mosquitto.subscriber(broker, "edgerun/+/detections/#") as seen:
                seen.wait(lambda ms: len(ms) >= 3, 60)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert process.returncode == 0


def test_stops_in_time_with_the_broker_unreachable(tmp_path: Path) -> None:
    process = start(
        "run", "--model", DETECTOR, "--source", CLIP, "--loop", "--broker", "mqtt://127.0.0.1:1", "--quiet",
        "--jsonl", "-", "--json",
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=8)
    assert process.returncode == 0, err
    assert "127.0.0.1" in err
    summary_of(out)


@pytest.mark.parametrize("camera", ["mjpeg", "rtsp"])
def test_a_network_camera(camera: str) -> None:
    with emulators.start(camera, "--size", "320x240", "--fps", "20") as emulator:
        done = edgerun(
            "run", "--model", DETECTOR, "--source", emulator.url, "--seconds", 6, "--quiet", "--json"
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert summary_of(done.stdout)["streams"]["main"]["published"] >= 10


def test_a_camera_that_goes_silent_is_told_and_the_other_stream_goes_on() -> None:
    with emulators.start("mjpeg", "--fps", "20", "--silent-after", "10") as silent:
        done = edgerun(
            "run", "--model", DETECTOR, "--source", silent.url, "--source", "synthetic:320x240@10", "--seconds", 12,
            "--quiet", "--json",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "stalled" in done.stderr
    silent_stream, other = summary_of(done.stdout)["streams"].values()
    assert 0 < silent_stream["grabbed"] <= 50  # ten per connection
    assert other["published"] >= 50


def test_classifying_photographs_in_a_folder(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("chelsea.png", "coffee.png"):
        os.symlink(model_file(name), pictures / name)
    lines = tmp_path / "r.jsonl"
    done = edgerun(
        "run", "--model", model_file("efficientnet_lite0_int8.tflite"), "--source", pictures, "--top-k", 3,
        "--threshold", 0, "--jsonl", lines, "--quiet", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cat, coffee = results_of(lines)
    assert cat["item"] == "chelsea.png"
    assert any("cat" in c["label"] for c in cat["classes"]), cat
    assert {c["label"] for c in coffee["classes"]} & {"espresso", "cup"}, coffee
