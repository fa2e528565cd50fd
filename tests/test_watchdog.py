"""The daemon as systemd hears it: a real process, a real socket in systemd's place, faults by tests/systemd/faults."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = """\
[device]
id = "box"
[mqtt]
url = "mqtt://127.0.0.1:1"
[models.detector]
path = "ssd-mobilenet-v2-oid"
threads = 1
[streams.dock]
source = { kind = "synthetic", fps = 10 }
model = "detector"
[streams.silent]
source = { kind = "synthetic", fps = 10 }
model = "detector"
"""


class Service:
    """`edgerun run` with somebody who listens at $NOTIFY_SOCKET. The stream "silent" gives no frame."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        (folder / "edgerun.toml").write_text(CONFIG)
        self._log = (folder / "log").open("wb")
        environ = os.environ | {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": "4000000",
            "RUNTIME_DIRECTORY": str(folder),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "systemd" / "faults"), str(ROOT)]),
        }
        words = [sys.executable, "-m", "edgerun", "run", "--quiet", "--config", str(folder / "edgerun.toml")]
        self.process = subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=self._log)

    def hears(self, word: str, times: int = 1) -> None:
        """Listen until a datagram with that line has come so often."""
        until = time.monotonic() + 60
        while times:
            self._socket.settimeout(max(0.01, until - time.monotonic()))
            lines = self._socket.recv(4096).decode().split("\n")
            self.said += lines
            times -= any(line.startswith(word) for line in lines)

    def logs(self, text: str) -> None:
        until = time.monotonic() + 60
        while text not in (self.folder / "log").read_text(errors="replace"):
            assert time.monotonic() < until, f"{text!r} is not in the log"
            assert self.process.poll() is None, "it has ended"
            self._socket.settimeout(0.05)
            try:
                self.said += self._socket.recv(4096).decode().split("\n")
            except TimeoutError:
                continue
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # what it said until then
            while True:
                self.said += self._socket.recv(4096).decode().split("\n")

    def pings_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                if self._socket.recv(4096) == b"WATCHDOG=1":
                    return True
            except TimeoutError:
                break
        return False

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._socket.close()
        self._log.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.close()


def test_a_silent_camera_and_an_absent_broker_do_not_stop_the_pings(service: Service) -> None:
    service.hears("READY=1")
    assert "STATUS=loading model detector" in service.said
    service.hears("WATCHDOG=1", 6)  # four in a period: one and a half periods
    assert "no progress" not in (service.folder / "log").read_text()
    service.process.send_signal(signal.SIGTERM)
    service.hears("STOPPING=1")
    assert service.process.wait(60) == 0


@pytest.mark.parametrize(
    ("fault", "thread"), [("hang", "worker:detector"), ("stuck", "capture:dock"), ("spin", "capture:dock")]
)
def test_a_thread_that_hangs_or_spins_stops_the_pings(service: Service, fault: str, thread: str) -> None:
    service.hears("READY=1")
    (service.folder / fault).touch()
    service.logs(f"{thread}: no progress for")
    assert not service.pings_within(4)  # as long as systemd waits
