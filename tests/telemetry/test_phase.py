"""Devices that are switched on together do not tell in the same second."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edgerun.telemetry.phase import phase_s
from tests.telemetry.test_reporter import Desk


@given(st.text(max_size=63), st.floats(1, 86400))
def test_it_lies_in_the_interval_and_is_the_same_always(device: str, interval_s: float) -> None:
    assert 0 < phase_s(device, interval_s) <= interval_s
    assert phase_s(device, interval_s) == phase_s(device, interval_s)


def test_ten_thousand_devices_are_spread_over_the_interval() -> None:
    a_second = Counter(int(phase_s(f"dock-{number}", 30.0)) for number in range(10_000))
    assert set(a_second) == set(range(30))
    assert max(a_second.values()) < 420, "10000/30 = 333, and five standard deviations of a binomial"
    assert min(a_second.values()) > 240


def test_the_first_telemetry_comes_in_its_phase_and_the_next_an_interval_later() -> None:
    desk = Desk(interval_s=10, first_s=4.0)
    assert desk.tick_after(3.5) == []
    (first,) = desk.tick_after(0.5)
    assert (first.topic, first.body["interval_s"]) == ("edgerun/dock-7/telemetry", 4)
    assert desk.tick_after(9.5) == []
    assert len(desk.tick_after(0.5)) == 1
