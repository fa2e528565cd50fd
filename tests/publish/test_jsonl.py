"""JSON lines: whole lines, at once, whatever the disk or the reader does."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerun.clock import FakeClock, SystemClock
from edgerun.errors import ConfigError
from edgerun.ports import SinkContext
from edgerun.publish.jsonl import JsonlSink
from edgerun.types import Answer
from tests.publish.samples import people, publication
from tests.schemas import validate


def make(path: object, clock: FakeClock | None = None, patience_s: float = 0.2) -> JsonlSink:
    return JsonlSink(
        JsonlSink.Options(path=str(path), patience_s=patience_s),
        SinkContext(device="dock-7", clock=clock or FakeClock()),
    )


def sequence(lines: bytes) -> list[int]:
    """The `seq` of each line, each of which must be a whole message."""
    messages = [json.loads(line) for line in lines.splitlines()]
    for message in messages:
        validate("result", message)
    return [message["seq"] for message in messages]


def test_a_reader_of_the_file_sees_each_line_when_publish_returns(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = make(path)
    with path.open("rb") as reader:
        for number in range(5):
            sink.publish(publication(number))
            line = reader.readline()
            assert line.endswith(b"\n")
            assert sequence(line) == [number]
    sink.close()


def test_a_second_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for number in range(2):
        sink = make(path)
        sink.publish(publication(number))
        sink.close()
    assert sequence(path.read_bytes()) == [0, 1]


def test_a_last_line_torn_by_a_power_cut_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"v":1,"id":"00')
    sink = make(path)
    sink.publish(publication(7))
    sink.close()
    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"v":1,"id":"00'
    assert sequence(whole) == [7]


@pytest.mark.parametrize("name", ["missing/out.jsonl", "folder", "file/out.jsonl", "fifo"])
def test_what_cannot_be_written_is_told_at_the_start(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError) as caught:
        make(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: cannot write JSON lines there; got ")
    assert caught.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_a_folder_without_permission_is_told_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        make(tmp_path / "out.jsonl")


def test_a_device_that_takes_nothing_is_told_at_once_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    sink = make("/dev/full")
    sink.publish(publication(0))
    sink.close()
    assert [record.getMessage() for record in caplog.records] == [
        "/dev/full: a line is not written: No space left on device; 1 lost so far",
        "1 line was not written to /dev/full: No space left on device",
    ]


@pytest.fixture
def tiny_disk(make_disk: Callable[[str], Path]) -> Path:
    """A file system of 16 kB."""
    return make_disk("16k")


def test_a_full_disk_costs_lines_and_nothing_else(tiny_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(4096))
    clock = FakeClock()
    sink = make(tiny_disk / "out.jsonl", clock)
    with caplog.at_level(logging.WARNING, "edgerun"):
        for number in range(100):
            sink.publish(publication(number))
            clock.advance(1.0)
    lost = sink.lost
    assert 0 < lost < 100
    full = [record.getMessage() for record in caplog.records]
    assert 1 <= len(full) <= 2, "once a minute"
    assert full[0] == f"{tiny_disk / 'out.jsonl'}: a line is not written: No space left on device; 1 lost so far"
    ballast.unlink()
    sink.publish(publication(100))
    caplog.clear()
    for _ in range(2):
        sink.close()
    assert sink.lost == lost
    (at_the_end,) = caplog.records
    assert at_the_end.levelno == logging.WARNING
    assert at_the_end.getMessage() == (
        f"{lost} lines were not written to {tiny_disk / 'out.jsonl'}: No space left on device"
    )
    seen = sequence((tiny_disk / "out.jsonl").read_bytes())
    assert seen == [*range(100 - lost), 100], "the line that was cut short is completed, the next follows it"


def test_a_reader_that_falls_behind_costs_whole_lines_never_halves() -> None:
    reading, writing = os.pipe()
    link = f"/proc/self/fd/{writing}"  # as `edgerun run --jsonl /dev/fd/3` names it
    if not os.path.exists(link):
        pytest.skip("no /proc/self/fd here")
    sink = make(link, patience_s=0.0)
    os.close(writing)
    os.set_blocking(reading, False)
    got = b""
    long = Answer(detections=people(9) * 10)  # a line longer than PIPE_BUF
    with open(reading, "rb", buffering=0) as pipe:
        for number in range(200):
            sink.publish(publication(number, long))
            if number % 10 == 9:
                got += pipe.read(5000) or b""
        while more := pipe.read():
            got += more
            sink.flush(0.0)
        sink.close()
        got += pipe.read() or b""
    seen = sequence(got)
    assert sink.lost > 0
    assert len(seen) + sink.lost == 200
    assert seen == sorted(set(seen))


WRITES = """
import sys
from edgerun.clock import SystemClock
from edgerun.ports import SinkContext
from edgerun.publish.jsonl import JsonlSink
from tests.publish.samples import publication
sink = JsonlSink(JsonlSink.Options(path="-", patience_s=30.0), SinkContext(device="d", clock=SystemClock()))
for number in range(int(sys.argv[1])):
    sink.publish(publication(number))
    if sink.broken:
        break
sink.close()
sink.close()
sys.exit(3 if sink.broken and number + 1 < int(sys.argv[1]) else sink.lost)
"""


def test_a_patient_sink_waits_for_a_slow_reader() -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITES, "1000"], stdout=subprocess.PIPE)  # 500 kB: 8 pipes full
    assert process.stdout is not None
    with process.stdout:
        assert sequence(process.stdout.read()) == list(range(1000))
    assert process.wait(60) == 0


def test_a_reader_of_stdout_that_leaves_is_no_fault() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(60) == 3


def test_the_system_clock_bounds_the_patience(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    sink = JsonlSink(
        JsonlSink.Options(path=f"/proc/self/fd/{writing}", patience_s=0.05),
        SinkContext(device="dock-7", clock=SystemClock()),
    )
    for number in range(2000):
        sink.publish(publication(number))
    assert sink.lost > 1000
    sink.close()
    os.close(reading)
    os.close(writing)
