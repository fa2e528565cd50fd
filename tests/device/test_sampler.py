"""Sensors that block, and the sampler's thread."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgerun.clock import FakeClock, SystemClock
from edgerun.device.reader import Blocked, PatientReader
from edgerun.device.sampler import Sample, Sampler
from edgerun.device.sensors import builtin_kinds
from edgerun.device.site import Found, Site
from edgerun.types import Reading
from tests.boards import tree

ZONE = "sys/class/thermal/thermal_zone"
BLOCKING = f"== {ZONE}0/type = stuck\n== {ZONE}0/temp !blocks\n== {ZONE}1/type = gpu\n== {ZONE}1/temp = 50000\n"
LIMIT_S = 5.0
"""What does not block answers within it, also on a machine that has other things to do."""


@pytest.fixture
def stuck(tmp_path: Path) -> tree.BoardMachine:
    return tree.BoardMachine(tree.parse(BLOCKING), tmp_path)


def test_a_sensor_that_blocks_is_left_alone_until_it_comes_back(stuck: tree.BoardMachine) -> None:
    sampler = Sampler(Site(stuck, SystemClock()), builtin_kinds(["thermal"]), read_limit_s=LIMIT_S)
    first = sampler.sample()
    (broken,) = first.broken
    assert broken.place == "stuck"
    assert broken.blocked
    assert f"did not answer within {LIMIT_S:g} s" in broken.reason
    assert first.values() == {"thermal/gpu/temp_c": 50.0}
    readers = reading_threads()
    again = sampler.sample()
    assert again.values() == {"thermal/gpu/temp_c": 50.0}
    assert "still blocks" in again.broken[0].reason
    assert reading_threads() == readers, "it was tried again"
    left_behind = next(thread for thread in readers if thread.is_alive() and thread is not serving(sampler))
    release(stuck.path(f"{ZONE}0/temp"))
    left_behind.join(60.0)
    assert not left_behind.is_alive()
    well = sampler.sample()
    assert well.values() == {"thermal/stuck/temp_c": 47.0, "thermal/gpu/temp_c": 50.0}
    assert well.broken == ()
    sampler.close()


def test_a_kind_that_blocks_while_it_is_looked_for_costs_itself_only(tmp_path: Path) -> None:
    text = (
        f"== {ZONE}0/type !blocks\n== sys/class/hwmon/hwmon0/name = fan\n== sys/class/hwmon/hwmon0/fan1_input = 900\n"
    )
    board = tree.BoardMachine(tree.parse(text), tmp_path)
    sampler = Sampler(Site(board, SystemClock()), builtin_kinds(["thermal", "cpufreq", "uptime"]), read_limit_s=LIMIT_S)
    (broken,) = sampler.sample().broken
    assert (broken.kind, broken.place) == ("thermal", "")
    release(board.path(f"{ZONE}0/type"))
    sampler.close()


def test_closing_does_not_wait_for_what_blocks(stuck: tree.BoardMachine) -> None:
    sampler = Sampler(Site(stuck, SystemClock()), builtin_kinds(["thermal"]), read_limit_s=LIMIT_S)
    sampler.sample()
    sampler.close()
    sampler.close()
    release(stuck.path(f"{ZONE}0/temp"))


def test_each_trouble_is_logged_once(stuck: tree.BoardMachine, caplog: pytest.LogCaptureFixture) -> None:
    sampler = Sampler(Site(stuck, SystemClock()), builtin_kinds(["thermal"]), read_limit_s=LIMIT_S)
    with caplog.at_level(logging.INFO, "edgerun.device"):
        sampler.sample()
        sampler.sample()
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "sensor thermal stuck cannot be read, it has no reading"
        ]
        (blocked,) = [thread for thread in reading_threads() if thread is not serving(sampler)]
        release(stuck.path(f"{ZONE}0/temp"))
        blocked.join(60.0)
        sampler.sample()
        assert caplog.records[-1].getMessage() == "sensor thermal stuck is well again, or gone"
    sampler.close()


def test_what_is_done_in_time_comes_back_as_it_is() -> None:
    reader = PatientReader(60.0)
    assert reader.run("a", lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        reader.run("b", lambda: 1 // 0)
    hold = threading.Event()
    slow = PatientReader(LIMIT_S)
    with pytest.raises(Blocked):
        slow.run("c", hold.wait)
    assert slow.blocked == ("c",)
    assert slow.run("d", lambda: 7) == 7
    hold.set()
    reader.close()
    slow.close()


class Custom:
    """A plug-in of somebody else's, with a mistake in it."""

    closed = 0

    @classmethod
    def find(cls, site: Site) -> Sequence[Found]:
        return [Found("here", "anywhere", cls())]

    def read(self) -> Sequence[Reading]:
        raise KeyError("soil")

    def close(self) -> None:
        type(self).closed += 1


def test_a_plug_in_may_raise_anything(stuck: tree.BoardMachine, tmp_path: Path) -> None:
    Custom.closed = 0
    sampler = Sampler(Site(stuck, FakeClock()), {"custom": Custom, **builtin_kinds(["uptime"])})
    (broken,) = sampler.sample().broken
    assert broken.reason == "'soil'"
    assert sampler.kinds == ("custom",)
    sampler.close()
    assert Custom.closed == 1


def test_the_thread_reads_at_once_and_at_each_interval(tmp_path: Path) -> None:
    clock, stop = FakeClock(), threading.Event()
    board = tree.BoardMachine(tree.read("pi5"), tmp_path)
    sampler = Sampler(Site(board, clock))
    samples: list[Sample] = []

    def keep(sample: Sample) -> None:
        samples.append(sample)
        if len(samples) == 4:
            stop.set()

    sampler.run(stop, 30.0, keep)
    assert [(one.began_ns - samples[0].began_ns) / 1e9 for one in samples] == [0.0, 30.0, 60.0, 90.0]
    assert "disk///free_bytes" in sampler.latest
    assert sampler.kinds == ()  # it has closed them


def test_what_is_read_seldom_stays_in_the_picture(tmp_path: Path) -> None:
    clock = FakeClock()
    sampler = Sampler(Site(tree.BoardMachine(tree.read("coral-dev-board"), tmp_path), clock))
    assert "wear/mmcblk0/reserve" in sampler.sample().values()
    clock.advance(5.0)
    assert "wear/mmcblk0/reserve" not in sampler.sample().values()
    assert sampler.latest["wear/mmcblk0/reserve"].value == 1.0
    clock.advance(3600.0)
    assert "wear/mmcblk0/reserve" in sampler.sample().values()
    sampler.close()


_others: set[threading.Thread] = set()
"""What other tests left behind."""


@pytest.fixture(autouse=True)
def _only_its_own() -> None:
    _others.clear()
    _others.update(reading_threads())


def reading_threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "sensors:read"} - _others


def serving(sampler: Sampler) -> threading.Thread:
    """The thread that reads for it now."""
    return sampler._reader.run("who", threading.current_thread)


def release(fifo: Path) -> None:
    """Let the reader that hangs in it go, with a value; from now on it is a file."""
    held = fifo.with_suffix(".held")
    fifo.rename(held)
    fifo.write_text("47000\n")
    fd = os.open(held, os.O_WRONLY)
    os.write(fd, b"47000\n")
    os.close(fd)
