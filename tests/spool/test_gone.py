"""Files that go while something of them is in memory, on its way or acknowledged; disks that fail in between."""

from __future__ import annotations

from pathlib import Path

from edgerun.broker.message import Message
from tests.spool.turned import Turned, number


def test_copies_stand_in_their_order_and_nothing_waits_for_ever(tmp_path: Path) -> None:
    """A file with live copies goes; what was in it is not written again behind newer ones, where no reader looks."""
    made = Turned(tmp_path, "always", limit=40, max_bytes=1 << 17)
    made.spool.opened(4)
    made.put_each(20)
    made.put_each(8, keep="event")
    made.lack(1500)
    made.turn()
    made.put_each(32, size=10, keep="event")  # memory is full: the oldest give way to the disk
    came = made.drain()
    detections = [n for n in came if n < 20]
    assert detections == sorted(detections)
    made.check(came, lost=made.count - len(set(came)))
    assert made.count - len(set(came)) <= 4, "those whose file went, when memory was full as well"


def test_what_is_on_its_way_is_not_lost_with_its_file(tmp_path: Path) -> None:
    made = Turned(tmp_path, limit=30, max_bytes=1 << 17, segment_bytes=1 << 14)
    made.spool.opened(8)
    made.put(8)
    flight = made.fly(8)
    made.put(28)
    made.turn(1.2)
    made.put(6)  # six of those on disk give way
    made.lack(1000)
    for entry in flight:
        made.spool.ack(entry.ticket)
    came = [*map(number, flight), *made.drain()]
    made.check(came, lost=4)


def test_what_the_broker_has_is_not_lost_with_its_file(tmp_path: Path) -> None:
    """PUBACKs in one read of the socket with the end of the link, and then newer results that need the room."""
    made = Turned(tmp_path, "always", segment_bytes=1 << 13)
    made.spool.opened(20)
    made.put_each(54)
    flight = made.fly(20)
    for entry in flight:
        made.spool.ack(entry.ticket)
    made.spool.rewind()
    made.put(6)
    made.turn()
    made.turn(1)
    made.spool.opened(20)
    made.check([*map(number, flight), *made.drain()], lost=0)


def test_the_oldest_go_and_the_rest_keeps_its_order(tmp_path: Path) -> None:
    """More live results than the spool holds are late, and then the link is lost."""
    made = Turned(tmp_path, segment_bytes=1 << 13)
    made.spool.opened(8)
    made.put(90)
    made.turn(1.2)
    made.spool.rewind()
    made.turn(0.1)
    made.turn(1)
    made.spool.opened(8)
    came = made.drain()
    assert came == list(range(made.count - len(came), made.count))
    made.check(came, lost=made.count - len(came))


def outage_with_read_ahead(made: Turned) -> None:
    made.put_each(40)
    made.spool.opened(20)
    made.turn(0.1)  # forty are read ahead
    made.spool.rewind()
    made.put_each(60)  # the spool is at its bound: the file of those goes


def test_what_was_read_ahead_outlives_its_file_and_a_disk_error(tmp_path: Path) -> None:
    made = Turned(tmp_path, segment_bytes=1 << 13)
    outage_with_read_ahead(made)
    made.disk.fails = OSError(5, "Input/output error")
    made.put_each(1)
    made.disk.fails = None
    made.turn(11)
    made.spool.opened(20)
    came = made.drain()
    made.check(came, lost=made.count - len(set(came)))
    assert len(set(came)) > 90


def test_what_is_in_memory_only_is_counted_at_the_stop(tmp_path: Path) -> None:
    made = Turned(tmp_path, segment_bytes=1 << 13)
    outage_with_read_ahead(made)
    made.spool.start(lambda: None)
    lost = made.spool.drop_waiting()
    counted = sum(made.spool.spool_stats().dropped.values())
    after = Turned(tmp_path, segment_bytes=1 << 13)
    after.spool.opened(20)
    assert len(set(after.drain())) == made.count - lost - counted
    assert lost == made.spool.stats().dropped["stopped"]


