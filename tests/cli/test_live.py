"""The live line at the foot of a terminal: what it says, and that nothing tears it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import msgspec
import pytest

from edgerun.cli import live
from edgerun.clock import FakeClock
from edgerun.types import Answer, Publication
from tests import terminal
from tests.mosquitto import wait_until
from tests.publish.samples import CAR, PERSON, publication

ROOT = Path(__file__).parent.parent.parent
RUN = """
import sys
from edgerun.__main__ import main
sys.argv = ["edgerun", *sys.argv[1:]]
sys.exit(main())
"""


class Paper:
    """A screen of that size that keeps what is written."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows, self.written = columns, rows, ""

    def size(self) -> tuple[int, int]:
        return self.columns, self.rows

    def write(self, text: str) -> None:
        self.written += text


def aged(number: int, age_ms: float, answer: Answer | None = None, stream: str = "dock") -> Publication:
    return msgspec.structs.replace(publication(number, answer, stream=stream, dropped=(1, 0)), age_ms=age_ms)


def fed(seconds: float = 4.0, per_s: int = 10, clock: FakeClock | None = None) -> tuple[live.LiveLine, FakeClock]:
    clock = clock or FakeClock()
    line = live.LiveLine(Paper(), clock)
    for i in range(round(seconds * per_s)):
        line.publish(aged(i, 50 + i % 10))
        clock.advance(1 / per_s)
    return line, clock


def test_it_says_rate_ages_drops_and_what_was_seen() -> None:
    line, _ = fed()
    assert line.line(100) == "dock  10.0/s  age 54 ms p99 59  dropped 40  person#17 0.81  car 0.66"


def test_it_is_about_the_last_seconds() -> None:
    line, clock = fed(60)
    assert line.line(100).startswith("dock  10.0/s")
    clock.advance(10)
    assert line.line(100) == "dock  0.0/s  dropped 600  no results"


def test_streams_take_turns() -> None:
    line, clock = fed()
    line.publish(aged(0, 10, Answer(detections=(CAR,)), stream="yard"))
    seen = set()
    for _ in range(4):
        seen.add(line.line(80).split()[0])
        clock.advance(2)
    assert seen == {"dock", "yard"}


def test_labels_do_not_steer_the_terminal_and_it_never_is_too_wide() -> None:
    paper = Paper(40, 10)
    line = live.LiveLine(paper, FakeClock())
    evil = msgspec.structs.replace(PERSON, label="\x1b[2J\n\x9b" + "x" * 200)
    line.publish(aged(0, 10, Answer(detections=(evil,)), stream="\x1b]0;"))
    text = line.line(39)
    assert text.isprintable()
    assert len(text) <= 39
    line.draw()
    assert paper.written.count("\x1b[2J") == 0
    assert paper.written.count("\n") == 1


def test_the_row_is_taken_once_again_after_a_resize_and_given_back() -> None:
    paper = Paper(80, 24)
    line = live.LiveLine(paper, FakeClock())
    line.draw()
    line.draw()
    assert paper.written.count("\x1b[1;23r") == 1
    paper.rows = 30
    line.draw()
    assert paper.written.count("\x1b[1;29r") == 1
    paper.written = ""
    line.close()
    line.close()
    line.draw()
    assert paper.written == "\x1b7\x1b[r\x1b[30;1H\x1b[2K\x1b8"


@pytest.mark.parametrize("size", [(20, 24), (80, 4), (0, 0)])
def test_a_terminal_too_small_is_left_alone(size: tuple[int, int]) -> None:
    paper = Paper(*size)
    line = live.LiveLine(paper, FakeClock())
    line.draw()
    line.close()
    assert paper.written == ""


def test_heat_is_shown_where_it_can_be_read() -> None:
    paper = Paper()
    line = live.LiveLine(paper, read_temp_c=lambda: 61.2)
    line.start()
    wait_until(lambda: "61 °C" in paper.written)
    line.close()
    read = live.heat()
    value = read()
    assert value is None or -40 < value < 150


@pytest.mark.parametrize(
    ("quiet", "json", "term"), [(True, False, "xterm"), (False, True, "xterm"), (False, False, "dumb")]
)
def test_nobody_who_does_not_want_it_gets_it(quiet: bool, json: bool, term: str) -> None:
    assert not live.wanted(quiet=quiet, json=json, environment={"TERM": term})
    with live.live_line(quiet=quiet, json=json) as line:
        assert line is None


def test_lines_and_logs_scroll_above_it_and_the_terminal_is_whole_after(tmp_path: Path) -> None:
    model, clip = ROOT / "models" / "ssd-mobilenet-v2-oid", ROOT / "models" / "clips" / "street.mp4"
    args = ["run", "--model", str(model), "--source", str(clip), "--loop"]
    with terminal.tmux(shlex.join([sys.executable, "-c", RUN, *args]), tmp_path, 100, 20) as screen:
        text = screen.wait(lambda t: "/s  age" in t.splitlines()[-1] and t.count(" ms  ") >= 10)
        *above, foot = text.splitlines()
        assert foot.startswith("main  ")
        assert "dropped" in foot
        assert not [row for row in above if "/s  age" in row], text
        assert all(" ms  " in row for row in above[5:-1] if row), text
        screen.press("C-c")
        text = screen.wait(lambda t: "exit 0" in t)
        assert "/s  age" not in text
        assert (
            "grabbed = published" in "".join(screen.read("-S", "-").split("  ")).replace("  ", "") or "grabbed" in text
        )
