"""The real daemon on a board's tree whose temperature this process raises, with a real broker listening."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import mosquitto, schemas
from tests.boards import tree
from tests.test_end_to_end import CLIP, DETECTOR, FATES, summary_of

Heard = list[mosquitto.Heard]


def payloads(messages: Heard, topic: str) -> list[dict[str, Any]]:
    return [json.loads(one.payload) for one in messages if one.topic.endswith(topic)]


def events(kind: str) -> Callable[[Heard], bool]:
    return lambda messages: any(one["kind"] == kind for one in payloads(messages, "/event"))


@pytest.mark.timeout(300)  # a trend takes its time to be forgotten
def test_heat_slows_the_stream_down_and_it_recovers(tmp_path: Path) -> None:
    root, state = tmp_path / "board", tmp_path / "state"
    tree.unpack(tree.read("jetson-orin-nano"), root)
    (temp,) = [path.parent / "temp" for path in root.glob("sys/**/type") if path.read_text().strip() == "cpu-thermal"]
    temp.write_text("45000\n")
    for other in root.glob("sys/**/type"):  # the hottest of the processor's zones counts
        if other.read_text().strip() in ("tj-thermal", "soc0-thermal", "soc1-thermal", "soc2-thermal"):
            (other.parent / "temp").write_text("40000\n")
    with mosquitto.broker() as broker, mosquitto.subscriber(broker) as heard:
        config = tmp_path / "edgerun.toml"
        config.write_text(
            f"""
            [device]
            id = "orin-1"
            [mqtt]
            url = "{broker.url}"
            telemetry_interval = 1
            [models.detector]
            path = "{DETECTOR}"
            [streams.dock]
            source = "{CLIP}"
            loop = true
            model = "detector"
            [governor]
            temp_c = {{ warm = 70, hot = 80, stop = 95 }}
            means = ["fps"]
            under_voltage = false
            up_s = 1
            settle_s = 1
            [sensors]
            root = "{root}"
            interval_s = 0.2
            """
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", str(config), "--quiet", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "STATE_DIRECTORY": str(state)},
        )
        try:
            heard.wait(lambda messages: len(payloads(messages, "/detections/dock")) > 15, 60)
            heard.wait(lambda messages: payloads(messages, "/telemetry"), 30)
            before = payloads(heard.messages, "/telemetry")[-1]
            assert before["governor"]["level"] == 0
            temp.write_text("82000\n")
            messages = heard.wait(events("governed"), 30)
            assert "82.0 °C" in next(e["text"] for e in payloads(messages, "/event") if e["kind"] == "governed")

            def limited(messages: Heard) -> bool:
                told = [one for one in payloads(messages, "/telemetry") if one["governor"]["level"] >= 4]
                return len(told) > 2 and told[-1]["streams"]["dock"]["limited"] > 5

            hot = payloads(heard.wait(limited, 60), "/telemetry")[-1]
            assert hot["governor"]["streams"]["dock"]["max_fps"] < 8
            assert hot["governor"]["reason"] == "the processor is at 82.0 °C, which is hot"
            degraded = [one for one in payloads(heard.messages, "/state/dock") if one["state"] == "degraded"]
            assert degraded[-1]["reason"] == "the processor is at 82.0 °C, which is hot"
            temp.write_text("96000\n")
            heard.wait(lambda m: any(one["state"] == "paused" for one in payloads(m, "/state/dock")), 30)
            temp.write_text("45000\n")
            heard.wait(lambda m: payloads(m, "/state/dock")[-1]["state"] == "degraded", 30)
            heard.wait(events("recovered"), 60)
            heard.wait(lambda m: payloads(m, "/state/dock")[-1]["state"] == "running", 30)
            count = len(payloads(heard.messages, "/telemetry"))
            heard.wait(lambda m: len(payloads(m, "/telemetry")) > count + 2, 30)
            cool = payloads(heard.messages, "/telemetry")[-1]
            assert cool["governor"] == {"level": 0, "levels": before["governor"]["levels"]}
            assert cool["thermal"]["soc_temp_c"] == 45.0
            assert cool["power"]["source"] == "rail"
            for topic in ("telemetry", "event", "state"):
                for payload in payloads(heard.messages, f"/{topic}" if topic != "state" else "/state/dock"):
                    schemas.validate(topic, payload)
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    stream = summary_of(out)["streams"]["dock"]
    assert stream["limited"] > 5
    assert stream["grabbed"] == sum(stream[fate] for fate in FATES)
    assert json.loads((state / "energy.json").read_text())["energy_kwh"] > 0


@pytest.mark.timeout(240)
def test_a_smaller_model_stands_in_when_it_is_hot(tmp_path: Path) -> None:
    """Two bundles of the same model stand for a large and a small one; the results tell which."""
    root = tmp_path / "board"
    zone = root / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("82000\n")
    lines, small = tmp_path / "results.jsonl", tmp_path / "small"
    shutil.copytree(DETECTOR, small)
    manifest = json.loads((small / "manifest.json").read_text())
    (small / "manifest.json").write_text(json.dumps({**manifest, "name": "small-one"}))
    config = tmp_path / "edgerun.toml"
    config.write_text(
        f"""
        [models.detector]
        path = "{DETECTOR}"
        variants = ["small"]
        [models.small]
        path = "{small}"
        threads = 1
        [streams.dock]
        source = "{CLIP}"
        loop = true
        track = true
        model = "detector"
        [governor]
        temp_c = {{ warm = 70, hot = 80 }}
        means = ["variant"]
        up_s = 1
        settle_s = 1
        [sensors]
        root = "{root}"
        interval_s = 0.2
        """
    )
    process = subprocess.Popen(
        [
            sys.executable, "-m", "edgerun", "run", "--config", str(config), "--quiet", "--json",
            "--jsonl", str(lines),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")},
    )  # fmt: skip
    try:
        mosquitto.wait_until(
            lambda: lines.exists() and lines.read_text().count('"small-one"') > 10, 90, "results of the small one"
        )
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "governed" in err
    summary = summary_of(out)
    assert summary["streams"]["dock"]["published"] > 10
    assert set(summary["engines"]) == {"detector", "small"}
    results = [json.loads(line) for line in lines.read_text().splitlines()]
    seqs = [one["seq"] for one in results]
    assert seqs == sorted(set(seqs))
    models = [one["model"]["name"] for one in results]
    assert "small-one" in models
    assert models == sorted(models, key=lambda name: name == "small-one")  # it is hot throughout
    tracks = [one["track"] for result in results for one in result["detections"] if "track" in one]
    assert 0 < len(set(tracks)) < len(tracks)
