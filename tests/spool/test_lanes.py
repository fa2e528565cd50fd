"""Whatever order things happen in: every message is in exactly one place, and none that is kept is lost."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgerun.broker.message import Message
from edgerun.broker.outgoing import Entry
from edgerun.clock import FakeClock
from edgerun.spool.options import SpoolOptions
from edgerun.spool.spool import Spool
from tests.mosquitto import wait_until

ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 5)),
    st.tuples(st.just("open"), st.integers(1, 6)),
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(st.just("ack"), st.integers(0, 9)),
    st.tuples(st.just("rewind"), st.booleans()),
    st.tuples(st.just("late")),
    st.tuples(st.just("restart")),
)


class World:
    """A spool with a clock that all but stands still, so that the disk is never late."""

    def __init__(self, folder: Path, durability: str) -> None:
        self.folder, self.durability = folder, durability
        self.clock = FakeClock()
        self.flight: list[Entry] = []
        self.came: list[tuple[int, bool]] = []
        self.acked: set[int] = set()
        self.next = 0
        self.lost = 0
        self.linked = False
        self.begin()

    def begin(self) -> None:
        options = SpoolOptions(
            self.folder, self.durability, min_free_bytes=0, free_share=1.0, segment_bytes=4096, replay_rate=1e9  # type: ignore[arg-type]
        )  # fmt: skip
        self.spool = Spool(options, self.clock, "run", max_messages=12)
        self.spool.start(lambda: None)
        assert self.spool.wait_tried(60)

    def quiet(self) -> None:
        """Until the thread "spool" has nothing more to do."""

        def idle() -> bool:
            spool = self.spool
            spool._hurry.set()
            spool._work.set()
            with spool._changed:
                read = not spool._window or not spool._backlog or len(spool._ahead) > 100
                copied = not spool._is_pressed() or all(entry.place for entry in spool._live())
                return not spool._away and read and copied

        wait_until(idle, 60, "the disk's rest")

    def balanced(self) -> None:
        s = self.spool.stats()
        assert s.put == s.acked + s.sent0 + sum(s.dropped.values()) + s.waiting + s.in_flight
        assert s.in_flight == len(self.flight)
        assert s.waiting >= 0
        assert self.spool.spool_stats().messages >= 0

    def ack(self, at: int) -> None:
        entry = self.flight.pop(at)
        self.spool.ack(entry.ticket)
        self.acked.add(json.loads(entry.message.payload)["n"])

    def do(self, what: str, *how: int) -> None:
        spool = self.spool
        if what == "put":
            for _ in range(how[0]):
                body = json.dumps({"n": self.next}).encode()
                spool.put(Message("t", body, 1, keep="detection", number=self.next), self.clock.mono_ns())
                self.next += 1
                self.quiet()
        elif what == "open" and not self.linked:
            self.linked = True
            spool.opened(how[0] * 2)
            self.quiet()
        elif what == "take" and self.linked:
            for _ in range(how[0]):
                self.take()
        elif what == "ack" and how[0] < len(self.flight):
            self.ack(how[0])
        elif what == "rewind" and self.linked:
            self.linked = False
            assert spool.rewind() == len(self.flight)
            self.flight.clear()
            self.quiet()
        elif what == "late":
            self.clock.advance(1.5)
            threading.Event().wait(0.001)
        elif what == "restart":
            assert spool.drop_waiting() == 0
            self.linked = False
            self.flight.clear()
            self.begin()

    def take(self) -> bool:
        self.clock.advance(1e-6)  # the pace of the replay
        entry = self.spool.take(len(self.flight) < 12, self.clock.mono_ns())
        if entry is None:
            return False
        body = json.loads(entry.message.payload)
        assert body["n"] not in self.acked, "what the broker has acknowledged is not sent again"
        self.came.append((body["n"], body.get("replayed", False)))
        self.flight.append(entry)
        return True

    def finish(self) -> None:
        self.do("rewind", 0)
        self.do("open", 6)

        def drained() -> bool:
            while self.take() or self.flight:
                if self.flight:
                    self.ack(0)
            return self.spool.stats().waiting == 0

        wait_until(drained, 60, "the end of the backlog")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTIONS, max_size=20), st.sampled_from(["outage", "always"]))
@example([("open", 3), ("put", 2), ("take", 1), ("ack", 0), ("rewind", False), ("open", 3)], "always")
def test_nothing_is_lost_whatever_happens(actions: list[tuple], durability: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), durability)
        try:
            for action in actions:
                world.do(*action)
                world.balanced()
            world.finish()
            world.balanced()
            assert {n for n, _ in world.came} == set(range(world.next))
            live = [n for n, replayed in world.came if not replayed]
            assert live == sorted(set(live)), "a live one comes once, and in order"
            firsts = list(dict.fromkeys(n for n, replayed in world.came if replayed))
            assert firsts == sorted(firsts)
            assert world.spool.stats().dropped == {}
        finally:
            world.spool.drop_waiting()
        assert not list(Path(folder).glob("*.seg"))
