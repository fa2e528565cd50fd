"""Long rounds of what the quick tests look at once (`tools/test --slow`)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests import emulators
from tests.test_end_to_end import CLIP, DETECTOR, start, summary_of

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_every_frame_is_accounted_for_at_forty_random_stops() -> None:
    """A flood and a live clip on one engine, ended by either signal at any moment of their run."""
    chance = random.Random(20261121)
    for number in range(40):
        process = start(
            "run", "--model", DETECTOR, "--source", "synthetic:320x240@3000", "--source", CLIP, "--loop", "--json",
            "--jsonl", "-", "--quiet", "--max-age-ms", chance.choice([30, 300]),
        )  # fmt: skip
        assert process.stdout is not None
        wanted = chance.randrange(1, 60)
        for _ in range(wanted):
            assert process.stdout.readline(), number
        timer = threading.Timer(
            chance.random() * 0.05, process.send_signal, (chance.choice([signal.SIGTERM, signal.SIGINT]),)
        )
        timer.start()
        out, err = process.communicate(timeout=30)
        timer.join()
        assert process.returncode == 0, (number, err)
        streams = summary_of(out)["streams"]
        assert sum(stream["published"] for stream in streams.values()) >= wanted


@pytest.mark.timeout(900)
def test_memory_is_flat_over_ten_minutes(tmp_path: Path) -> None:
    """Camera, gate, tracks, zones and result lines: after two minutes resident memory grows by less than 1 MiB/h.

    What a run of this length can tell apart is a slope of some 2 MiB/h, so that is the bound.
    """
    config = tmp_path / "edge.toml"
    with emulators.start("mjpeg", "--fps", 30, "--size", "768x576", "--video", CLIP) as camera:
        config.write_text(
            f'[models.detector]\npath = "{DETECTOR}"\nthreads = 1\n'
            f'[streams.street]\nsource = "{camera.url}"\nmodel = "detector"\ntrack = true\n'
            "[streams.street.gate]\nstill_s = 5\n"
            "[streams.street.zones.left]\npolygon = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]\n",
            encoding="utf-8",
        )
        process = start("run", "--config", config, "--quiet", "--json", "--jsonl", os.devnull, "--seconds", 600)
        samples: list[tuple[float, float]] = []
        began_s = time.monotonic()
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                break
            passed_s = time.monotonic() - began_s
            if passed_s > 120:
                samples.append((passed_s, resident_mib(process.pid)))
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert summary_of(out)["streams"]["street"]["published"] > 10_000
    slope_mib_h = statistics.linear_regression(*zip(*samples, strict=True)).slope * 3600
    print(f"{len(samples)} samples, last {samples[-1][1]:.1f} MiB, slope {slope_mib_h:.2f} MiB/h")
    assert slope_mib_h < 2


@pytest.mark.timeout(900)
def test_a_short_soak_passes_and_is_reported(tmp_path: Path) -> None:
    """Two minutes of `tools/soak` with a fault every two seconds."""
    report = tmp_path / "soak.md"
    command = ["--hours", "0.033", "--every", "2", "--seed", "11", "--report", report, "--keep", tmp_path / "kept"]
    done = soak(*command).communicate()
    log = (tmp_path / "kept" / "daemon.log").read_text(encoding="utf-8")
    assert "passed (seed 11)" in done[0], done[0] + done[1] + log
    told = report.read_text(encoding="utf-8")
    assert told.startswith("# Soak: passed")
    assert all(f"| frames of {name} |" in told for name in ("street", "yard", "pattern", "voice"))


@pytest.mark.timeout(120)
def test_a_soak_that_is_ended_takes_everything_with_it(tmp_path: Path) -> None:
    process = soak("--hours", 1, "--keep", tmp_path)
    assert process.stderr is not None
    assert "published" in process.stderr.readline()
    processes = [process.pid, *(one.pid for one in psutil.Process(process.pid).children(recursive=True))]
    assert len(processes) >= 5  # the daemon, the broker and two cameras
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not [pid for pid in processes if psutil.pid_exists(pid)]


def soak(*args: object) -> subprocess.Popen[str]:
    """`tools/soak` without its setting up."""
    command = [sys.executable, "-m", "tools.soak_parts", *map(str, args)]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
