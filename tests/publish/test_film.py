"""A film is as long as what it shows took."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.publish.film import Film, Timeline, fit, frame_rate
from tests.publish.samples import picture

MS = 1_000_000
S = 1_000_000_000


def grays_of(path: Path, times_ns: list[int], *, every: bool = False) -> tuple[list[float], float]:
    """The gray of each frame of the film of one picture per time, the n-th of gray 10 n, and the frame rate."""
    film = Film(cv2, path, "mp4v", None, FakeClock(), every=every)
    for number, at_ns in enumerate(times_ns):
        film.add(picture(64, 48, gray=10 * number % 250), at_ns)
    film.close()
    film.close()
    reader = cv2.VideoCapture(str(path))
    grays = []
    while (got := reader.read())[0]:
        grays.append(float(np.median(got[1])))
    fps = reader.get(cv2.CAP_PROP_FPS)
    reader.release()
    return grays, fps


BURSTS = [burst * S + number * 10 * MS for burst in range(6) for number in range(5)]  # 5.04 s
SLOW = [number * 3 * S for number in range(5)]
PAUSE = [number * 33 * MS + (number > 7) * 6 * S for number in range(60)]
JITTER = [number * 100 * MS + (number * 7919 % 61 - 30) * MS for number in range(50)]
AT_ONCE = [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    "times_ns", [BURSTS, SLOW, PAUSE, JITTER, AT_ONCE], ids=["bursts", "slow", "pause", "jitter", "at once"]
)
def test_irregular_results_play_at_the_right_speed(times_ns: list[int], tmp_path: Path) -> None:
    grays, fps = grays_of(tmp_path / "out.mp4", times_ns)
    span_s = (times_ns[-1] - times_ns[0]) / 1e9
    assert 1.0 <= fps <= 60.0
    assert len(grays) / fps == pytest.approx(span_s + 1 / fps, abs=1 / fps)


def test_a_gap_shows_its_last_picture_and_the_newest_of_a_slot_is_taken(tmp_path: Path) -> None:
    # 4 frames/s: the second and third picture lie nearest to the slot of the third, which stays for the gap.
    times_ns = [0, 990 * MS, 1010 * MS, 3 * S]
    film = Film(cv2, tmp_path / "out.mp4", "mp4v", 4.0, FakeClock(), every=False)
    for number, at_ns in enumerate(times_ns):
        film.add(picture(64, 48, gray=40 * (number + 1)), at_ns)
    film.close()
    reader = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    grays = [round(float(np.median(reader.read()[1])), -1) for _ in range(13)]
    assert not reader.read()[0]
    reader.release()
    assert grays == [40] * 4 + [120] * 8 + [160]


def test_a_long_gap_is_shortened_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    times_ns = [number * 200 * MS for number in range(10)] + [3600 * S + number * 200 * MS for number in range(10)]
    grays, fps = grays_of(tmp_path / "out.mp4", times_ns)
    assert len(grays) / fps == pytest.approx(10 + 2 * 1.8 + 1 / fps, abs=1 / fps)
    opened, *told = [record.getMessage() for record in caplog.records]
    assert "frames/s" in opened
    assert told == [f"{tmp_path / 'out.mp4'}: a gap of 3598.2 s is shortened to 10 s"]


def test_every_picture_of_a_source_that_is_not_paced(tmp_path: Path) -> None:
    grays, _ = grays_of(tmp_path / "out.mp4", BURSTS[:20], every=True)
    assert [round(gray, -1) for gray in grays] == [10 * number for number in range(20)]


def test_frame_rate_is_that_of_the_whole_and_keeps_to_its_limits() -> None:
    assert frame_rate([]) == frame_rate([5]) == frame_rate([5, 5]) == 10.0
    assert frame_rate([0, 10**8, 2 * 10**8, 3 * 10**8]) == pytest.approx(10.0)
    assert frame_rate(BURSTS[:9]) == pytest.approx(8 / 1.03)
    assert frame_rate(PAUSE[:9]) == pytest.approx(8 / 1.231)
    assert frame_rate([0, 1, 2]) == 60.0
    assert frame_rate(SLOW) == 1.0


@given(st.lists(st.integers(0, 20 * S), min_size=1, max_size=60), st.floats(1.0, 60.0))
@settings(max_examples=200, deadline=None)
def test_slots_never_go_back_and_never_run_away(gaps_ns: list[int], fps: float) -> None:
    timeline = Timeline(fps)
    slots = []
    at_ns = 7 * S
    for gap_ns in gaps_ns:
        slots.append(timeline.slot(at_ns))
        at_ns += gap_ns
    assert slots[0] == 0
    assert slots == sorted(slots)
    expected_s = sum(min(gap, 10 * S) for gap in gaps_ns[:-1]) / 1e9
    assert slots[-1] / fps == pytest.approx(expected_s, abs=0.5 / fps + 1e-6)


def test_a_time_that_goes_back_stays_on_its_slot() -> None:
    timeline = Timeline(10.0)
    assert [timeline.slot(at * S) for at in (5, 7, 6, 7, 8)] == [0, 20, 20, 20, 30]


def test_an_odd_size_loses_a_row_and_a_column() -> None:
    assert fit(cv2, picture(641, 481), (640, 480)).shape == (480, 640, 3)
