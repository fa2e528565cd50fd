"""A device's connection with a spool behind it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgerun.broker.connection import Connection
from edgerun.broker.message import Kind
from edgerun.clock import Clock, SystemClock
from edgerun.spool.files import Files
from edgerun.spool.options import SpoolOptions
from edgerun.spool.spool import Spool
from tests import mosquitto
from tests.broker.parts import LATE_S, TOPIC, options


class Device(Connection):
    spool: Spool

    def result(self, number: int, keep: Kind = "detection", size: int = 100) -> None:
        body = json.dumps({"id": f"r-{number}", "x": "y" * size}).encode()
        self.publish(TOPIC, body, keep=keep, number=number)


@contextlib.contextmanager
def device(
    url: str,
    folder: Path,
    run: str = "00000001",
    *,
    files: Files | None = None,
    limit: int = 1000,
    clock: Clock | None = None,
    **how: Any,
) -> Iterator[Device]:
    clock = clock or SystemClock()
    broker = {key: how.pop(key) for key in ("ack_timeout_s", "connect_timeout_s", "inflight_max") if key in how}
    usual = {"min_free_bytes": 0, "free_share": 1.0, "replay_rate": 5000.0, "close_s": LATE_S}
    spooled = SpoolOptions(folder, **{**usual, **how})  # type: ignore[arg-type]
    spool = Spool(spooled, clock, run, files=files, max_messages=limit)
    made = Device(options(url, **broker), clock, outgoing=spool)
    made.spool = spool
    made.start()
    assert spool.wait_tried(LATE_S)
    try:
        yield made
    finally:
        made.stop(5)


def told(made: Device) -> list[str]:
    return [notice.kind for notice in made.spool.take_notices()]


def on_disk(folder: Path) -> int:
    size = 0
    for path in folder.glob("*.seg"):
        with contextlib.suppress(FileNotFoundError):  # done with, and deleted meanwhile
            size += path.stat().st_size
    return size


def has_room(spool: Spool) -> bool:
    """Whether nothing has to be on disk that is not there yet."""
    with spool._changed:
        return not spool._away and (not spool._is_pressed() or all(entry.place for entry in spool._live()))


def heard(messages: list[mosquitto.Heard]) -> list[tuple[int, bool]]:
    bodies = [json.loads(m.payload) for m in messages if m.topic == TOPIC]
    return [(int(body["id"][2:]), body.get("replayed", False)) for body in bodies]
