"""Workers and devices for tests: real processes, and workers by hand that say what a test wants."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgerun.broker.connection import Connection
from edgerun.broker.options import BrokerOptions
from edgerun.clock import SystemClock
from edgerun.errors import Closed
from edgerun.infer.work import Told, encode, read_ask, shared_filter
from edgerun.ports import Incoming
from edgerun.slot import Slot
from edgerun.types import Answer
from tests.mosquitto import wait_until

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "ssd-mobilenet-v2-oid"
NAME = "ssd-mobilenet-v2-oid"
QUICK = {"reconnect_max_s": 0.2, "will_delay_s": 0, "connect_timeout_s": 2.0}


class Process:
    """`python -m edgerun …`, what it says kept line by line."""

    def __init__(self, *args: object, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgerun", *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **env},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def says(self, words: str, timeout_s: float = 60) -> None:
        """Wait until it has said `words`."""
        wait_until(lambda: words in self.text or not self._reader.is_alive(), timeout_s, f"{words!r} in {self.lines}")
        assert words in self.text, self.text

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals | None = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Its exit code, after this signal or by itself."""
        if number is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code

    def summary(self) -> dict[str, Any]:
        """The JSON object on its last line."""
        found: dict[str, Any] = json.loads(next(line for line in reversed(self.lines) if line.startswith("{")))
        return found

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self.lines.extend(line.rstrip("\n") for line in iter(self.process.stdout.readline, ""))


@contextlib.contextmanager
def process(*args: object, **env: str) -> Iterator[Process]:
    made = Process(*args, **env)
    try:
        yield made
    finally:
        made.end(signal.SIGKILL)


@contextlib.contextmanager
def worker(url: str, name: str = "w1", *args: object) -> Iterator[Process]:
    """A worker that is connected."""
    with process("worker", "--broker", url, "--model", MODEL, "--id", name, "--threads", 1, "--json", *args) as made:
        made.says("connected as")
        yield made


def device(folder: Path, url: str, *, model: str = "", remote: str = "", stream: str = "", fps: int = 20) -> Path:
    """A config with one stream and one remote model."""
    path = folder / "edge.toml"
    path.write_text(
        f"""
[device]
id = "dock-7"
[mqtt]
url = "{url}"
[models.detector]
path = "{MODEL}"
engine = "remote"
threads = 1
{model}
[models.detector.remote]
{remote}
[streams.dock]
source = {{ kind = "synthetic", fps = {fps} }}
model = "detector"
{stream}
""",
        encoding="utf-8",
    )
    return path


def results(path: Path) -> list[dict[str, Any]]:
    """The JSON lines there so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def balanced(account: dict[str, Any]) -> bool:
    """Every frame that was grabbed is in exactly one counter."""
    fates = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed", "in_flight")
    return bool(account["grabbed"] == sum(account[fate] for fate in fates))


Say = Callable[["Hand", Incoming], None]


class Hand:
    """A worker by hand: `say` is called with each request, in a thread of its own."""

    def __init__(self, url: str, name: str, say: Say, receive_max: int = 8) -> None:
        self.name, self._say = name, say
        options = BrokerOptions(url=url, client_id=name, receive_max=receive_max, session_expiry_s=0, **QUICK)  # type: ignore[arg-type]
        self.connection = Connection(options, SystemClock())
        self.inbox: Slot[Incoming] = Slot(256)
        self.requests: list[Incoming] = []
        self.connection.start()
        self.connection.subscribe(shared_filter("edgerun", NAME, "site"), self.inbox, 1)
        self._wait_for_its_subscription()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _wait_for_its_subscription(self) -> None:
        """It hears itself on another topic, which it subscribes to after that one."""
        topic, heard = f"edgerun/{self.name}/_here", Slot[Incoming](1)
        self.connection.subscribe(topic, heard, 0)

        def here() -> bool:
            if self.connection.connected:
                self.connection.publish(topic, b"")
            return heard.take(0.05) is not None

        wait_until(here, 60, f"the subscription of {self.name}")

    def tell(self, request: Incoming, told: Told | bytes, correlation: bytes | None = None) -> None:
        payload = told if isinstance(told, bytes) else encode(told)
        assert request.response_topic is not None
        self.connection.publish(request.response_topic, payload, correlation=correlation or request.correlation)

    def answer(self, request: Incoming, answer: Answer | None = None) -> None:
        again = read_ask(request.payload).again
        self.tell(request, Told(self.name, "0" * 64, answer=answer or Answer(detections=()), again=again))
        self.connection.ack(request)

    def close(self) -> None:
        self.inbox.close()
        self._thread.join(10)
        self.connection.stop(2)

    def _run(self) -> None:
        with contextlib.suppress(Closed):
            while True:
                request = self.inbox.take()
                if request is not None:
                    self.requests.append(request)
                    self._say(self, request)


@contextlib.contextmanager
def hand(url: str, name: str, say: Say, receive_max: int = 8) -> Iterator[Hand]:
    made = Hand(url, name, say, receive_max)
    try:
        yield made
    finally:
        made.close()
