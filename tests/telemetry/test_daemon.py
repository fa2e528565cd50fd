"""The published telemetry of the real daemon, on a board's tree, with a real broker: item by item what is promised."""

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

import cv2
import numpy as np

from tests import mosquitto, schemas
from tests.boards import tree
from tests.test_end_to_end import CLIP, DETECTOR, FATES

Told = dict[str, Any]


def run(
    folder: Path, config: Path, broker: mosquitto.Broker, wanted: Callable[[Told], bool]
) -> tuple[Told, list[Told]]:
    """The first telemetry that is `wanted`, of a run of its own, and the events until then; it ends by SIGTERM."""
    with mosquitto.subscriber(broker, "edgerun/#") as heard:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", "run", "--config", str(config), "--quiet"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "STATE_DIRECTORY": str(folder / "state")},
        )
        try:

            def telemetries() -> list[Told]:
                return [json.loads(one.payload) for one in heard.messages if one.topic.endswith("/telemetry")]

            heard.wait(lambda messages: any(wanted(one) for one in telemetries()), 90)
            events = [json.loads(one.payload) for one in heard.messages if one.topic.endswith("/event")]
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    for one in telemetries():
        schemas.validate("telemetry", one)
    for one in events:
        schemas.validate("event", one)
    return next(one for one in telemetries() if wanted(one)), events


def black_clip(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    noise = np.random.default_rng(1)
    for _ in range(100):
        writer.write(noise.integers(0, 3, (240, 320, 3), np.uint8))
    writer.release()
    return path


def test_what_is_promised_is_in_it(tmp_path: Path) -> None:
    root, model = tmp_path / "board", tmp_path / "model"
    tree.unpack(tree.read("pi5"), root)
    shutil.copytree(DETECTOR, model)
    manifest = json.loads((model / "manifest.json").read_text())
    manifest.pop("reference", None)  # so that what is usual has to be learnt
    (model / "manifest.json").write_text(json.dumps(manifest))
    config = tmp_path / "edgerun.toml"
    with mosquitto.broker() as broker:
        config.write_text(
            f"""
            [device]
            id = "pi-1"
            [mqtt]
            url = "{broker.url}"
            telemetry_interval = 1
            [models.detector]
            path = "{model}"
            [streams.dock]
            source = "{CLIP}"
            loop = true
            model = "detector"
            max_fps = 5
            [streams.night]
            source = "{black_clip(tmp_path / "black.avi")}"
            loop = true
            model = "detector"
            max_fps = 2
            [sensors]
            root = "{root}"
            interval_s = 0.5
            vcgencmd = true
            """
        )

        def whole(told: Told) -> bool:
            dock, night = told["streams"]["dock"], told["streams"]["night"]
            # Of a live source one result a second is looked at; each has several people in it.
            return bool(dock.get("fps", 0) > 0 and dock["drift"]["observations"] > 10 and night.get("input"))

        told, events = run(tmp_path, config, broker, whole)
        dock, night = told["streams"]["dock"], told["streams"]["night"]
        assert dock["grabbed"] == sum(dock[fate] for fate in FATES) + dock["in_flight"]
        assert dock["limited"] + dock["skipped"] > 0
        assert set(dock["age_ms"]) == {"p50", "p90", "p95", "p99", "max"}
        assert {"wait", "preprocess", "infer", "decode"} <= set(dock["latency_ms"])
        assert all(set(one) == {"p50", "p90", "p95", "p99", "max"} for one in dock["latency_ms"].values())
        assert (dock["stalls_1h"], dock["reconnects_1h"]) == (0, 0)
        assert dock["drift"]["reference"] == "learning"
        assert "dark" in night["input"] or "covered" in night["input"]
        assert any(one["kind"].startswith("input_") and one["stream"] == "night" for one in events)
        engine = told["engines"]["detector"]
        assert engine["accelerator"] == "cpu"
        assert 0 < engine["busy"] <= 1
        assert told["thermal"] == {
            "soc_temp_c": 47.2,
            "throttled": False,
            "since_boot": ["under_voltage", "throttled"],
        }
        assert told["power"]["source"] == "pmic"
        assert told["memory"]["rss_mib"] > 20
        assert told["spool"] == {"messages": 0, "bytes": 0, "dropped": 0}
        assert told["sensors"]["values"]["wifi/wlan0/signal_dbm"] == -56
        assert told["clock"]["uptime_s"] > 0
        learnt = json.loads((tmp_path / "state" / "drift.json").read_text())
        assert learnt["device"] == "pi-1"
        (kept,) = (one for account, one in learnt["accounts"].items() if account == "dock")
        seen = sum(kept["counted"]["scores"])
        assert seen > 10
        # The next run goes on where this one stopped.
        again, _ = run(tmp_path, config, broker, lambda told: told["streams"]["dock"]["drift"]["observations"] > 0)
        assert again["streams"]["dock"]["drift"]["observations"] >= seen
