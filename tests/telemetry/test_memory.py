"""The slope of memory is told late, and truly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.telemetry.memory import MemoryTrend

NS_A_MINUTE = 60_000_000_000


def trend_of(values: list[float], every_ns: int = NS_A_MINUTE) -> MemoryTrend:
    trend = MemoryTrend()
    for i, mib in enumerate(values):
        trend.add(1_000_000_000 + i * every_ns, mib)
    return trend


@given(st.floats(-50, 50), st.integers(20, 200))
def test_a_line_has_its_slope(slope_mib_h: float, minutes: int) -> None:
    trend = trend_of([100 + slope_mib_h * i / 60 for i in range(minutes)])
    assert trend.slope_mib_h == pytest.approx(slope_mib_h, abs=1e-6)


@given(st.sets(st.integers(10, 69), max_size=15), st.floats(1, 500))
def test_bursts_do_not_bend_it(bursts: set[int], height_mib: float) -> None:
    trend = trend_of([100 + 2 * i / 60 + (height_mib if i in bursts else 0) for i in range(70)])
    assert trend.slope_mib_h is not None
    assert 0 < trend.slope_mib_h < 40 if bursts else trend.slope_mib_h == pytest.approx(2)


def test_the_first_minutes_are_no_leak_and_little_is_not_enough() -> None:
    assert trend_of([100 + 30 * i for i in range(5)] + [300] * 9).slope_mib_h is None
    assert trend_of([100 + 30 * i for i in range(5)] + [300] * 12).slope_mib_h == 0
    assert MemoryTrend().group(None) == {}
    assert trend_of([148.04]).group(148.04) == {"rss_mib": 148.0}
    assert trend_of([100.0] * 30).group(100.0) == {"rss_mib": 100.0, "slope_mib_h": 0.0}


def test_the_last_hour_counts_however_often_it_is_fed() -> None:
    often = trend_of([100 + (0 if i < 1000 else (i - 1000) / 120 * 6) for i in range(1400)], NS_A_MINUTE // 2)
    assert often.slope_mib_h == pytest.approx(6, rel=0.01)
