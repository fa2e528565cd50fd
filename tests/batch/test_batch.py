"""`edgerun batch`: every frame of every file once, whatever ends a run, and on a cluster as at home."""

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

import psutil
import pytest

from edgerun.batch import plan
from edgerun.errors import ConfigError
from tests.mosquitto import wait_until
from tests.real_models import ROOT

pytestmark = pytest.mark.timeout(400)  # more than all that one of them may wait for

CLIP = ROOT / "models" / "clips" / "street.mp4"
FRAMES = 100
MODEL = "ssd-mobilenet-v2-oid"
BATCH = [sys.executable, "-m", "edgerun", "batch"]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    for name in ("one.mp4", "two.mp4", "a/one.mp4"):
        shutil.copy(CLIP, folder / name)
    (folder / "notes.txt").write_text("no recording")
    return folder


def batch(*words: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run([*BATCH, *words, "--json"], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def items(out: Path) -> dict[str, list[str]]:
    return {
        path.name: [json.loads(line)["item"] for line in path.read_text().splitlines()]
        for path in sorted(out.glob("*.jsonl"))
    }


def test_every_frame_of_every_file_once_and_again_costs_nothing(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (str(recordings), "--model", MODEL, "-o", str(out), "--workers", "2")
    first = batch(*words)
    assert first["total"]["grabbed"] == first["total"]["published"] == 3 * FRAMES
    found = items(out)
    assert len(found) == 3, "two of them are called the same"
    assert all(len(one) == len(set(one)) == FRAMES for one in found.values())
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert batch(*words)["done_before"] == 3
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == stamps


def test_another_setting_or_another_file_is_done_again(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = str(recordings / "one.mp4")
    words = (one, "--model", MODEL, "-o", str(out))
    batch(*words)
    assert batch(*words, "--threshold", "0.9")["done_before"] == 0
    os.utime(one)
    assert batch(*words, "--threshold", "0.9")["done_before"] == 0


@pytest.mark.parametrize("size", ["16k", "64k"])  # full among the results; just not large enough for the account
def test_a_full_disk_is_told_as_one_and_its_file_is_done_once_there_is_room(
    recordings: Path, make_disk: Callable[[str], Path], size: str
) -> None:
    disk = make_disk(size)
    words = (str(recordings / "one.mp4"), "--model", MODEL, "-o", str(disk / "out"), "--workers", "1")
    (failed,) = batch(*words, code=1)["files"]
    assert failed["error"] == f"the results cannot be written to {disk / 'out'}: No space left on device"
    assert not list((disk / "out").iterdir())
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert batch(*words)["total"]["published"] == FRAMES


def test_a_file_that_is_none_fails_alone_and_the_rest_is_done(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (recordings / "broken.mp4").write_bytes(b"not a film" * 99)
    account = batch(str(recordings), "--model", MODEL, "-o", str(out), code=1)
    assert account["failed"] == 1
    (bad,) = [one for one in account["files"] if one["error"]]
    assert bad["source"].endswith("broken.mp4")
    assert account["total"]["published"] == 3 * FRAMES
    assert "broken.mp4.jsonl" not in items(out)
    assert not list(out.glob("*.part"))
    (recordings / "broken.mp4").unlink()
    assert batch(str(recordings), "--model", MODEL, "-o", str(out))["done_before"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_is_done_stays_done_when_it_is_ended(recordings: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    words = (str(recordings), "--model", MODEL, "-o", str(out), "--workers", "1")
    running = subprocess.Popen([*BATCH, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: list(out.glob("*.done.json")) and list(out.glob("*.part")), 90)
    workers = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert b"Traceback" not in told
    wait_until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers), 60)
    if number != signal.SIGKILL:
        assert running.returncode == 130
    account = batch(*words)
    assert 1 <= account["done_before"] <= 2
    assert account["total"]["published"] == 3 * FRAMES
    assert all(len(one) == FRAMES for one in items(out).values())


def test_a_worker_that_is_killed_is_told_and_loses_only_what_was_in_hand(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (str(recordings), "--model", MODEL, "-o", str(out), "--workers", "1")
    running = subprocess.Popen([*BATCH, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    parts: list[Path] = []

    def at_the_second() -> bool:
        parts[:] = out.glob("*.part")
        return bool(parts and list(out.glob("*.done.json")))

    wait_until(at_the_second, 90)
    os.kill(int(parts[0].name.rpartition(".jsonl.")[2].partition(".")[0]), signal.SIGKILL)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "a worker process died" in told
    assert batch(*words)["total"]["published"] == 3 * FRAMES


def test_a_cluster_does_it_as_it_is_done_at_home(recordings: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask (the extra `cluster`) is not installed")
    at_home, out = tmp_path / "home", tmp_path / "out"
    batch(str(recordings), "--model", MODEL, "-o", str(at_home))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        words = (str(recordings), "--model", MODEL, "-o", str(out))
        account = batch(*words, "--cluster", cluster.scheduler_address)
    assert account["total"]["published"] == 3 * FRAMES
    assert items(out) == items(at_home)


def test_what_cannot_be_meant_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for pattern, part in ((str(tmp_path / "no.mp4"), "no such file"), (str(tmp_path / "empty"), "no recordings")):
        with pytest.raises(ConfigError, match=part):
            plan.find([pattern])
    for words, part in (
        (("--workers", "0"), "not a number of processes"),
        (("--cluster", "scheduler:8786"), "not a scheduler's address"),
        (("--threshold", "7"), "threshold"),
    ):
        done = subprocess.run(
            [*BATCH, str(CLIP), "--model", MODEL, "-o", str(tmp_path / "o"), *words], capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        assert part in done.stderr
