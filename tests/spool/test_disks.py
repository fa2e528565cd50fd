"""The spool on disks that stall, fail, are another's or read-only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerun.spool.files import Files
from tests import mosquitto
from tests.broker.parts import LATE_S, TOPIC, balanced
from tests.mosquitto import wait_until
from tests.spool.devices import device, heard, told


def test_a_disk_that_stalls_holds_nobody_up_for_long(tmp_path: Path) -> None:
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
        made.result(1)
        assert made.flush(LATE_S)
        assert heard(seen.wait(len)) == [(1, False)]
        entered.clear()
        free.clear()
        publisher = threading.Thread(target=made.result, args=(2,))
        publisher.start()
        assert entered.wait(LATE_S)
        publisher.join(LATE_S)
        assert not publisher.is_alive()
        messages = heard(seen.wait(lambda ms: len(ms) >= 2))
        assert messages == [(1, False), (2, False)], "a live result goes without the disk when that stalls"
        free.set()
        assert made.flush(LATE_S)


@pytest.mark.parametrize("sync_ms", [0, 1000])
def test_syncs_come_as_often_as_they_are_asked_for(tmp_path: Path, sync_ms: int) -> None:
    class Counting(Files):
        syncs = 0

        def sync(self, fd: int) -> None:
            Counting.syncs += 1
            super().sync(fd)

    Counting.syncs = 0
    began = time.monotonic()
    with (
        mosquitto.broker() as broker,
        device(broker.url, tmp_path, durability="always", sync_ms=sync_ms, files=Counting(), written_s=LATE_S) as made,
    ):
        wait_until(lambda: made.connected)
        for n in range(100):
            made.result(n)
        assert made.flush(LATE_S)
        if sync_ms == 0:
            assert Counting.syncs >= 100
        else:
            assert Counting.syncs <= 1 + (time.monotonic() - began)


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


def test_a_disk_that_fails_in_the_middle(tmp_path: Path) -> None:
    """EIO while the broker is away: memory takes over within its bounds, and the disk again when it recovers."""

    class Failing(Files):
        bad = False

        def write(self, fd: int, data: bytes) -> None:
            if Failing.bad:
                raise OSError(5, "Input/output error")
            super().write(fd, data)

    Failing.bad = False
    with mosquitto.broker(start=False) as broker:
        with device(broker.url, tmp_path, files=Failing(), retry_s=0.2) as made:
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
