"""`cmd/trace`: what happened in the last seconds, in the answer or as a file; and nothing grows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgerun.app.tracing import FILES_KEPT, INLINE_BYTES, MOST_FRAMES, Tracing
from edgerun.clock import FakeClock
from edgerun.errors import ConfigError, DeviceError
from edgerun.meter import Account
from edgerun.telemetry.trace import Trace
from edgerun.types import Stamp


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.trace = Trace("dock-7", self.clock)
        self.tracing = Tracing(self.trace, folder / "state" / "trace", self.clock)
        self.account = Account()
        self.account.watch = self.trace.watch("dock", "ssd")

    def run(self, frames: int, interval_s: float = 0.1) -> None:
        for number in range(frames):
            self.clock.advance(interval_s)
            self.account.end("skipped", stamp=Stamp("dock", number, self.clock.mono_ns() - 1000, 1.8e9))

    def tell(self, **arguments: Any) -> dict[str, Any]:
        """The answer as whoever asked gets it."""
        told: Mapping[str, Any] = self.tracing.tell(arguments)
        decoded: dict[str, Any] = json.loads(msgspec.json.encode(told))
        return decoded


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def frames_of(trace: dict[str, Any]) -> int:
    return sum(event["ph"] == "b" and event["name"] == "frame" for event in trace["traceEvents"])


def test_a_short_one_is_in_the_answer(bench: Bench, tmp_path: Path) -> None:
    bench.run(100)
    told = bench.tell(seconds=2.05)
    assert told["frames"] == frames_of(told["trace"]) == 21
    assert told["seconds"] == pytest.approx(2.0)
    assert "file" not in told
    assert not list(tmp_path.iterdir())


def test_a_long_one_is_a_file(bench: Bench, tmp_path: Path) -> None:
    bench.run(1000)
    told = bench.tell(seconds=60)
    assert "trace" not in told
    path = Path(told["file"])
    assert path.parent == tmp_path / "state" / "trace"
    assert path.stat().st_size == told["bytes"] > INLINE_BYTES
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert frames_of(json.loads(path.read_text())) == told["frames"] == 601


def test_ten_seconds_unless_told_otherwise(bench: Bench) -> None:
    bench.run(150)
    assert bench.tell()["frames"] == 101
    assert bench.tell(seconds=5)["frames"] == 51


def test_nothing_happened(bench: Bench) -> None:
    told = bench.tell(seconds=1)
    assert (told["frames"], told["seconds"]) == (0, 0.0)
    assert told["trace"]["traceEvents"] == []


def test_neither_files_nor_frames_are_without_bound(bench: Bench) -> None:
    bench.run(3 * MOST_FRAMES, 0.001)
    files = []
    for _ in range(FILES_KEPT + 3):
        bench.clock.advance(0.01)
        files.append(Path(bench.tell(seconds=3600)["file"]))
    assert bench.tell(seconds=3600)["frames"] == MOST_FRAMES
    assert len(list(files[0].parent.iterdir())) == FILES_KEPT
    assert not files[0].exists()


def test_a_file_that_somebody_else_takes_away_meanwhile_costs_nothing(bench: Bench, tmp_path: Path) -> None:
    """It is in the list of the folder's files, and not there when it is looked at."""
    folder = tmp_path / "state" / "trace"
    folder.mkdir(mode=0o700, parents=True)
    (folder / "trace-gone.json").symlink_to(tmp_path / "nothing")
    bench.run(1000)
    assert Path(bench.tell(seconds=60)["file"]).exists()


@pytest.mark.parametrize(
    "arguments",
    [{"seconds": 0}, {"seconds": -1}, {"seconds": "ten"}, {"seconds": True}, {"seconds": 1e9}, {"second": 1},
     {"seconds": float("nan")}, {"seconds": None}],
)  # fmt: skip
def test_what_is_no_length_of_time(bench: Bench, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="seconds"):
        bench.tell(**arguments)


def test_a_folder_that_cannot_be_made_is_told(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    bench.run(1000)
    with pytest.raises(DeviceError, match="folder of traces"):
        bench.tell(seconds=100)


def test_names_without_end_do_not_grow_the_recorder(bench: Bench) -> None:
    for number in range(5000):
        bench.account.end("failed", f"reason {number}")
    reasons = {end.reason for end in bench.trace.ends()}
    assert len(reasons) <= 1001
    assert "reason 3" in reasons
    assert None in reasons, "one that found no room has none"
