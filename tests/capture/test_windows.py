"""Every sample in exactly the windows it belongs to, and times that are never late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.capture.windows import SampleClock, Windows


def windows_by_hand(runs: list[int], size: int, hop: int) -> list[tuple[int, bool]]:
    """(number of the first sample, gap) of every window over runs of samples with gaps between them."""
    found, start, gap = [], 0, False
    for at, run in enumerate(runs):
        gap = gap or at > 0
        for first in range(0, run - size + 1, hop):
            found.append((start + first, gap))
            gap = False
        start += run
    return found


@given(
    runs=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    size=st.integers(1, 16),
    hop=st.integers(1, 24),
    channels=st.integers(1, 3),
    data=st.data(),
)
@settings(deadline=None)
def test_every_sample_is_in_the_windows_it_belongs_to(
    runs: list[int], size: int, hop: int, channels: int, data: st.DataObject
) -> None:
    samples = np.arange(sum(runs) * channels, dtype=np.int32).reshape(-1, channels)
    windows = Windows(size, hop, channels)
    got, at = [], 0
    for number, run in enumerate(runs):
        if number:
            windows.gap()
        end = at + run
        while at < end:
            piece = data.draw(st.integers(0, min(windows.missing, end - at)))
            piece = piece or 1
            windows.add(samples[at : at + piece])
            at += piece
            if windows.missing == 0:
                gap = windows.pop()
                window = windows.copy(None)
                assert window.dtype == np.float32
                assert np.array_equal(window, samples[at - size : at])
                got.append((at - size, gap))
    assert got == windows_by_hand(runs, size, hop)


def test_a_window_goes_into_out_where_it_fits() -> None:
    windows = Windows(3, 2, 2)
    windows.add(np.arange(6).reshape(3, 2))
    windows.pop()
    out = np.zeros((3, 2), np.float32)
    assert windows.copy(out) is out
    assert out.tolist() == [[0, 1], [2, 3], [4, 5]]
    for wrong in (np.zeros((3, 2)), np.zeros((2, 3), np.float32), np.zeros((3, 4), np.float32)[:, ::2]):
        assert windows.copy(wrong) is not wrong
        assert not wrong.any()
    kept = windows.copy(None)
    windows.add(np.full((2, 2), 9))
    assert kept.tolist() == out.tolist()


def test_wrong_use_is_refused() -> None:
    windows = Windows(3, 1, 1)
    with pytest.raises(ValueError, match="at most 3 samples fit"):
        windows.add(np.zeros((4, 1)))
    with pytest.raises(ValueError, match="lacks 3"):
        windows.pop()
    with pytest.raises(ValueError, match="at least 1"):
        Windows(0, 1, 1)


@given(
    delays=st.lists(st.floats(0, 0.5), min_size=1, max_size=50),
    piece=st.integers(1, 100),
    slow=st.floats(0, 4e-4),
)
@settings(deadline=None)
def test_sample_times_lie_between_the_taking_and_the_arrival(delays: list[float], piece: int, slow: float) -> None:
    """A device that keeps its rate, or is a little slow, whose pieces arrive when they were taken or later."""
    rate_hz = 1000.0
    clock = SampleClock(rate_hz)
    delays = [0.0, *delays]  # one that came at once is enough
    before_ns = arrived_ns = 0
    for number, delay in enumerate(delays, 1):
        taken_ns = round(10**9 + number * piece * 1e9 / rate_hz * (1 + slow))
        arrived_ns = max(arrived_ns, taken_ns + round(delay * 1e9))
        told_ns = clock.arrive(piece, arrived_ns)
        assert taken_ns - 10 <= told_ns <= arrived_ns
        assert told_ns >= before_ns
        before_ns = told_ns


def test_a_backlog_is_as_old_as_it_is() -> None:
    clock = SampleClock(100.0)
    assert clock.arrive(10, 100_000_000) == 100_000_000
    # Nobody read for 2 s; then what lay in the buffer comes at once, ten samples a read.
    told = [clock.arrive(10, 2_100_000_000) for _ in range(20)]
    assert told[0] < 210_000_000
    assert told[-1] == pytest.approx(2_100_000_000, abs=2_000_000)


def test_a_device_that_is_faster_than_it_says_is_followed() -> None:
    clock = SampleClock(100.0)
    for number in range(1, 1000):
        now_ns = round(number * 10_000_000 * 0.99)
        assert clock.arrive(1, now_ns) == now_ns


@pytest.mark.parametrize("late_s", [0.02, 3.0])
def test_what_came_late_for_good_is_not_old_for_good(late_s: float) -> None:
    """A command that stood still for a while, or gives fewer samples than it says: it waits, so they are new."""
    clock, now_ns, ages = SampleClock(100.0), 0, []
    for number in range(2000):
        now_ns += 10_000_000 + (round(late_s * 1e9) if number == 500 else 0)
        ages.append(now_ns - clock.arrive(1, now_ns, waited=True))
    assert max(ages[:500]) == 0
    assert ages[500] == pytest.approx(late_s * 1e9, rel=0.01)
    assert max(ages[500 + 402 :]) == 0  # two spans of two seconds


def test_a_rate_that_is_never_kept() -> None:
    clock = SampleClock(100.0)
    ages = [number * 11_000_000 - clock.arrive(1, number * 11_000_000, waited=True) for number in range(5000)]
    assert max(ages) < 500_000_000


def test_a_buffer_that_never_runs_empty_stays_as_old_as_it_is() -> None:
    clock = SampleClock(100.0)
    clock.arrive(10, 100_000_000)
    ages = [3_000_000_000 + number * 10_000_000 - clock.arrive(1, 3_000_000_000 + number * 10_000_000) for number in
            range(1000)]  # fmt: skip
    assert min(ages) > 2_800_000_000


def test_bursts_are_dated_by_their_ends() -> None:
    """A program that gathers a second of sound before it writes: only the first read of each burst has to wait."""
    clock, told = SampleClock(100.0), []
    for second in range(1, 20):
        for piece in range(10):
            now_ns = second * 1_000_000_000 + piece * 100_000
            told.append(clock.arrive(10, now_ns, waited=piece == 0) - ((second - 1) * 10 + piece + 1) * 100_000_000)
    assert max(told[10:]) - min(told[10:]) < 20_000_000


def test_after_a_restart_the_past_is_forgotten() -> None:
    clock = SampleClock(100.0)
    clock.arrive(100, 1_000_000_000)
    clock.restart()
    assert clock.arrive(1, 9_000_000_000) == 9_000_000_000


def test_what_a_float32_cannot_hold_is_infinite() -> None:
    windows = Windows(2, 2, 1)
    windows.add(np.array([[1e300], [-1e300]]))
    assert windows.copy(None).tolist() == [[np.inf], [-np.inf]]
