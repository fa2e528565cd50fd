"""`edgerun control alive` and `ready`, as a container's or a pod's health checks ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import emulators
from tests.mosquitto import wait_until
from tests.real_models import ROOT

pytestmark = pytest.mark.timeout(300)  # more than all that one of them may wait for

MODEL = str(ROOT / "models" / "ssd-mobilenet-v2-oid")


def test_a_daemon_that_runs_is_alive_and_one_without_results_is_not_ready(tmp_path: Path) -> None:
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path), "STATE_DIRECTORY": str(tmp_path / "state")}

    def probe(verb: str) -> int:
        command = [sys.executable, "-m", "edgerun", "control", verb]
        return subprocess.run(command, env=environment, capture_output=True).returncode

    assert probe("alive") != 0
    with emulators.start("mjpeg", "--fps", 5, "--size", "320x240") as camera:
        command = [sys.executable, "-m", "edgerun", "run", "--model", MODEL, "--source", camera.url, "--quiet"]
        daemon = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: probe("ready") == 0, 60)
            os.kill(camera.pid, signal.SIGSTOP)
            wait_until(lambda: probe("ready") == 1, 60)
            assert probe("alive") == 0
            daemon.send_signal(signal.SIGSTOP)
            assert probe("alive") == 4, "the main thread takes no commands"
        finally:
            os.kill(camera.pid, signal.SIGCONT)
            daemon.send_signal(signal.SIGCONT)
            daemon.terminate()
            _, err = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, err
    shown = subprocess.run([sys.executable, "-m", "edgerun", "audit", "show"], env=environment, capture_output=True)
    assert b"alive" not in shown.stdout
