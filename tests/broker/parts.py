"""Connections for tests: quick to come back, always stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from edgerun.broker.connection import Connection
from edgerun.broker.options import BrokerOptions
from edgerun.clock import Clock, SystemClock
from tests import mosquitto

DEVICE = "dock-7"
STATUS = f"edgerun/{DEVICE}/status"
TOPIC = f"edgerun/{DEVICE}/detections/main"
LATE_S = 60.0


class Ahead(SystemClock):
    """The machine's clock, which a test may put forward."""

    ahead_ns = 0

    def mono_ns(self) -> int:
        return super().mono_ns() + self.ahead_ns


def options(url: str, **other: Any) -> BrokerOptions:
    quick = {"reconnect_max_s": 0.2, "will_delay_s": 1, "connect_timeout_s": 30.0}
    return BrokerOptions(url=url, client_id=DEVICE, **{**quick, **other})


@contextlib.contextmanager
def connection(
    url: str, *, birth: Any = tuple, start: bool = True, clock: Clock | None = None, **other: Any
) -> Iterator[Connection]:
    made = Connection(options(url, **other), clock or SystemClock(), birth=birth)
    if start:
        made.start()
    try:
        yield made
    finally:
        made.stop(5)


def balanced(connection: Connection) -> bool:
    """Every message given to `publish` is in exactly one place."""
    s = connection.stats()
    return s.queued == s.sent0 + s.acked + sum(s.dropped.values()) + s.waiting + s.in_flight


def numbers(messages: list[mosquitto.Heard], topic: str = TOPIC) -> list[int]:
    return [int(m.payload) for m in messages if m.topic == topic]
