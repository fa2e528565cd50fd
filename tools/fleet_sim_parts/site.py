"""The broker and its listeners: a real mosquitto as a process, what it costs, and what comes out of it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


class Mosquitto:
    """With its own defaults but for the port and the rights: what an operator gets."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("mosquitto", path=_PATH)
        if found is None:
            raise FileNotFoundError("mosquitto")
        self._program, self._process = found, None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._config = folder / "mosquitto.conf"
        lines = ["user root", "persistence false", f"listener {self.port} 127.0.0.1", "allow_anonymous true"]
        self._config.write_text("\n".join([*lines, "log_type error", ""]), encoding="utf-8")
        self._log = (folder / "mosquitto.log").open("ab")
        self._process: subprocess.Popen[bytes] | None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> float:
        """When it was seen to listen (monotonic)."""
        self._process = subprocess.Popen([self._program, "-c", str(self._config)], stdout=self._log, stderr=self._log)
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return time.monotonic()
            time.sleep(0.005)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)

    def cpu_s(self) -> float:
        assert self._process is not None
        return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))

    def rss_mib(self) -> float:
        assert self._process is not None
        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20

    def close(self) -> None:
        self.kill()
        self._log.close()


class CpuPeak:
    """Samples the broker's CPU every second while it is entered; `peak` and `mean` in cores."""

    def __init__(self, broker: Mosquitto) -> None:
        self._broker, self._ended = broker, threading.Event()
        self._shares: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> CpuPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)

    @property
    def peak(self) -> float:
        return max(self._shares, default=0.0)

    @property
    def mean(self) -> float:
        return sum(self._shares) / max(1, len(self._shares))

    def _run(self) -> None:
        before, at = self._broker.cpu_s(), time.monotonic()
        while not self._ended.wait(1.0):
            now_s, now = self._broker.cpu_s(), time.monotonic()
            self._shares.append((now_s - before) / (now - at))
            before, at = now_s, now


class Consumer:
    """Subscribes and counts, by kind of topic and by second; a `$share` filter does too."""

    def __init__(self, broker: Mosquitto, *filters: str) -> None:
        from paho.mqtt import client as paho

        self.kinds: dict[str, int] = {}
        self.bytes = 0
        self.seconds: dict[str, dict[int, int]] = {}
        self._client: Any = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe([(one, 0) for one in filters])
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def _take(self, _client: Any, _data: Any, message: Any) -> None:
        kind, second = message.topic.split("/")[2], int(time.monotonic())
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.bytes += len(message.topic) + len(message.payload)
        seconds = self.seconds.setdefault(kind, {})
        seconds[second] = seconds.get(second, 0) + 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