def test_the_stop_loses_neither_what_is_on_disk_nor_states(tmp_path: Path) -> None:
    made = Turned(tmp_path, durability="always")
    made.spool.opened(20)
    made.put_each(5)
    made.spool.put(Message("device/status", b"online", 1, retain=True), made.clock.mono_ns())
    assert made.spool.take(True, made.clock.mono_ns()) is not None
    made.spool.start(lambda: None)
    assert made.spool.drop_waiting() == 0
    assert (made.spool.stats().dropped, made.spool.stats().waiting) == ({"unsaid": 1}, 5)
    after = Turned(tmp_path)
    after.spool.opened(20)
    assert after.drain() == list(range(5))


def test_a_disk_error_in_an_outage_costs_nothing(tmp_path: Path) -> None:
    """Tickets are given once, however often the folder is taken anew."""
    made = Turned(tmp_path)
    made.put_each(10)
    made.disk.fails = OSError(5, "Input/output error")
    made.put(10)
    made.turn()
    made.disk.fails = None
    made.put(10)
    made.turn(10.1)
    made.turn(1)
    made.spool.opened(20)
    made.check(made.drain(), lost=0)


def test_what_went_is_counted_though_the_next_file_would_not_go(tmp_path: Path) -> None:
    made = Turned(tmp_path)
    made.put_each(20)
    made.disk.unlinks = 1
    made.lack(9000)
    made.disk.unlinks = None
    made.turn(10.1)
    made.spool.opened(20)
    came = made.drain()
    assert len(came) < made.count
    made.check(came, lost=made.count - len(came))


def test_live_copies_that_do_not_all_fit_are_written_once(tmp_path: Path) -> None:
    made = Turned(tmp_path, limit=2000, max_bytes=1 << 20, segment_bytes=1 << 20)
    made.spool.opened(20)
    made.put(950, size=1500)
    made.turn(1.2)  # a batch is 512: with copies that drove each other out, this turn had no end
    made.turn(1.2)
    made.check(made.drain(), lost=0)


def test_always_on_a_full_disk_goes_on_without_copies(tmp_path: Path) -> None:
    """Where nothing older could give way, live results are neither late nor held up; and nothing spins meanwhile."""
    made = Turned(tmp_path, "always", max_bytes=1 << 20)
    made.spool.opened(20)
    made.disk.fails = OSError(28, "No space left on device")
    made.put_each(1)
    made.put(10)
    assert [number(entry) for entry in made.fly(11)] == list(range(11)), "at once"
    assert not made.told()
    made.disk.fails = None


def test_acknowledgements_that_find_no_room_are_tried_again_in_a_while(tmp_path: Path) -> None:
    made = Turned(tmp_path, segment_bytes=1 << 14)
    made.put_each(30)
    made.spool.opened(20)
    made.turn(0.1)
    made.disk.fails = OSError(28, "No space left on device")
    for entry in made.fly(5):
        made.spool.ack(entry.ticket)
    before = made.disk.writes
    for _ in range(100):
        made.turn(0.05)
    assert 1 <= made.disk.writes - before <= 2
    made.disk.fails = None
    made.turn(10.1)
    assert made.disk.writes - before <= 4
    made.check([*range(5), *made.drain()], lost=0)


def test_a_disk_that_only_a_write_or_a_sync_finds_broken_is_told_once(tmp_path: Path) -> None:
    for failing in ("fails", "fails_sync"):
        made = Turned(tmp_path / failing)
        setattr(made.disk, failing, OSError(5, "Input/output error"))
        for _ in range(60):
            made.put_each(1, size=100)
            made.turn(5)
        setattr(made.disk, failing, None)
        for _ in range(10):
            made.turn(3)
        kinds = [notice.kind for notice in made.spool.take_notices(last=True)]
        assert kinds == ["spool_broken", "spool_works"], failing
        made.spool.opened(20)
        assert len(set(made.drain())) == made.count


def test_what_is_larger_than_memory_is_counted_and_told(tmp_path: Path) -> None:
    made = Turned(tmp_path)
    made.spool.opened(20)
    made.put(size=9 << 20)
    made.put()
    came = made.drain()
    assert came == [1]
    made.check(came, lost=1)
