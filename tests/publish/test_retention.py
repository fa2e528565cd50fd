"""Pictures that are kept are not kept for ever."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock, SystemClock
from edgerun.ports import SinkContext
from edgerun.publish.album import Album
from edgerun.publish.collect import CollectPlan, CollectSink
from edgerun.types import Answer, Detection
from tests.mosquitto import wait_until
from tests.publish.samples import picture, publication

NOON = 1_795_262_400.0
DAY = 86400.0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 60), max_size=12), st.integers(0, 60))
def test_what_is_older_goes_and_nothing_else(days: list[int], limit: int) -> None:
    """Also when the clock ran to and fro between them."""
    with tempfile.TemporaryDirectory() as folder:
        album = Album(Path(folder), 1 << 20)
        for day in days:
            album.add(NOON + day * DAY, b"jpeg", b"{}")
        young = [day for day in days if day >= limit]
        assert album.prune(NOON + limit * DAY) == len(days) - len(young)
        assert len(names(Path(folder))) == 2 * len(young)
        assert album.taken_bytes == 6 * len(young)
        assert Album(Path(folder), 1 << 20).taken_bytes == 6 * len(young)
        album.add(NOON, b"jpeg", b"{}")
        assert len(names(Path(folder))) == 2 * len(young) + 2, "it goes on"


def test_a_clock_that_was_not_set_makes_pictures_old(tmp_path: Path) -> None:
    album = Album(tmp_path, 1 << 20)
    album.add(3600.0, b"jpeg", b"{}")
    (tmp_path / "00000007-99999999T999999Z.jpg").write_bytes(b"jpeg")
    (tmp_path / "00000007-99999999T999999Z.json").write_bytes(b"{}")
    assert Album(tmp_path, 1 << 20).prune(NOON) == 2
    assert names(tmp_path) == []


def test_a_new_run_deletes_what_an_earlier_one_left(tmp_path: Path) -> None:
    """Without any new picture."""
    old = Album(tmp_path, 1 << 20)
    now_s = SystemClock().unix_s()
    old.add(now_s - 31 * DAY, b"jpeg", b"{}")
    old.add(now_s - 29 * DAY, b"jpeg", b"{}")
    sink = CollectSink(
        CollectSink.Options({"dock": CollectPlan(str(tmp_path), max_age_s=30 * DAY)}),
        SinkContext("dock-7", SystemClock()),
    )
    wait_until(lambda: len(names(tmp_path)) == 2, 60, "the deletion")
    sink.close()


def test_while_pictures_come_the_old_ones_go(tmp_path: Path) -> None:
    clock = FakeClock(unix_s=NOON)
    plan = CollectPlan(str(tmp_path), max_age_s=600.0, every_s=0)
    sink = CollectSink(CollectSink.Options({"dock": plan}), SinkContext("dock-7", clock))
    unsure = Answer(detections=(Detection("person", 1, 0.45, (0.1, 0.1, 0.2, 0.5)),))
    taken = publication(412, unsure, image=picture(64, 48))  # 9 hours before the clock's noon
    sink.publish(taken)
    sink.flush(60)
    assert len(names(tmp_path)) == 2
    clock.advance(61.0)
    sink.publish(publication(413, unsure, image=picture(64, 48)))
    sink.flush(60)
    sink.publish(publication(414, unsure, image=picture(64, 48)))
    sink.flush(60)
    assert [name[:8] for name in names(tmp_path)] == ["00000002"] * 2, "looked at once a minute: the others have gone"
    sink.close()
