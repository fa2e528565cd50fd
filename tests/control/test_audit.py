"""The audit log: nothing that was written can be changed unseen."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock, SystemClock
from edgerun.control.audit import FIRST, AuditLog, Head, read, verify
from edgerun.errors import DeviceError

CURRENT = "audit.jsonl"


def filled(folder: Path, records: int = 6, **how: int) -> AuditLog:
    log = AuditLog(folder, FakeClock(), **how)
    for number in range(records):
        log.append("command", who="somebody", via="mqtt", more={"verb": "pause", "n": number})
    return log


def test_a_chain_is_whole(tmp_path: Path) -> None:
    log = filled(tmp_path)
    found = verify(tmp_path, log.head.hash)
    assert (found.records, found.first, found.head, found.faults) == (6, 1, log.head, ())
    assert log.head.seq == 6
    assert [entry.record["n"] for entry in read(tmp_path)] == list(range(6))
    first = json.loads((tmp_path / CURRENT).read_text().splitlines()[0])
    assert list(first) == ["hash", "v", "seq", "ts", "prev", "verb", "n", "what", "who", "via", "ok"]
    assert (first["seq"], first["prev"]) == (1, FIRST)


def test_every_byte_of_it_matters(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    path = tmp_path / CURRENT
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert verify(tmp_path).faults, at
        path.write_bytes(whole[:at] + whole[at + 1 :])
        assert verify(tmp_path).faults, at
    path.write_bytes(whole)
    assert not verify(tmp_path).faults


@given(st.data())
@settings(max_examples=80)
def test_lines_taken_out_moved_or_repeated(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("log")
    head = filled(folder, 5).head
    path = folder / CURRENT
    lines = path.read_bytes().splitlines(keepends=True)
    other = data.draw(st.lists(st.sampled_from(lines), max_size=7).filter(lambda some: some != lines))
    path.write_bytes(b"".join(other))
    assert verify(folder, head.hash).faults


def test_a_truncation_is_found_with_the_head_only(tmp_path: Path) -> None:
    head = filled(tmp_path).head
    path = tmp_path / CURRENT
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))
    assert not verify(tmp_path).faults
    assert "was cut" in verify(tmp_path, head.hash).faults[0]
    path.unlink()
    assert verify(tmp_path).records == 0
    assert verify(tmp_path, head.hash).faults


def test_a_chain_written_anew_is_found_with_the_head_only(tmp_path: Path) -> None:
    head = filled(tmp_path / "a").head
    AuditLog(tmp_path / "b", FakeClock()).append("start", who="somebody else", via="start")
    filled(tmp_path / "b", 7)
    assert not verify(tmp_path / "b").faults
    (fault,) = verify(tmp_path / "b", head.hash).faults
    assert "is missing" in fault


@pytest.mark.parametrize("at", [1, 3, 5])
def test_the_end_of_another_chain_is_found(tmp_path: Path, at: int) -> None:
    filled(tmp_path / "a")
    AuditLog(tmp_path / "b", FakeClock()).append("start", who="somebody else", via="start")
    head = filled(tmp_path / "b", 5).head
    one, two = ((tmp_path / name / CURRENT).read_bytes().splitlines(keepends=True) for name in "ab")
    (tmp_path / "a" / CURRENT).write_bytes(b"".join(one[:at] + two[at:]))
    (fault,) = verify(tmp_path / "a", head.hash).faults
    assert "does not follow" in fault


def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    before = filled(tmp_path).head
    after = filled(tmp_path, 2).head
    assert after.seq == 8
    for head in (before, after):
        assert not verify(tmp_path, head.hash).faults


def test_a_record_half_written_by_a_power_cut_is_taken_away_and_told(tmp_path: Path) -> None:
    head = filled(tmp_path).head
    path = tmp_path / CURRENT
    whole = path.read_bytes()
    for cut in (1, 20, 100):
        path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-cut])
        log = AuditLog(tmp_path, FakeClock())
        assert log.head.seq == 7
        found = verify(tmp_path, head.hash)
        assert not found.faults
        assert [entry.record["what"] for entry in read(tmp_path)][-1] == "audit_torn"


def test_what_is_cut_off_while_it_runs_breaks_the_chain_for_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = filled(tmp_path)
    path = tmp_path / CURRENT
    for change in ("cut", "gone"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:3])) if change == "cut" else path.unlink()
        log.append("stop", who="edgerun", via="stop")
        found = verify(tmp_path)
        assert found.faults, change
        assert "audit_tampered" in [entry.record["what"] for entry in read(tmp_path)]
        assert "was changed by something else" in caplog.text
        caplog.clear()


def test_files_follow_each_other_and_the_oldest_go(tmp_path: Path) -> None:
    log = filled(tmp_path, 5, max_bytes=600, keep=3)
    early = log.head
    for number in range(40):
        log.append("command", who="somebody", via="mqtt", more={"n": number})
    names = sorted(os.listdir(tmp_path))
    assert len([name for name in names if name.startswith("audit-")]) == 3
    found = verify(tmp_path, log.head.hash)
    assert not found.faults
    assert found.first > 1
    assert found.records == log.head.seq - found.first + 1
    assert verify(tmp_path, early.hash).faults  # long gone
    assert filled(tmp_path, 1, max_bytes=600, keep=3).head.seq == log.head.seq + 1
    assert not verify(tmp_path).faults


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_whole_file_taken_away_is_found(tmp_path: Path, victim: int) -> None:
    filled(tmp_path, 40, max_bytes=600, keep=3)
    files = sorted(path for path in tmp_path.iterdir() if path.name.startswith("audit-"))
    files[victim].unlink()
    assert verify(tmp_path).faults


def test_a_kill_between_the_record_of_a_dropped_file_and_its_deletion(tmp_path: Path) -> None:
    log = filled(tmp_path, 30, max_bytes=600, keep=3)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("audit-")}
    while set(kept) <= set(os.listdir(tmp_path)):
        log.append("command", who="somebody", via="mqtt")
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)  # as if it had not been deleted yet
    assert not verify(tmp_path, log.head.hash).faults
    again = filled(tmp_path, 20, max_bytes=600, keep=3)
    assert not verify(tmp_path, again.head.hash).faults


def write_some(folder: Path, name: str, count: int, together: Any) -> None:
    log = AuditLog(folder, SystemClock())
    together.wait(60)
    for _ in range(count):
        log.append("command", who=name, via="mqtt")


def test_processes_and_threads_write_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(3)
    processes = [context.Process(target=write_some, args=(tmp_path, f"p{n}", 100, together)) for n in range(2)]
    for process in processes:
        process.start()
    log = AuditLog(tmp_path, SystemClock())
    together.wait(60)
    threads = [
        threading.Thread(target=lambda: [log.append("command", who="t", via="mqtt") for _ in range(50)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for worker in (*threads, *processes):
        worker.join(60)
    found = verify(tmp_path)
    assert not found.faults
    assert found.records == 300


def test_it_may_be_looked_through_while_it_is_written(tmp_path: Path) -> None:
    """A file is full with every second record, and the oldest goes."""
    log = filled(tmp_path, 1, max_bytes=400, keep=2)

    def write() -> None:
        for number in range(400):
            log.append("command", who="t", via="mqtt", more={"n": number})

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            assert not verify(tmp_path).faults
            seqs = [entry.seq for entry in read(tmp_path)]
            assert seqs == list(range(seqs[0], seqs[-1] + 1))
        writing.result()


@given(st.text(), st.dictionaries(st.text(max_size=10), st.text() | st.integers(-(2**62), 2**62) | st.booleans()))
@settings(max_examples=60)
def test_whatever_others_are_called_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, who: str, more: dict[str, str | int | bool]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = AuditLog(folder, FakeClock())
    log.append("command", who=who, via="mqtt", more=more)
    log.append("command", who="x" * 100_000, via="mqtt", more={str(n): "y" * 2000 for n in range(100)})
    assert verify(folder, log.head.hash).faults == ()
    assert verify(folder).records == 2
    assert (folder / CURRENT).stat().st_size < 64 << 10


def test_members_of_the_record_cannot_be_taken(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, FakeClock())
    log.append("command", who="a", via="mqtt", more={"who": "root", "ok": False, "seq": 99, "prev": "", "hash": "f"})
    (entry,) = read(tmp_path)
    assert (entry.record["who"], entry.record["ok"], entry.seq, entry.prev) == ("a", True, 1, FIRST)
    assert not verify(tmp_path).faults


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be written"):
        AuditLog(tmp_path / "file" / "audit", FakeClock())


def test_an_empty_log(tmp_path: Path) -> None:
    assert AuditLog(tmp_path, FakeClock()).head == Head(0, FIRST)
    assert verify(tmp_path).records == 0
