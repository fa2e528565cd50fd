"""The folder: bounds, classes, foreign files, other users, full and read-only disks."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgerun.broker.message import KINDS, Kind
from edgerun.errors import ConfigError, DeviceError
from edgerun.spool.log import SUFFIX
from edgerun.spool.options import SpoolOptions, spool_folder, state_folder
from edgerun.spool.record import MAGIC
from edgerun.spool.store import ASIDE, Dropped, Mark, New, Store

END = dict.fromkeys(KINDS, 1 << 62)
NOW_MS = 1_795_230_000_000
DAY_MS = 86_400_000


def release(kind: Kind, first: int, behind: int) -> int:
    return 1 << 62


def store(folder: Path, **other: object) -> Store:
    how = {"min_free_bytes": 0, "free_share": 1.0, "segment_bytes": 4096, **other}
    return Store(SpoolOptions(folder, **how))  # type: ignore[arg-type]


def news(kind: Kind, numbers: Sequence[int], size: int = 300, unix_ms: int = NOW_MS) -> list[New]:
    return [New(kind, "t", b"%d:" % n + os.urandom(size), unix_ms) for n in numbers]


def numbers(made: Store) -> list[tuple[Kind, int]]:
    records, lost = made.read(1 << 20, END)
    assert not lost
    return [(kind, int(record.payload.partition(b":")[0])) for kind, record in records]


def test_what_was_written_is_there_for_the_next_process_oldest_first(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.open()
    for n in range(0, 60, 3):
        first.append([*news("detection", [n]), *news("event", [n + 1]), *news("detection", [n + 2])], release)
    first.close()
    second = store(tmp_path)
    assert second.open().messages == 60
    got = numbers(second)
    assert [n for _, n in got] == list(range(60))
    assert {kind for kind, n in got if n % 3 == 1} == {"event"}
    second.close()


def test_acknowledged_files_go_and_the_rest_stays(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.open()
    places, _, _ = made.append(news("detection", range(100)), release)
    for place in places[:70]:
        assert isinstance(place, int)
        made.ack("detection", place)
    made.write_acks()
    made.tidy()
    made.close()
    again = store(tmp_path)
    assert again.open().messages == 30
    assert [n for _, n in numbers(again)] == list(range(70, 100))
    for place in places[70:]:
        assert isinstance(place, int)
        again.ack("detection", place)
    again.close()
    assert not list(tmp_path.glob(f"*{SUFFIX}"))


def test_acknowledgements_of_an_older_file_outlive_the_file_that_says_them(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.open()
    log = made.logs["detection"]

    def fill() -> list[int]:
        """One message at a time until there is a new file, which holds the last of them."""
        before, places = len(log.segments), []
        while len(log.segments) == before:
            places += [place for place in made.append(news("detection", [n_of(places)]), release)[0] if place]
        return [int(place) for place in places]

    def n_of(places: list[object]) -> int:
        return len(places)

    def acknowledge(places: Sequence[int]) -> None:
        for place in places:
            made.ack("detection", place)
        made.write_acks()

    made.append(news("detection", [777]), release)
    old = fill()
    acknowledge(old)  # said in the second file, of the first
    acknowledge(fill())  # said in the third file, of the second, which has nothing else now
    assert [segment.holds_acks for segment in log.segments] == [False, True, True]
    made.tidy()
    assert [segment.holds_acks for segment in log.segments] == [False, True]
    made.append(news("detection", [999]), release)
    made.sync()
    made.abandon()
    again = store(tmp_path)
    again.open()
    assert [n for _, n in numbers(again)] == [777, 999]
    again.abandon()


def test_a_process_that_wrote_nothing_but_acknowledgements_leaves_the_next_one_a_name(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.open()
    made.append(news("detection", range(4)), release)
    made.sync()
    made.abandon()
    for life in range(3):
        made = store(tmp_path)
        made.open()
        ((kind, record), *_), _ = made.read(1, END)
        made.ack(kind, record.n)
        made.write_acks()
        if life == 2:
            assert made.append(news("detection", [9]), release)[2] is None
        made.abandon()
    made = store(tmp_path)
    made.open()
    assert [n for _, n in numbers(made)] == [3, 9]
    made.abandon()


def test_the_oldest_of_the_lowest_class_gives_way(tmp_path: Path) -> None:
    made = store(tmp_path, max_bytes=1 << 16)
    made.open()
    dropped: list[Dropped] = []

    def fill(kind: Kind, count: int) -> list[object]:
        places: list[object] = []
        for n in range(count):
            found, gone, error = made.append(news(kind, [n], 1000), release)
            assert error is None
            places += found
            dropped.extend(gone)
        return places

    fill("telemetry", 10)
    fill("event", 20)
    fill("detection", 60)
    assert made.size <= 1 << 16
    lost = {kind: sum(one.waiting for one in dropped if one.kind == kind) for kind in KINDS}
    assert lost["telemetry"] == 10
    assert lost["detection"] > 0
    assert lost["event"] == 0
    got = numbers(made)
    assert sum(1 for kind, _ in got if kind == "event") == 20
    left = [n for kind, n in got if kind == "detection"]
    assert left == list(range(lost["detection"], 60)), "the oldest went, without a gap"
    dropped.clear()
    fill("event", 60)
    assert {one.kind for one in dropped} == {"detection", "event"}, "its own oldest, when nothing below is left"
    dropped.clear()
    fill("telemetry", 8)
    assert {one.kind for one in dropped} <= {"telemetry"}, "what is below never drives out what is above"
    made.close()


def test_what_goes_again_for_the_rest_of_its_own_batch_has_no_place(tmp_path: Path) -> None:
    """Whoever has it in memory too must not count on the file; and it is told once, by its place."""
    made = store(tmp_path, max_bytes=1 << 16, segment_bytes=1 << 14)
    made.open()
    made.append(news("detection", range(2), 1000), release)
    batch = [*news("detection", range(2, 5), 1000), *news("event", range(70), 1000)]
    places, dropped, error = made.append(batch, release)
    assert error is None
    assert places[:3] == ["spool_full"] * 3
    assert sum(one.waiting for one in dropped if one.kind == "detection") == 2
    readable = len(numbers(made))
    assert sum(isinstance(place, int) for place in places) == readable
    assert 2 + len(batch) == readable + sum(one.waiting for one in dropped) + sum(isinstance(p, str) for p in places)
    made.close()


def test_what_is_too_old_goes_and_a_clock_that_was_not_set_is_no_age(tmp_path: Path) -> None:
    made = store(tmp_path, max_age_s=7 * 86400.0)
    made.open()
    made.append(news("detection", range(5), unix_ms=NOW_MS - 8 * DAY_MS), release)
    made.append(news("event", range(3), unix_ms=5_000), release)  # 1970: the board has no clock and NTP was not there
    dropped: list[Dropped] = []
    made.make_room(10_000, release, dropped)
    assert dropped == [], "by a clock that is not set nothing is old"
    made.make_room(NOW_MS, release, dropped)
    assert dropped == [Dropped("detection", "expired", 5)]
    assert [kind for kind, _ in numbers(made)] == ["event"] * 3
    made.close()


def test_files_that_are_not_ours_are_set_aside_and_told(tmp_path: Path) -> None:
    (tmp_path / f"detection-{1:016x}{SUFFIX}").write_bytes(b"EDGESPL0 of an older version")
    (tmp_path / f"event-{1:016x}{SUFFIX}").write_bytes(b"no segment at all")
    (tmp_path / f"sausage-{1:016x}{SUFFIX}").write_bytes(MAGIC + b"rest")
    (tmp_path / f"telemetry-{1:016x}{SUFFIX}").write_bytes(MAGIC[:3])
    (tmp_path / "mark").write_bytes(b"not json")
    (tmp_path / "notes.txt").write_text("a person's")
    made = store(tmp_path)
    found = made.open()
    assert found.messages == 0
    assert found.mark is None
    assert len(found.aside) == 3
    assert any("version '0'" in text for text in found.aside)
    assert len(list((tmp_path / ASIDE).iterdir())) == 3
    assert (tmp_path / "notes.txt").exists()
    made.append(news("detection", [1]), release)
    made.close()


def test_a_damaged_file_is_read_as_far_as_it_goes_and_set_aside(tmp_path: Path) -> None:
    made = store(tmp_path, segment_bytes=1 << 20)
    made.open()
    made.append(news("detection", range(50)), release)
    made.sync()
    made.abandon()
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    again = store(tmp_path)
    found = again.open()
    assert (found.messages, found.missing) == (49, 1)
    records, lost = again.read(100, END)
    assert (len(records), lost) == (49, 0)
    for kind, record in records:
        again.ack(kind, record.n)
    assert len(again.tidy()) == 1
    assert [p.name for p in (tmp_path / ASIDE).iterdir()] == [path.name]
    again.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.open()
    with pytest.raises(DeviceError, match="another process"):
        store(tmp_path).open()
    made.close()
    again = store(tmp_path)
    again.open()
    again.close()


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from tests.spool.test_store import store
made = store(Path({str(tmp_path)!r}))
made.open()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode < 0
    made = store(tmp_path)
    made.open()
    made.close()


def test_the_mark_outlives_its_process(tmp_path: Path) -> None:
    made = store(tmp_path)
    assert made.open().mark is None
    made.write_mark(Mark("1f3a9c02", 412, clean=False))
    made.abandon()
    again = store(tmp_path)
    assert again.open().mark == Mark("1f3a9c02", 412, clean=False)
    again.write_mark(Mark("77777777", 3, clean=True), sync=True)
    again.close()
    third = store(tmp_path)
    assert third.open().mark == Mark("77777777", 3, clean=True)
    third.close()


def test_a_full_disk_makes_the_oldest_go(make_disk: Callable[[str], Path]) -> None:
    folder = make_disk("64k")
    made = store(folder / "spool")
    made.open()
    lost = 0
    for n in range(200):
        places, dropped, error = made.append(news("detection", [n], 1000), release)
        assert error is None
        assert isinstance(places[0], int)
        lost += sum(one.waiting for one in dropped)
    got = [n for _, n in numbers(made)]
    assert got == list(range(lost, 200))
    assert lost > 100
    made.close()


def test_a_disk_that_others_have_filled(make_disk: Callable[[str], Path]) -> None:
    folder = make_disk("64k")
    made = store(folder / "spool")
    made.open()
    made.append(news("event", range(3), 100), release)
    with (folder / "other").open("wb", buffering=0) as other, pytest.raises(OSError, match="No space"):
        other.writelines(iter(lambda: bytes(4096), None))
    places, _, error = made.append(news("detection", range(20), 1000), release)
    assert error is None
    assert set(places) == {"disk_full"}
    assert len(numbers(made)) == 3, "an event does not give way to a detection"
    (folder / "other").unlink()
    places, _, _ = made.append(news("detection", range(3), 1000), release)
    assert all(isinstance(place, int) for place in places)
    made.close()


def test_what_a_full_disk_cannot_note_is_noted_when_it_can(make_disk: Callable[[str], Path]) -> None:
    """An acknowledgement and the mark: nothing breaks, and what is done with goes and makes room."""
    folder = make_disk("64k")
    made = store(folder / "spool")
    made.open()
    places = [place for n in range(20) for place in made.append(news("event", [n], 800), release)[0]]
    with (folder / "other").open("wb", buffering=0) as other, pytest.raises(OSError, match="No space"):
        other.writelines(iter(lambda: bytes(64), None))

    def acknowledge(some: Sequence[int | str]) -> None:
        for place in some:
            assert isinstance(place, int)
            made.ack("event", place)
        made.write_acks()
        made.tidy()

    made.write_mark(Mark("1f3a9c02", 3, clean=False))
    for first in range(0, 18, 3):  # the second half of the last file's page may be free still
        acknowledge(places[first : first + 3])
    assert len(list((folder / "spool").glob(f"*{SUFFIX}"))) < 5
    (folder / "other").unlink()
    made.write_mark(Mark("1f3a9c02", 4, clean=False))
    acknowledge(places[18:19])
    made.close()
    again = store(folder / "spool")
    found = again.open()
    assert found.messages == 1
    assert found.mark == Mark("1f3a9c02", 4, clean=False)
    assert numbers(again) == [("event", 19)]
    again.close()


def test_a_write_cut_short_by_the_limit_of_a_file_leaves_no_half_record(tmp_path: Path) -> None:
    program = f"""
