"""The spool behind a real connection: what is live, what is replayed, what is told."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgerun.broker.connection import Connection
from edgerun.broker.message import Kind
from edgerun.clock import Clock, FakeClock, SystemClock
from edgerun.spool.files import Files
from edgerun.spool.options import SpoolOptions
from edgerun.spool.spool import Spool
from tests import mosquitto
from tests.broker.gate import gate
from tests.broker.parts import DEVICE, LATE_S, TOPIC, balanced, options
from tests.mosquitto import wait_until


@pytest.fixture(autouse=True)
def _slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others keep busy is waited for, at the end too."""
    monkeypatch.setattr("edgerun.spool.spool._CLOSE_S", LATE_S)


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
    spooled = SpoolOptions(folder, **{"min_free_bytes": 0, "free_share": 1.0, "replay_rate": 5000.0, **how})
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


def test_always_means_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has reached the broker is in the files, or in those that were deleted after its PUBACK."""

    class Slow(Files):
        def write(self, fd: int, data: bytes) -> None:
            entered.set()
            assert free.wait(LATE_S)
            super().write(fd, data)

    entered, free = threading.Event(), threading.Event()
    free.set()
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, TOPIC) as seen,
        device(broker.url, tmp_path, durability="always", files=Slow()) as made,
    ):
        wait_until(lambda: made.connected)
        with monkeypatch.context() as patient:
            patient.setattr("edgerun.spool.lanes.WRITTEN_S", LATE_S)
            made.result(1)
        assert made.flush(LATE_S)
        assert on_disk(tmp_path) > 0
        assert heard(seen.wait(len)) == [(1, False)]
        entered.clear()
        free.clear()
        publisher = threading.Thread(target=made.result, args=(2,))
        publisher.start()
        assert entered.wait(LATE_S)
        publisher.join(LATE_S)
        assert not publisher.is_alive(), "a disk that stalls holds nobody up for long"
        messages = heard(seen.wait(lambda ms: len(ms) >= 2))
        assert messages == [(1, False), (2, False)], "a live result goes without the disk when that stalls"
        free.set()
        assert made.flush(LATE_S)


@pytest.mark.parametrize("sync_ms", [0, 1000])
def test_syncs_come_as_often_as_they_are_asked_for(
    tmp_path: Path, sync_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(Files):
        syncs = 0

        def sync(self, fd: int) -> None:
            Counting.syncs += 1
            super().sync(fd)

    Counting.syncs = 0
    monkeypatch.setattr("edgerun.spool.lanes.WRITTEN_S", LATE_S)
    began = time.monotonic()
    with (
        mosquitto.broker() as broker,
        device(broker.url, tmp_path, durability="always", sync_ms=sync_ms, files=Counting()) as made,
    ):
        wait_until(lambda: made.connected)
        for n in range(100):
            made.result(n)
        assert made.flush(LATE_S)
        if sync_ms == 0:
            assert Counting.syncs >= 100
        else:
            assert Counting.syncs <= 1 + (time.monotonic() - began)


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


def test_a_folder_that_cannot_be_used_is_told_and_live_goes_on(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, TOPIC) as seen,
        device(broker.url, tmp_path / "spool", durability="always") as made,
    ):
        assert told(made) == ["spool_broken"]
        assert "STATE_DIRECTORY" in str(made.spool.spool_stats().broken)
        wait_until(lambda: made.connected)
        for n in range(20):
            made.result(n)
        assert made.flush(LATE_S)
        assert [n for n, _ in heard(seen.wait(lambda ms: len(ms) >= 20))] == list(range(20))
        assert balanced(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user one has to be root first")
def test_another_users_folder_is_told_and_not_a_crash(tmp_path: Path) -> None:
    import subprocess
    import sys

    folder = tmp_path / "spool"
    folder.mkdir(mode=0o700)
    program = f"""
import os
from pathlib import Path
from edgerun.clock import SystemClock
from edgerun.spool.options import SpoolOptions
from edgerun.spool.spool import Spool
import edgerun.spool.store
os.setuid(65534)
spool = Spool(SpoolOptions(Path({str(folder)!r})), SystemClock(), "1")
spool.start(lambda: None)
assert spool.wait_tried(60)
print([notice.kind for notice in spool.take_notices()], spool.spool_stats().broken)
spool.drop_waiting()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "['spool_broken']" in done.stdout
    assert "Permission denied" in done.stdout


def test_a_read_only_disk_is_told(make_disk: Callable[[str], Path]) -> None:
    import subprocess

    disk = make_disk("64k")
    if subprocess.run(["mount", "-o", "remount,ro", disk], check=False, capture_output=True).returncode:
        pytest.skip("this container may not remount")
    with mosquitto.broker() as broker, device(broker.url, disk / "spool") as made:
        assert told(made) == ["spool_broken"]
        wait_until(lambda: made.connected)
        made.result(1)
        assert made.flush(LATE_S)


def test_a_disk_that_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO while the broker is away: memory takes over within its bounds, and the disk again when it recovers."""

    class Failing(Files):
        bad = False

        def write(self, fd: int, data: bytes) -> None:
            if Failing.bad:
                raise OSError(5, "Input/output error")
            super().write(fd, data)

    Failing.bad = False
    monkeypatch.setattr("edgerun.spool.spool._RETRY_NS", 200_000_000)
    with mosquitto.broker(start=False) as broker:
        with device(broker.url, tmp_path, files=Failing()) as made:
            for n in range(10):
                made.result(n)
            wait_until(lambda: made.spool.spool_stats().bytes > 0)
            Failing.bad = True
            for n in range(10, 20):
                made.result(n)
            wait_until(lambda: made.spool.spool_stats().broken)
            Failing.bad = False
            wait_until(lambda: not made.spool.spool_stats().broken)
            for n in range(20, 30):
                made.result(n)
            wait_until(lambda: made.spool.spool_stats().messages == 30)
            assert balanced(made)
            assert told(made) == ["spool_broken", "spool_works"]
        broker.start()
        with mosquitto.subscriber(broker, TOPIC) as seen, device(broker.url, tmp_path) as made:
            assert made.flush(LATE_S)
            assert [n for n, _ in heard(seen.wait(lambda ms: len(ms) >= 30))] == list(range(30))


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
