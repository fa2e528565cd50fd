"""Lines for a person."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edgerun.clock import FakeClock
from edgerun.ports import SinkContext
from edgerun.publish.console import ConsoleSink, describe, format_line
from edgerun.types import Answer, Classification, Detection, Publication, Quantity, SceneEvent, Segment
from tests.publish.samples import people, publication

GOLDEN = Path(__file__).parent / "golden"
CONTEXT = SinkContext(device="dock-7", clock=FakeClock())


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def publications() -> list[Publication]:
    return [
        publication(412),
        publication(413, Answer(detections=()), dropped=(0, 0)),
        publication(414, Answer(detections=people(7)), dropped=(12, 1), age_ms=231.4),
        publication(415, stream="loading-bay", dropped=(0, 0), age_ms=9.2),
        publication(416, dropped=(0, 0)),
        publication(417, Answer(classes=(Classification("espresso", 967, 0.93),)), item="cup.jpg", max_age_ns=0),
        publication(418, Answer(keypoints=((0.5, 0.5, 1.0),) * 17), dropped=(0, 0)),
        publication(419, Answer(value=0.0312), dropped=(0, 0)),
        publication(420, Answer(segments=(Segment("road", 1, 0.4123), Segment("sky", 3, 0.25))), dropped=(0, 0)),
        publication(421, Answer(values=(Quantity("temperature", 21.5, "°C"), Quantity("people", 3))), dropped=(0, 0)),
        publication(422, Answer(embedding=(0.5,) * 128), dropped=(0, 0)),
    ]


def test_the_lines_are_the_golden_ones(golden: Callable[[Path, str], None]) -> None:
    out = io.StringIO()
    sink = ConsoleSink(ConsoleSink.Options(), CONTEXT, out)
    for one in publications():
        sink.publish(one)
    golden(GOLDEN / "console.txt", out.getvalue())


def test_colours_change_nothing_but_the_colour(golden: Callable[[Path, str], None]) -> None:
    out = io.StringIO()
    sink = ConsoleSink(ConsoleSink.Options(color="always"), CONTEXT, out)
    for one in publications():
        sink.publish(one)
    golden(GOLDEN / "console-color.txt", out.getvalue())


def test_events_of_sounds_are_told_without_a_number() -> None:
    heard = publication(answer=Answer(classes=()))
    event = SceneEvent("heard", None, "okay nabu", 0, None, score=0.9)
    heard = Publication(msgspec.structs.replace(heard.result, events=(event,)), heard.id, heard.age_ms)
    assert "[okay nabu heard]" in format_line(heard)


def test_a_label_cannot_steer_the_terminal() -> None:
    evil = Detection(label="\x1b]0;owned\x07cat\n", class_id=0, score=0.5, box=(0, 0, 1, 1))
    line = format_line(publication(answer=Answer(detections=(evil,)), item="a\rb", max_age_ns=0))
    assert line.isprintable()
    assert "cat" in line


@pytest.mark.parametrize(("count", "more"), [(0, None), (4, None), (5, "+1 more"), (9, "+5 more")])
def test_only_the_surest_are_named(count: int, more: str | None) -> None:
    text = describe(Answer(detections=people(count)))
    assert text.count("person") == min(4, count)
    assert text.endswith(more) if more else "more" not in text
    assert bool(count) or text == "–"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "colored"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_on_a_terminal_unless_it_is_refused(
    environment: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for out, expected in ((Terminal(), colored), (io.StringIO(), False)):
        ConsoleSink(ConsoleSink.Options(), CONTEXT, out).publish(publication())
        assert ("\x1b[" in out.getvalue()) == expected


def test_a_terminal_of_another_encoding_gets_its_own_bytes() -> None:
    reading, writing = os.pipe()
    with open(writing, "w", encoding="ascii") as out, open(reading, "rb") as pipe:
        sink = ConsoleSink(ConsoleSink.Options(), CONTEXT, out)
        sink.publish(publication(answer=Answer(detections=(), classes=(Classification("Tür", 1, 0.5),))))
        assert b"T?r 0.50" in pipe.readline()
        sink.close()


def test_lines_nobody_read_are_owned_up_to_and_do_not_block() -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as out, open(reading, "rb") as pipe:
        sink = ConsoleSink(ConsoleSink.Options(patience_s=0.01), CONTEXT, out)
        for number in range(3000):  # some 200 kB; a pipe holds 64
            sink.publish(publication(number, dropped=(0, 0)))
        os.set_blocking(reading, False)
        before = pipe.read().splitlines()
        sink.publish(publication(3000, dropped=(0, 0)))
        sink.publish(publication(3001, dropped=(0, 0)))
        owning, after = pipe.read().splitlines()[-2:]
        sink.close()
    assert 0 < len(before) < 3000
    assert f"({3000 - len(before)} lines not shown".encode() in owning
    assert b"not shown" not in after
    assert all(line.startswith(b"0") and line.endswith(b"car 0.66") for line in before[:-1])


def test_without_the_stream_nothing_is_shown_and_nothing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)  # as Python does in a process started with >&-
        sink = ConsoleSink(ConsoleSink.Options(), CONTEXT)
        sink.publish(publication())
        sink.flush(0.0)
        assert not sink.broken
        sink.close()


READER_GONE = """
import sys
from edgerun.clock import SystemClock
from edgerun.ports import SinkContext
from edgerun.publish.console import ConsoleSink
from tests.publish.samples import publication
sink = ConsoleSink(ConsoleSink.Options(), SinkContext(device="d", clock=SystemClock()))
number = 0
while not sink.broken and number < 1_000_000:
    sink.publish(publication(number))
    number += 1
sink.flush(1.0)
sink.close()
sys.exit(0 if number < 1_000_000 else 9)
"""


def test_a_reader_that_leaves_is_no_fault() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", READER_GONE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)]
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0
