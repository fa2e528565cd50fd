"""tools/bench-peers: every peer runs against the camera, all read the same stamp, and the table renders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.capture.stamp import draw_stamp

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "tools" / "peers"
MODEL = ROOT / "models" / "ssd-mobilenet-v2-oid"
sys.path.insert(0, str(PEERS))

import environments  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import tally  # noqa: E402
from plan import BARE, BY_NAME, LEFT_OUT, SUBJECTS  # noqa: E402


@pytest.fixture(scope="module")
def camera() -> Iterator[str]:
    with measure.camera(50.0, None) as url:
        yield url


def command_of(name: str) -> list[str]:
    subject = BY_NAME[name]
    model = MODEL if name == "edgerun" else MODEL / "model.tflite"
    python = Path(sys.executable)
    if subject.environment != "edgerun":
        python = ROOT / ".cache" / "peers" / subject.environment / "bin" / "python"
        if not python.exists():
            pytest.skip(f"tools/bench-peers, which sets up {subject.environment}, has not been run here")
    if name == "mediapipe":
        model = environments.mediapipe_model(ROOT / ".cache" / "peers")
    words = [python, PEERS / subject.script, "--model", model, *subject.flags]
    return [*map(str, words), "--labels", str(MODEL / "labels.txt")]


@pytest.mark.parametrize("name", [subject.name for subject in SUBJECTS])
def test_a_peer_runs_against_the_camera(name: str, camera: str) -> None:
    figures = measure.subject([*command_of(name), "--url", camera], 0.5, None)
    assert figures["results"] > 0
    assert figures["unreadable"] == 0
    assert figures["detections"] > 0
    assert figures["decoded_per_result"] >= 0.9
    assert 0 < figures["ages_ms"]["p50"] <= figures["ages_ms"]["max"]
    assert figures["cpu_s"] > 0
    assert figures["rss_mib"] >= figures["pss_mib"] > 0
    json.dumps(figures)


def test_a_subject_that_ends_at_once_is_told_with_its_reason() -> None:
    with pytest.raises(measure.Failed, match=r"ended with 1 before its first result.*no such thing"):
        measure.subject([sys.executable, "-c", "raise SystemExit('no such thing')"], 0.1, None)


def test_the_bare_loop_tells_its_rate() -> None:
    command = [sys.executable, str(PEERS / BARE), "--model", str(MODEL / "model.tflite")]
    said = measure.bare_loop(command, 0.2, None)
    assert said["results"] > 0
    assert said["invoke_ms"]["p50"] <= said["invoke_ms"]["max"]


def test_peers_and_edgerun_find_the_same_things() -> None:
    import cv2
    from detector import Detector

    clip = ROOT / "models" / "clips" / "street.mp4"
    words = ["run", "--model", MODEL, "--source", clip, "--as-fast", "--frames", "1", "--jsonl", "-", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "edgerun", *map(str, words)], capture_output=True, text=True, cwd=ROOT)
    ours = json.loads(done.stdout.splitlines()[0])["detections"]
    frame = cv2.VideoCapture(str(clip)).read()[1]
    theirs = Detector(str(MODEL / "model.tflite"), str(MODEL / "labels.txt")).detect(frame)
    assert [one["label"] for one in theirs] == [one["label"] for one in ours]
    assert len(ours) > 2
    for one, other in zip(theirs, ours, strict=True):
        x, y, width, height = one["box"]
        assert one["score"] == pytest.approx(other["score"], abs=0.02)
        assert [x, y, x + width, y + height] == pytest.approx(other["box"], abs=0.01)


@given(number=st.integers(0, 2**32 - 1), made_ns=st.integers(0, 2**63), noise=st.integers(0, 60))
def test_the_peers_read_what_edgerun_draws(number: int, made_ns: int, noise: int) -> None:
    image = np.zeros((80, 140, 3), np.uint8)
    assert tally.read_stamp(image + 99) is None
    draw_stamp(image, number, made_ns)
    blurred = np.clip(image.astype(np.int16), noise, 255 - noise).astype(np.uint8)
    assert tally.read_stamp(blurred) == (number, made_ns)
    assert tally.read_stamp(image[:63]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_nearest_ranks(values: list[float]) -> None:
    told = tally.percentiles(values)
    for percent in tally.PERCENTS:
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert told[f"p{percent}"] == pytest.approx(exact, abs=0.001)
    assert told["max"] == pytest.approx(max(values), abs=0.001)


def row(subject: str, number: int, load: float, rate: float, age_ms: float) -> dict[str, Any]:
    ages = {"p50": age_ms, "p95": 2 * age_ms, "p99": 3 * age_ms, "max": 4 * age_ms}
    return {
        **{"round": number, "placement": "one", "load": load, "subject": subject, "ages_ms": ages, "start_s": 0.4},
        **{"results": rate * 2, "seconds": 2.0, "cpu_s": 1.0, "neighbours_s": 0.1, "pss_mib": 80.0, "rss_mib": 99.0},
        **{"decoded_per_result": 1.0, "unreadable": 0, "detections": 9},
    }


@pytest.fixture
def saved() -> dict[str, Any]:
    runs = []
    for number in range(3):
        for load in (0.25, 3.0):
            runs += [row("edgerun", number, load, 40 + number, 20.0), row("latest", number, load, 20 + number, 30.0)]
        runs.append(row("vendor", number, 0.25, 50 + number, 50.0))
        runs.append({"round": number, "placement": "one", "load": 3.0, "subject": "vendor", "failed": "it fell over."})
    invoke = {"p50": 5.0, "p95": 6.0, "p99": 7.0, "max": 8.0}
    bare = [{"round": 0, "placement": "one", "results": 300, "seconds": 1.5, "cpu_s": 1.4, "invoke_ms": invoke}]
    return {
        **{"format": report.FORMAT, "when": "2026-11-21", "machine": "two x86-64 cores, shared"},
        **{"versions": {"Python": "3.11"}, "bare": bare, "runs": runs, "missing": dict(LEFT_OUT)},
        "settings": {"seconds": 2.0, "rounds": 3, "rate": 200.0, "same_cpu": False},
    }


def test_the_table_of_a_saved_run(saved: dict[str, Any]) -> None:
    text = report.render(json.loads(json.dumps(saved)))
    assert "| reader thread, latest slot | 42.0 [40.0–44.0] · 0.51× [0.50–0.52] |" in text
    assert "| vendor example loop | 102.0 [100.0–104.0] · 1.24× [1.24–1.25] | — |" in text
    assert "| edgerun / latest slot | measured | target |" in text
    assert "| rate at 3× | 1.95× [1.91–2.00] | ≥ 1.25× | met |" in text
    behind = text.partition("## Where edgerun is behind")[2].partition("## Not measured")[0]
    assert "results per second at 0.25×: vendor example loop 1.24×" in behind
    assert "latest slot" not in behind
    assert text.count("it fell over.") == 3
    assert all(name in text for name in LEFT_OUT)
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.strip().splitlines() if line.startswith("|")}) == 1


def test_where_nothing_is_better_the_table_says_so(saved: dict[str, Any]) -> None:
    saved["runs"] = [one for one in saved["runs"] if one["subject"] != "vendor"]
    assert "Nowhere by more than 3%." in report.render(saved)


def test_render_from_the_command_line(saved: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(saved))
    words = [sys.executable, PEERS / "main.py", "--render", tmp_path / "run.json"]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, report.render(saved))


def test_an_unknown_subject_is_refused() -> None:
    done = subprocess.run([sys.executable, PEERS / "main.py", "--only", "edgerum"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no 'edgerum'; there is edgerun, latest" in done.stderr


def test_the_tables_in_docs_are_those_of_their_runs() -> None:
    for path in (ROOT / "docs" / "benchmarks").glob("*.json"):
        saved = json.loads(path.read_text())
        if {"settings", "runs", "bare"} <= saved.keys():  # other instruments may keep their figures here too
            assert path.with_suffix(".md").read_text() == report.render(saved)
