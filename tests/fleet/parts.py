"""Devices as they retain themselves at a broker, and a small one that answers commands."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from edgerun.broker.connection import Connection
from edgerun.broker.message import Message
from edgerun.broker.options import BrokerOptions
from edgerun.clock import SystemClock
from edgerun.control.commands import Commands
from edgerun.control.desk import Command, Desk
from edgerun.fleet.fleet import Device, Info, Installed, Model, Stage, Stream
from edgerun.fleet.line import Line
from edgerun.publish.homeassistant.models import ModelTopics, ModelVersions
from edgerun.telemetry import payload
from tests import mosquitto


def line_to(broker: mosquitto.Broker, **options: Any) -> Line:
    return Line(BrokerOptions(url=broker.url, client_id="fleet", **options))


@contextlib.contextmanager
def opened(broker: mosquitto.Broker) -> Iterator[Line]:
    line = line_to(broker)
    line.open()
    try:
        yield line
    finally:
        line.close()


def retained(name: str, labels: Mapping[str, str] | None = None, state: str = "running") -> list[Message]:
    """What a device retains, by the functions that make it on one."""
    info = payload.info(
        device=name, run="1f3a9c02", ts=1.0, runtimes=["litert 2.3.0"],
        models={"detector": payload.InstalledModel("ssd", "2")}, streams={"dock": ("detector",)},
        accelerators={"detector": "cpu"}, labels=labels,
    )  # fmt: skip
    root = f"edgerun/{name}"
    reason = "" if state == "running" else "no frames"
    bodies = {"info": info, "state/dock": payload.state(state, reason=reason)}  # type: ignore[arg-type]
    messages = [Message(f"{root}/{topic}", json.dumps(body).encode(), 1, True) for topic, body in bodies.items()]
    versions = ModelTopics(Nowhere(), root, {"detector": ModelVersions("2")}).birth()
    return [Message(f"{root}/status", b"online", 1, True), *messages, *versions]


class Nowhere:
    """Takes messages that nobody is to have."""

    connected = True

    def publish(self, topic: str, payload: bytes, **how: Any) -> None: ...

    def subscribe(self, topic_filter: str, inbox: Any, qos: int) -> None: ...

    def flush(self, timeout_s: float) -> bool:
        return True


def publish(broker: mosquitto.Broker, messages: list[Message]) -> None:
    """Have the broker retain them: it has them when this returns."""
    with opened(broker) as line:
        for message in messages:
            line.publish(message)
        line.drain(quiet_s=0.05)


class TestDevice:
    """A real connection with the real desk; what it does about a new version is `outcome`: a state, or an error."""

    __test__ = False

    def __init__(self, broker: mosquitto.Broker, name: str, outcome: Mapping[str, Any]) -> None:
        self._root, self._outcome = f"edgerun/{name}", outcome
        options = BrokerOptions(url=broker.url, client_id=name)
        birth = [one for one in retained(name) if not one.topic.endswith("/status")]
        self.link = Connection(options, SystemClock(), birth=lambda: [*birth[:-1], *self._versions.birth()])
        self._versions = ModelTopics(self.link, self._root, {"detector": ModelVersions("2")})
        self.asked: list[Mapping[str, Any]] = []
        self.desk = Desk({"model/install": self._install, "model/rollback": self._rollback})
        self._commands = Commands(self.link, self._root, self.desk)
        self._thread = threading.Thread(target=self._commands.run, args=(self._do,))
        self.link.start()
        self._thread.start()

    def close(self) -> None:
        self._commands.close()
        self._thread.join(10)
        self.link.stop(5)

    def _do(self, command: Command) -> None:
        self.desk.do(command)

    def _install(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        from edgerun.app.fetching import read_wish

        wish = read_wish(arguments)
        self.asked.append(dict(arguments))
        if isinstance(self._outcome.get("error"), Exception):
            raise self._outcome["error"]
        told = {"id": wish.rollout, "version": wish.version, "share": wish.share, **self._outcome}
        serves = wish.version if told["state"] in ("canary", "active", "committed") else "2"
        self._versions.tell("detector", ModelVersions(str(serves), latest=wish.version, rollout=told))
        return {}

    def _rollback(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append({"back": True, **arguments})
        return {}


def known(name: str, *, rollout: Stage | None = None, online: bool = True, version: str = "2", **labels: str) -> Device:
    """A device as a fleet knows it."""
    info = Info(models={"detector": Installed("ssd", "2")}, streams={"dock": {}}, labels=labels)
    return Device(name, online, info, {"dock": Stream("running")}, {"detector": Model(version, version, rollout)})