import resource
from pathlib import Path
from tests.spool.test_store import news, release, store
made = store(Path({str(tmp_path)!r}), segment_bytes=1 << 16, max_bytes=1 << 20)
made.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
places = []
for n in range(100):
    found, dropped, error = made.append(news("detection", [n], 1000), release)
    places += found
made.close()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    made = store(tmp_path)
    assert made.open().missing == 0
    got = [n for _, n in numbers(made)]
    assert got == list(range(got[0], 100)), "the newest are there, in order"
    made.close()


def test_nowhere_to_write_is_an_os_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        store(blocked / "spool").open()


def test_the_options_are_checked(tmp_path: Path) -> None:
    for wrong in ({"max_bytes": 1}, {"sync_ms": -1}, {"max_age_s": 0}, {"free_share": 1.5}, {"replay_rate": 0}):
        with pytest.raises(ConfigError):
            SpoolOptions(tmp_path, **wrong)  # type: ignore[arg-type]


def test_where_the_state_lies() -> None:
    assert state_folder({"STATE_DIRECTORY": "/var/lib/edgerun:/var/lib/other"}) == Path("/var/lib/edgerun")
    assert state_folder({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == Path("/s/edgerun")
    assert state_folder({"XDG_STATE_HOME": "relative", "HOME": "/h"}) == Path("/h/.local/state/edgerun")
    assert spool_folder("../+/#", {"STATE_DIRECTORY": "/s"}).parent == Path("/s/spool")
    assert spool_folder("gate-3", {"STATE_DIRECTORY": "/s"}) == Path("/s/spool/gate-3")
