"""A real mosquitto for tests: started, stopped, frozen and killed as a process, and subscribers to listen with.

with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/#") as seen:
    ...
    seen.wait(lambda messages: len(messages) >= 3, timeout_s=10)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Debian puts the daemon where only root looks for programs.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.skip(f"{name} is not installed on this device")
    return found


_PORTS = range(20000, 32000)  # below those that the kernel gives to whoever asks for any
_HELD = 64  # more than one process of tests uses at a time
_held_ports: deque[int] = deque()


def free_port() -> int:
    """A loopback port that nothing listens on, and that nobody else is given meanwhile: neither another process of
    tests, nor a client's own end of a connection.
    """
    folder = Path(tempfile.gettempdir()) / f"edgerun-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        fd = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError), socket.socket() as probe:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            probe.bind(("127.0.0.1", port))
            _held_ports.append(fd)
            if len(_held_ports) > _HELD:
                os.close(_held_ports.popleft())
            return port
        os.close(fd)
    raise AssertionError("no port is free")


def wait_until(
    condition: Callable[[], object], timeout_s: float = 60.0, what: str = "the condition", *, pause_s: float = 0.01
) -> None:
    """Poll `condition` until it is true; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s"
        never.wait(pause_s)


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Broker:
    """One mosquitto process on a port of its own, which it keeps over `restart`. `lines` goes into its config."""

    def __init__(self, folder: Path, *lines: str, anonymous: bool = True, scheme: str = "mqtt") -> None:
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / f"mosquitto-{self.port}.conf"
        self._config.write_text(
            "\n".join(
                [
                    "user root",  # else, started by root, it drops its rights and cannot read its files here
                    "persistence false",
                    f"listener {self.port} 127.0.0.1",
                    f"allow_anonymous {str(anonymous).lower()}",
                    "set_tcp_nodelay true",
                    "max_queued_messages 0",
                    *lines,
                    "",
                ]
            )
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self._folder / f"mosquitto-{self.port}.log").read_text(errors="replace")

    def start(self) -> None:
        with (self._folder / f"mosquitto-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("mosquitto"), "-c", str(self._config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(lambda: self._process is not None and (self._process.poll() is not None or accepts(self.port)))
        assert self._process.poll() is None, self.log

    restart = start

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Its sockets stay open and its kernel still takes connections, but nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="the broker's standstill")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(number)
            process.wait(10)


@contextlib.contextmanager
def broker(*lines: str, start: bool = True, anonymous: bool = True, scheme: str = "mqtt") -> Iterator[Broker]:
    """A running mosquitto; with `start=False` its port is kept for a later `start()`."""
    program("mosquitto")
    with tempfile.TemporaryDirectory(prefix="mosquitto-") as folder:
        made = Broker(Path(folder), *lines, anonymous=anonymous, scheme=scheme)
        if start:
            made.start()
        try:
            yield made
        finally:
            made.kill()


@contextlib.contextmanager
def broker_with_password(username: str, password: str, *acl: str) -> Iterator[Broker]:
    """Knows one user; `acl` are lines such as `topic write edgerun/#`, without any everything is allowed."""
    with tempfile.TemporaryDirectory(prefix="mosquitto-") as folder:
        passwords = Path(folder) / "passwords"
        passwords.touch()
        subprocess.run([program("mosquitto_passwd"), "-b", str(passwords), username, password], check=True)
        lines = [f"password_file {passwords}"]
        if acl:
            rights = Path(folder) / "acl"
            rights.write_text("\n".join([f"user {username}", *acl, ""]))
            lines.append(f"acl_file {rights}")
        with broker(*lines, anonymous=False) as made:
            yield made


class Authority(NamedTuple):
    """A certificate authority with what it signed: PEM files."""

    ca: Path
    cert: Path
    key: Path


def authority(folder: Path, names: str = "IP:127.0.0.1") -> Authority:
    """A new CA and one certificate for the given subject alternative names, made with openssl."""
    folder.mkdir(parents=True, exist_ok=True)

    def run(*args: str) -> None:
        subprocess.run([program("openssl"), *args], check=True, capture_output=True, cwd=folder)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=edgerun test CA")
    run("req", *curve, "-keyout", "device.key", "-out", "device.csr", "-subj", "/CN=broker")
    (folder / "names.cnf").write_text(f"subjectAltName={names}\n")
    run(
        "x509", "-req", "-in", "device.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "names.cnf", "-out", "device.pem",
    )  # fmt: skip
    return Authority(folder / "ca.pem", folder / "device.pem", folder / "device.key")


@contextlib.contextmanager
def broker_with_tls(authority: Authority, *lines: str) -> Iterator[Broker]:
    tls = [f"certfile {authority.cert}", f"keyfile {authority.key}", f"cafile {authority.ca}", *lines]
    with broker(*tls, scheme="mqtts") as made:
        yield made


class Heard(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool


class Subscriber:
    """A paho client that keeps every message exactly as it came, in order."""

    def __init__(self, broker: Broker, topic_filter: str, qos: int) -> None:
        from paho.mqtt import client as paho

        self._ready = threading.Event()
        self._came = threading.Condition()
        self._messages: list[Heard] = []
        self._client: Any = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(topic_filter, qos)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._ready.wait(60), "no SUBACK"

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        with self._came:
            heard = Heard(message.topic, bytes(message.payload), message.qos, bool(message.retain))
            self._messages.append(heard)
            self._came.notify_all()

    @property
    def messages(self) -> list[Heard]:
        with self._came:
            return list(self._messages)

    def wait(self, condition: Callable[[list[Heard]], object], timeout_s: float = 60.0) -> list[Heard]:
        """The messages so far as soon as they fulfil `condition`, which is not asked while there are none."""
        with self._came:
            fulfilled = self._came.wait_for(lambda: self._messages and condition(self._messages), timeout_s)
            assert fulfilled, f"within {timeout_s:g} s only {len(self._messages)} came, last {self._messages[-3:]}"
            return list(self._messages)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def subscriber(broker: Broker, topic_filter: str = "#", qos: int = 1) -> Iterator[Subscriber]:
    """Subscribed when it is yielded; for what must be checked to the byte."""
    made = Subscriber(broker, topic_filter, qos)
    try:
        yield made
    finally:
        made.close()


def mosquitto_sub(broker: Broker, topic_filter: str, count: int, *args: str) -> subprocess.Popen[str]:
    """The real `mosquitto_sub`, ending by itself after `count` messages or 30 s; each is one line of JSON.

    Its keys are those mosquitto_sub(1) describes for `%j`: topic, qos, retain, payload … It is subscribed when this
    returns; the broker must have been started with `log_type all`, by which that is seen.
    """
    before = broker.log.count("Sending SUBACK")
    process = subprocess.Popen(
        [
            program("mosquitto_sub"), "-h", "127.0.0.1", "-p", str(broker.port), "-t", topic_filter, "-q", "1",
            "-C", str(count), "-W", "30", "-F", "%j", *args,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_until(lambda: broker.log.count("Sending SUBACK") > before, what="its subscription")
    return process


def lines_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What a `mosquitto_sub` printed until it ended."""
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]
