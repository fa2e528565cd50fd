"""The daemon as it runs on a device, with everything around it that can fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import mosquitto
from tests.boards import tree
from tests.delivery.proxy import Proxy, proxy
from tools.soak_parts.account import Account, Listener
from tools.soak_parts.cameras import Camera, camera

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "models" / "clips" / "street.mp4"
CACHE = ROOT / ".cache" / "models"
STREAMS = ("street", "yard", "pattern", "voice")
DEVICE = "soak"
MAX_AGE_MS = 1000.0
COOL_C = 45.0
ZONES = ("cpu-thermal", "tj-thermal", "soc0-thermal", "soc1-thermal", "soc2-thermal")

_CONFIG = """
[device]
id = "{device}"
[mqtt]
url = "{broker}"
telemetry_interval = 10
home_assistant = true
[models.detector]
path = "{root}/models/ssd-mobilenet-v2-oid"
threads = 1
[models.classifier]
path = "{cache}/efficientnet_lite0_int8.tflite"
labels = "{cache}/labels_without_background.txt"
threads = 1
[models.voice]
path = "{cache}/silero_vad.onnx"
threads = 1
[streams.street]
source = "{street}"
model = "detector"
max_age_ms = {max_age_ms}
max_fps = {max_fps}
track = true
[streams.street.gate]
still_s = 5
[streams.street.zones.left]
polygon = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
[streams.yard]
source = "{yard}"
model = "detector"
max_age_ms = {max_age_ms}
[streams.pattern]
source = {{ kind = "synthetic", size = [320, 240], fps = 15 }}
model = "classifier"
max_age_ms = {max_age_ms}
[streams.voice]
source = "{cache}/librivox_0870.wav"
loop = true
model = "voice"
max_age_ms = {max_age_ms}
[governor]
temp_c = {{ warm = 70, hot = 80, stop = 95 }}
means = ["fps"]
under_voltage = false
up_s = 1
settle_s = 1
[sensors]
root = "{board}"
interval_s = 1
"""


class Site:
    """One run of the daemon. What `up` opened is closed by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.account = Account()
        self.config = folder / "edgerun.toml"
        self.log = folder / "daemon.log"
        self.pid = 0
        self.broker: mosquitto.Broker
        self.line: Proxy
        self.street: Camera
        self.yard: Camera
        self.listener: Listener
        self._board = folder / "board"
        self._summary: dict[str, Any] | None = None

    @contextlib.contextmanager
    def up(self) -> Iterator[Site]:
        """Everything but the daemon."""
        tree.unpack(tree.read("jetson-orin-nano"), self._board)
        self.warm(COOL_C)
        with (
            mosquitto.broker("max_inflight_messages 0") as self.broker,
            proxy(self.broker.port) as self.line,
            camera("mjpeg", CLIP, 10) as self.street,
            camera("rtsp", CLIP, 8) as self.yard,
        ):
            self.write_config()
            self.listener = Listener(self.broker.port, f"edgerun/{DEVICE}", self.account)
            try:
                yield self
            finally:
                self.broker.thaw()
                self.listener.close()

    @contextlib.contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """The daemon, without a terminal, its results read by a thread; killed if it is still there at the end."""
        command = ["run", "--config", str(self.config), "--quiet", "--json", "--jsonl", "-"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgerun", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "STATE_DIRECTORY": str(self.folder / "state")},
                pipesize=1 << 20,
            )
        self.pid = process.pid
        reader = threading.Thread(target=self._read, args=(process,), name="results")
        reader.start()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            reader.join()
            assert process.stdout is not None
            process.stdout.close()

    def end(self, process: subprocess.Popen[bytes]) -> tuple[int, float, dict[str, Any] | None]:
        """SIGTERM; its exit code, the seconds it took, and its summary."""
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            return -1, time.monotonic() - began_s, None
        took_s = time.monotonic() - began_s
        patient_until(lambda: self._summary is not None, 10)
        return code, took_s, self._summary

    def write_config(self, max_fps: float = 10.0, more: str = "") -> None:
        """The config file; `more` is appended."""
        text = _CONFIG.format(
            device=DEVICE, broker=self.line.url, root=ROOT, cache=CACHE, street=self.street.url, yard=self.yard.url,
            max_age_ms=MAX_AGE_MS, max_fps=max_fps, board=self._board,
        )  # fmt: skip
        fresh = self.config.with_suffix(".new")
        fresh.write_text(text + more, encoding="utf-8")
        fresh.replace(self.config)

    def warm(self, temp_c: float) -> None:
        """Let all of the processor's zones have this temperature."""
        for kind in self._board.glob("sys/**/type"):
            if kind.read_text(encoding="utf-8").strip() in ZONES:
                (kind.parent / "temp").write_text(f"{temp_c * 1000:.0f}\n", encoding="utf-8")

    def restart_broker(self) -> None:
        """A killed broker comes back; the daemon reaches it once the consumer listens, else what came in between would
        be nobody's.
        """
        self.line.locked.set()
        self.line.cut()
        self.broker.restart()
        if not self.listener.ready.wait(30):
            raise TimeoutError("the consumer did not find the restarted broker within 30 s")
        self.line.locked.clear()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b'{"seconds"'):
                self._summary = json.loads(line)
            else:
                self.account.take_line(line)


def patient_until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Poll `condition`; whether it came true within `timeout_s`."""
    with contextlib.suppress(AssertionError):
        mosquitto.wait_until(condition, timeout_s)
        return True
    return False
