"""The spool behind a real connection: what is live, what is replayed, what is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

from edgerun.clock import FakeClock
from tests import mosquitto
from tests.broker.gate import gate
from tests.broker.parts import DEVICE, LATE_S, TOPIC, balanced
from tests.mosquitto import wait_until
from tests.spool.devices import device, has_room, heard, on_disk, told


def test_while_the_broker_acknowledges_nothing_is_written(tmp_path: Path) -> None:
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, TOPIC) as seen:
        with device(broker.url, tmp_path, clock=FakeClock()) as made:  # no PUBACK is late
            wait_until(lambda: made.connected)
            for n in range(300):
                made.result(n)
            assert made.flush(LATE_S)
            assert on_disk(tmp_path) == 0
            assert heard(seen.wait(lambda ms: len(ms) >= 300)) == [(n, False) for n in range(300)]
            assert balanced(made)
        assert json.loads((tmp_path / "mark").read_bytes()) == {
            "v": 1,
            "run": "00000001",
            "certain": 299,
            "clean": True,
        }


def test_an_outage_and_a_restart_in_it(tmp_path: Path) -> None:
    with mosquitto.broker(start=False) as broker:
        with device(broker.url, tmp_path) as made:
            for n in range(50):
                made.result(n)
            wait_until(lambda: made.spool.spool_stats().messages == 50)
            assert balanced(made)
        assert on_disk(tmp_path) > 0
        broker.start()
        with mosquitto.subscriber(broker, TOPIC) as seen, device(broker.url, tmp_path, "00000002") as made:
            assert told(made) == [], "a stop in an outage is a clean one"
            wait_until(lambda: made.connected)
            made.result(1000)
            assert made.flush(LATE_S)
            messages = heard(seen.wait(lambda ms: len(ms) >= 51))
            assert [n for n, replayed in messages if replayed] == list(range(50))
            assert (1000, False) in messages
            assert made.spool.spool_stats().replayed == 50
            assert balanced(made)
            wait_until(lambda: not on_disk(tmp_path))


def test_always_means_before_it_is_sent(tmp_path: Path) -> None:
    """Whatever has reached the broker is in the files, or in those that were deleted after its PUBACK."""
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, TOPIC) as seen,
        device(broker.url, tmp_path, durability="always", written_s=LATE_S) as made,
    ):
        wait_until(lambda: made.connected)
        made.result(1)
        assert made.flush(LATE_S)
        assert on_disk(tmp_path) > 0
        assert heard(seen.wait(len)) == [(1, False)]


def test_what_is_late_is_written_and_stays_live(tmp_path: Path) -> None:
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, TOPIC) as seen,
        device(broker.url, tmp_path, ack_timeout_s=60.0) as made,
    ):
        wait_until(lambda: made.connected)
        broker.freeze()
        for n in range(30):
            made.result(n)
        wait_until(lambda: on_disk(tmp_path) > 0, what="the copies of what waits for its PUBACK")
        broker.thaw()
        assert made.flush(LATE_S)
        assert heard(seen.wait(lambda ms: len(ms) >= 30)) == [(n, False) for n in range(30)]
        wait_until(lambda: not on_disk(tmp_path))
        assert balanced(made)


def test_more_than_memory_holds_waits_on_disk_while_a_broker_is_frozen(tmp_path: Path) -> None:
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, TOPIC) as seen,
        device(broker.url, tmp_path, ack_timeout_s=60.0, limit=200) as made,
    ):
        wait_until(lambda: made.connected)
        broker.freeze()
        for n in range(1500):
            made.result(n)
            if n % 50 == 0:
                wait_until(lambda: has_room(made.spool), what="the disk, to take what memory is pressed with")
        assert balanced(made)
        assert made.stats().dropped == {}
        assert made.spool.spool_stats().messages > 1000
        broker.thaw()
        assert made.flush(LATE_S)
        messages = heard(seen.wait(lambda ms: len(ms) >= 1500))
        assert sorted(n for n, _ in messages) == list(range(1500))
        for kind in (False, True):
            numbers = [n for n, replayed in messages if replayed is kind]
            assert numbers == sorted(numbers)
        assert balanced(made)


def test_a_lost_line_makes_a_backlog_of_what_was_live(tmp_path: Path) -> None:
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, TOPIC) as seen,
        gate(broker.port) as door,
        device(door.url, tmp_path, ack_timeout_s=60.0, connect_timeout_s=2.0) as made,
    ):
        wait_until(lambda: made.connected)
        made.result(1000)
        assert made.flush(LATE_S)  # so `online` is acknowledged too, and takes none of the window
        door.deaf.set()
        for n in range(20):  # all that may be on the way
            made.result(n)
        wait_until(lambda: made.stats().in_flight == 20)
        for n in range(20, 100):
            made.result(n)
        door.cut()
        door.deaf.clear()
        assert made.flush(LATE_S)
        messages = heard(seen.wait(lambda ms: len({n for n, _ in heard(ms)}) >= 101))
        assert [n for n, replayed in messages if replayed] == list(range(100))
        assert [n for n, replayed in messages if not replayed] == [1000, *range(20)], "those that were on the way"
        assert balanced(made)


def test_a_killed_run_is_told_with_the_last_certain_number(tmp_path: Path) -> None:
    with mosquitto.broker() as broker:
        with device(broker.url, tmp_path, "aaaaaaaa") as made:
            wait_until(lambda: made.connected)
            for n in range(41):
                made.result(n)
            assert made.flush(LATE_S)
            wait_until(lambda: json.loads((tmp_path / "mark").read_bytes())["certain"] == 40)
            as_killed = (tmp_path / "mark").read_bytes()
        (tmp_path / "mark").write_bytes(as_killed)
        with device(broker.url, tmp_path, "bbbbbbbb") as made:
            (notice,) = made.spool.take_notices()
            assert (notice.kind, notice.run, notice.certain) == ("unclean_stop", "aaaaaaaa", 40)


def test_only_what_is_to_be_kept_is_kept(tmp_path: Path) -> None:
    with mosquitto.broker(start=False) as broker:
        with device(broker.url, tmp_path) as made:
            made.publish(f"edgerun/{DEVICE}/state/main", b"{}", qos=1, retain=True)
            made.publish(f"edgerun/{DEVICE}/telemetry", b"{}")
            made.publish(f"edgerun/{DEVICE}/event", b"{}", keep="event")
            made.publish(f"edgerun/{DEVICE}/telemetry", b'{"a":1}', keep="telemetry")
            made.publish(f"edgerun/{DEVICE}/detections/main", b"not json", keep="detection")
            wait_until(lambda: made.spool.spool_stats().messages == 3)
            assert made.stats().dropped == {"offline": 1}
        broker.start()
        with mosquitto.subscriber(broker, f"edgerun/{DEVICE}/+/#") as seen, device(broker.url, tmp_path) as made:
            messages = seen.wait(lambda ms: len([m for m in ms if "status" not in m.topic]) >= 3)
    assert [(m.topic.split("/")[2], m.payload, m.qos) for m in messages if "status" not in m.topic] == [
        ("event", b'{"replayed":true}', 1),
        ("telemetry", b'{"replayed":true,"a":1}', 1),
        ("detections", b"not json", 1),
    ]


def test_the_bound_of_the_spool_is_counted_by_class_and_told(tmp_path: Path) -> None:
    with (
        mosquitto.broker(start=False) as broker,
        device(broker.url, tmp_path, max_bytes=1 << 16, segment_bytes=8192) as made,
    ):
        for n in range(400):
            made.publish(TOPIC, os.urandom(1000), keep="detection", number=n)
            if n % 20 == 0:
                made.publish(f"edgerun/{DEVICE}/event", os.urandom(100), keep="event")
                wait_until(lambda: made.stats().waiting_bytes == 0)
        wait_until(lambda: made.stats().waiting_bytes == 0)
        stats = made.spool.spool_stats()
        assert set(stats.dropped) == {"detection"}
        assert stats.bytes <= 1 << 16
        assert balanced(made)
        assert "spool_dropped" in told(made)
