from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgerun.capture.file import FileSource, Options, retrieve_converted
from edgerun.capture.pace import CATCH_UP_NS
from edgerun.capture.stamp import read_stamp
from edgerun.clock import FakeClock
from edgerun.errors import FrameError, SourceError
from tests.capture.scenes import context, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "ten.avi", 10, fps=10.0)


def _number(source: FileSource) -> int:
    stamp = read_stamp(source.retrieve(None))
    assert stamp is not None
    return stamp[0]


def test_paced_by_the_files_own_rate(video: Path) -> None:
    clock = FakeClock()
    began_ns = clock.mono_ns()
    source = FileSource(Options(str(video)), context(clock))
    assert not source.lossless
    times = []
    while (grab := source.grab()) is not None:
        times.append(grab.captured_ns - began_ns)
        assert clock.mono_ns() == grab.captured_ns
    assert times == [i * 100_000_000 for i in range(10)]
    source.close()


def test_late_frames_come_at_once_and_keep_their_due_times(video: Path) -> None:
    clock = FakeClock()
    source = FileSource(Options(str(video)), context(clock))
    first = source.grab()
    assert first is not None
    clock.advance(0.35)
    late_ns = clock.mono_ns()
    grabs = [source.grab() for _ in range(5)]
    assert [(g.captured_ns - first.captured_ns) // 1_000_000 for g in grabs if g] == [100, 200, 300, 400, 500]
    assert late_ns == first.captured_ns + 350_000_000
    assert clock.mono_ns() == first.captured_ns + 500_000_000
    assert _number(source) == 5
    source.close()


def test_after_a_long_pause_it_goes_on_from_where_it_was(video: Path) -> None:
    clock = FakeClock()
    source = FileSource(Options(str(video)), context(clock))
    source.grab()
    clock.advance(CATCH_UP_NS / 1e9 + 5.0)
    resumed_ns = clock.mono_ns()
    second, third = source.grab(), source.grab()
    assert second is not None
    assert third is not None
    assert second.captured_ns == resumed_ns
    assert third.captured_ns == resumed_ns + 100_000_000
    assert second.item == "1"
    source.close()


def test_as_fast_is_lossless_and_does_not_wait(video: Path) -> None:
    clock = FakeClock()
    began_ns = clock.mono_ns()
    source = FileSource(Options(str(video)), context(clock, as_fast=True))
    assert source.lossless
    numbers = []
    while source.grab() is not None:
        numbers.append(_number(source))
    assert numbers == list(range(10))
    assert clock.mono_ns() == began_ns
    source.close()


def test_loop_begins_again_without_a_break(video: Path) -> None:
    clock = FakeClock()
    source = FileSource(Options(str(video)), context(clock, loop=True))
    grabs, numbers = [], []
    for _ in range(23):
        grab = source.grab()
        assert grab is not None
        grabs.append(grab)
        numbers.append(_number(source))
    assert numbers == [i % 10 for i in range(23)]
    assert [g.item for g in grabs] == [str(i % 10) for i in range(23)]
    assert {b.captured_ns - a.captured_ns for a, b in itertools.pairwise(grabs)} == {100_000_000}
    source.close()


def _bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("Dear diary, today there was no video.\n" * 20)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    whole = write_video(folder / "whole.avi", 3).read_bytes()
    (folder / "frameless.avi").write_bytes(write_video(folder / "none.avi", 0).read_bytes())
    (folder / "cut.avi").write_bytes(whole[:600])
    return {
        "missing": (folder / "nowhere.mp4", "no such file"),
        "folder": (folder, "this is a folder"),
        "empty": (folder / "empty.mp4", "the file is empty"),
        "text": (folder / "text.mp4", "this is a text file"),
        "noise": (folder / "noise.mp4", "not a video|no frames"),
        "frameless": (folder / "frameless.avi", "no frames|not a video"),
        "cut": (folder / "cut.avi", "no frames|not a video"),
        "device": (Path("/dev/null"), "not a regular file"),
    }


@pytest.mark.parametrize("which", ["missing", "folder", "empty", "text", "noise", "frameless", "cut", "device"])
def test_bad_files(tmp_path: Path, which: str) -> None:
    path, message = _bad_files(tmp_path)[which]
    with pytest.raises(SourceError, match=message) as raised:
        FileSource(Options(str(path)), context())
    assert raised.value.final
    assert str(path) in str(raised.value)


def test_a_damaged_frame_in_the_middle_does_not_end_the_process(tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "v.avi", 10).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\x00" * 200
    path = tmp_path / "damaged.avi"
    path.write_bytes(data)
    source = FileSource(Options(str(path)), context(as_fast=True))
    reasons = []
    while source.grab() is not None:
        try:
            source.retrieve(None)
            reasons.append("")
        except FrameError as error:
            reasons.append(error.reason)
    assert len(reasons) >= 5
    assert set(reasons) <= {"", "decode"}
    source.close()


class _Held:
    """A capture that holds a given frame."""

    def __init__(self, got: bool, image: np.ndarray | None) -> None:
        self._answer = (got, image)

    def retrieve(self, out: np.ndarray | None) -> tuple[bool, np.ndarray | None]:
        return self._answer


@pytest.mark.parametrize(
    ("got", "image", "reason"),
    [(True, np.zeros((0, 0, 3), np.uint8), "empty"), (False, None, "decode"), (True, None, "decode")],
)
def test_frames_that_are_none(got: bool, image: np.ndarray | None, reason: str) -> None:
    with pytest.raises(FrameError) as raised:
        retrieve_converted(cv2, _Held(got, image), None, "here")
    assert raised.value.reason == reason


def test_grey_frames_become_bgr() -> None:
    assert retrieve_converted(cv2, _Held(True, np.ones((4, 6), np.uint8)), None, "here").shape == (4, 6, 3)
