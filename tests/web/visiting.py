"""A daemon with a status page, and a browser that looks at it."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.mosquitto import free_port, wait_until

TOKEN = "a-token-that-nobody-guesses"
METRICS = importlib.util.find_spec("prometheus_client") is not None
CLIP = Path(__file__).parents[2] / "models" / "clips" / "street.mp4"

until = partial(wait_until, pause_s=0.1)


class Daemon:
    """`edgerun run` with a status page, and metrics beside it."""

    def __init__(self, folder: Path) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        self.text = f"""
[device]
id = "dock-7"
[models.detector]
path = "ssd-mobilenet-v2-oid"
threads = 1
[streams.street]
source = "{CLIP}"
model = "detector"
loop = true
track = true
[streams.street.zones.pavement]
polygon = [[0.05, 0.55], [0.5, 0.5], [0.6, 0.95]]
labels = ["person"]
[streams.street.privacy]
mask = [[[0.8, 0.0], [1.0, 0.0], [1.0, 0.1]]]
[streams.gate]
source = {{ kind = "synthetic", fps = 5 }}
model = "detector"
[security]
commands = ["pause", "resume", "reload", "shapes"]
[web]
listen = "127.0.0.1:{self.port}"
token = "{TOKEN}"
"""
        if METRICS:
            self.text += f"[metrics]\nport = {self.metrics_port}\n"
        config = folder / "edgerun.toml"
        config.write_text(self.text)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            words = [sys.executable, "-m", "edgerun", "run", "--config", str(config), "--quiet"]
            environ = os.environ | {"XDG_STATE_HOME": str(folder)}
            self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=log, env=environ)
        self.url = f"http://127.0.0.1:{self.port}"
        until(lambda: self.process.poll() is not None or self._is_up())
        assert self.process.poll() is None, self.log.read_text()

    def _is_up(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False

    def ask(self, path: str, method: str = "GET", port: int = 0, body: Any = None, **more: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        headers = {"Authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): value for name, value in more.items()}
        headers = {name: value for name, value in headers.items() if value}
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"} | headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        code, body = self.ask("/api/status")
        assert code == 200, body
        made: dict[str, Any] = json.loads(body)
        return made

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(30) == 0, self.log.read_text()
        finally:
            self.process.kill()


class Visit:
    """A page that is open and logged in; `complaints` is what the browser wrote to its console."""

    def __init__(
        self, chromium: Any, daemon: Daemon, *, width: int = 1280, scheme: str = "dark", path: str = ""
    ) -> None:
        self.context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"{daemon.url}/#token={TOKEN}")
        self.page.wait_for_selector(".card")
        if path:
            self.page.goto(daemon.url + path)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []

    def card(self, stream: str) -> Any:
        return self.page.locator(".card").filter(has=self.page.get_by_role("heading", name=stream, exact=True))
