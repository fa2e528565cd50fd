"""A spool whose thread is the test: each turn of it comes at a moment of the test's choosing, by a clock of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgerun.broker.message import Kind, Message
from edgerun.broker.outgoing import Entry
from edgerun.clock import FakeClock
from edgerun.spool.files import Files
from edgerun.spool.options import SpoolOptions
from edgerun.spool.spool import Spool


class Disk(Files):
    """A real folder on a disk that fails, or that others fill, when a test says so."""

    room_bytes: int | None = None
    """For all segments together: others have the rest."""
    writes = 0

    fails: OSError | None = None
    fails_sync: OSError | None = None
    unlinks: int | None = None
    """So many more succeed."""

    def write(self, fd: int, data: bytes) -> None:
        self.writes += 1
        if self.fails is not None:
            raise self.fails
        super().write(fd, data)

    def sync(self, fd: int) -> None:
        if self.fails_sync is not None:
            raise self.fails_sync
        super().sync(fd)

    def unlink(self, path: Path) -> None:
        if self.unlinks is not None and path.suffix == ".seg":
            if not self.unlinks:
                raise OSError(5, "Input/output error")
            self.unlinks -= 1
        super().unlink(path)

    def free_bytes(self, folder: Path) -> int:
        if self.room_bytes is None:
            return super().free_bytes(folder)
        return self.room_bytes - sum(path.stat().st_size for path in folder.glob("*.seg"))


class Turned:
    """`put` gives messages their numbers, `drain` is a broker that takes and acknowledges everything."""

    def __init__(self, folder: Path, durability: str = "outage", limit: int = 1000, **how: Any) -> None:
        self.clock, self.disk, self.count = FakeClock(mono_ns=100_000_000_000), Disk(), 0
        small = {"min_free_bytes": 0, "free_share": 1.0, "segment_bytes": 4096, "max_bytes": 1 << 16}
        options = SpoolOptions(folder, durability, **{**small, "replay_rate": 1e9, **how})  # type: ignore[arg-type]
        self.spool = Spool(options, self.clock, "run", max_messages=limit, files=self.disk)
        self.spool._disk, self.spool._stalled = "opening", True  # no publisher waits for a thread that is not there
        self.turn()

    def put(self, times: int = 1, *, size: int = 1000, keep: Kind = "detection") -> None:
        for _ in range(times):
            body = json.dumps({"n": self.count, "x": os.urandom(size).hex()}).encode()
            self.spool._stalled = True
            self.spool.put(Message("t", body, 1, keep=keep, number=self.count), self.clock.mono_ns())
            self.count += 1

    def put_each(self, times: int, **how: Any) -> None:
        """With a turn after each."""
        for _ in range(times):
            self.put(**how)
            self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        try:
            self.spool._turn(self.clock.mono_ns())
        except OSError as error:
            self.spool._break(error)

    def lack(self, size: int) -> None:
        """Others take what the spool has not, and `size` bytes of what it has: the next look at the room finds that."""
        self.disk.room_bytes = self.spool.spool_stats().bytes - size
        self.turn(10.1)
        self.disk.room_bytes = None

    def take(self) -> Entry | None:
        self.clock.advance(1e-6)
        return self.spool.take(True, self.clock.mono_ns())

    def fly(self, times: int) -> list[Entry]:
        """So many are on their way."""
        taken = [self.take() for _ in range(times)]
        return [entry for entry in taken if entry is not None]

    def drain(self, turns: int = 60) -> list[int]:
        came = []
        for _ in range(turns):
            while (entry := self.take()) is not None:
                came.append(number(entry))
                self.spool.ack(entry.ticket)
            self.turn(0.3)
        return came

    def told(self) -> list[str]:
        return [notice.text for notice in self.spool.take_notices(last=True)]

    def check(self, came: list[int], *, lost: int) -> None:
        """Everything came but `lost`, which were counted and told; nothing waits."""
        missing = set(range(self.count)) - set(came)
        assert len(missing) == lost, sorted(missing)
        stats, spooled = self.spool.stats(), self.spool.spool_stats()
        assert sum(spooled.dropped.values()) == lost
        assert sum(int(text.split()[0]) for text in self.told() if "were dropped" in text) == lost
        assert (spooled.messages, stats.waiting, stats.in_flight) == (0, 0, 0)
        assert stats.put == stats.acked + stats.sent0 + sum(stats.dropped.values())
        assert self.spool.wait_acked(0)


def number(entry: Entry) -> int:
    return int(json.loads(entry.message.payload)["n"])
