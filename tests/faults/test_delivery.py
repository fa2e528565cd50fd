"""The broker away, frozen or deaf, and a disk that is full: what a device does with its results meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from edgerun.spool.record import DATA, MAGIC, scan
from tests.faults.box import Box, box
from tests.spool.test_spool import on_disk

OUTAGE = 25
"""Results made while the broker is away."""


def spool_bytes(made: Box) -> int:
    return on_disk(made.state / "spool" / "box")


def spooled_results(made: Box) -> int:
    """Results in the files, acknowledged or not."""
    files = []
    for path in (made.state / "spool" / "box").glob("detection-*.seg"):
        with contextlib.suppress(FileNotFoundError):  # done with, and deleted meanwhile
            files.append(path.read_bytes())
    found = [one for data in files for one in scan(data, len(MAGIC)) if not isinstance(one, tuple)]
    return sum(one.kind == DATA for one in found)


def numbers(made: Box, *, replayed: bool) -> list[int]:
    """Of the results of all streams, by their ids, as they came."""
    streams = [one.topic.rpartition("/")[2] for one in made.seen.messages if "/detections/" in one.topic]
    came = [one for stream in dict.fromkeys(streams) for one in made.results(stream, replayed=replayed)]
    return [int(one["id"].partition("-")[2]) for one in came]


def test_results_of_an_outage_are_replayed_oldest_first_behind_live_ones(tmp_path: Path) -> None:
    with box(tmp_path, "") as made:
        made.line.locked.set()
        made.line.cut()
        made.wait(lambda: spooled_results(made) >= OUTAGE // 2, "results on disk")
        before = len(made.results("well"))  # what was on its way has come
        made.wait(lambda: spooled_results(made) >= OUTAGE, "results on disk")
        assert len(made.results("well")) <= before + 2, "nothing comes through"
        made.line.heal()
        made.wait(lambda: made.results("well", replayed=True), "the replay")
        made.well_goes_on()
        made.replay_ends()
        summary = made.stop()
        made.check_well()
    live, replayed = numbers(made, replayed=False), numbers(made, replayed=True)
    assert len(replayed) >= OUTAGE
    assert live == sorted(set(live))
    assert replayed == sorted(set(replayed))
    assert sorted({*live, *replayed}) == list(range(max(live) + 1)), "every result came"
    assert summary["streams"]["well"]["published"] == max(live) + 1
    assert summary["mqtt"]["dropped"].get("full", 0) == 0
    assert not {event["kind"] for event in made.bodies("event")} & {"spool_broken", "spool_dropped", "spool_damaged"}


def test_a_broker_that_swallows_everything_costs_no_result(tmp_path: Path) -> None:
    """No connection ends, nothing is acknowledged: what has waited for a second is on disk before anyone knows."""
    with box(tmp_path, "") as made:
        made.line.swallow()
        made.wait(lambda: spooled_results(made) >= 10, "results on disk though the link is up")
        made.line.heal()
        made.wait(lambda: made.results("well", replayed=True), "the replay")
        made.well_goes_on()
        summary = made.stop()
        made.check_well()
    came = {*numbers(made, replayed=False), *numbers(made, replayed=True)}
    assert came == set(range(max(came) + 1))
    assert summary["streams"]["well"]["published"] == max(came) + 1


SPOOL = """
[mqtt.spool]
max_bytes = "64KiB"
min_free = 0
free_share = 1.0
[streams.many]
source = { kind = "synthetic", size = [160, 120], fps = 60 }
model = "detector"
"""


def test_on_a_full_disk_the_oldest_go_counted_and_live_goes_on(
    tmp_path: Path, make_disk: Callable[[str], Path]
) -> None:
    disk = make_disk("64k")
    with box(tmp_path, SPOOL, state=disk) as made:
        made.line.swallow(down=False)  # else one that came, and its PUBACK did not, is lost and has come
        made.wait(lambda: spooled_results(made), "results on disk though the link is up")
        made.line.locked.set()
        made.line.cut()
        made.wait(lambda: spool_bytes(made) > 8000, "results on disk")
        fill(disk)
        oldest = sorted((made.state / "spool" / "box").glob("detection-*.seg"))[0]
        made.wait(lambda: not oldest.exists(), "the oldest file to go")
        made.line.heal()
        made.wait(lambda: made.events("spool_dropped"), "its event")
        made.well_goes_on()
        made.replay_ends()
        told = made.spooled()["dropped"]
        summary = made.stop()
        made.check_well()
    assert not made.events("spool_broken"), "a full disk is not a broken one"
    assert all("the disk has no more room" in event["text"] for event in made.events("spool_dropped"))
    assert told == sum(int(event["text"].split()[0]) for event in made.events("spool_dropped"))
    published = sum(stream["published"] for stream in summary["streams"].values())
    came = {*numbers(made, replayed=False), *numbers(made, replayed=True)}
    missing = set(range(published)) - came
    assert len(missing) == told == summary["mqtt"]["dropped"]["disk_full"], "what is lost is what was counted"
    replayed = numbers(made, replayed=True)
    assert max(missing) < max(replayed), "the oldest of the outage went, not the newest"


def fill(disk: Path) -> None:
    """Others write until nothing more fits."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            return
