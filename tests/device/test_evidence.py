"""What readings say together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.device.evidence import Throttling, processor_temp_c, slowed_between, thermal_picture, throttling
from edgerun.types import Reading

FLAGS = ("under_voltage", "freq_capped", "throttled", "soft_temp_limit")


def test_nothing_told_is_not_the_same_as_not_throttled() -> None:
    assert throttling({}) == Throttling((), (), (), told=False)
    assert "throttled" not in thermal_picture([Reading("thermal/cpu-thermal/temp_c", 50.0, 1)])
    assert thermal_picture([Reading("pi/firmware/throttled", 0.0, 1)]) == {"throttled": False}


@given(st.sets(st.sampled_from(FLAGS)), st.sets(st.sampled_from(FLAGS)))
def test_each_flag_is_told_once(now: set[str], before: set[str]) -> None:
    values = {f"pi/firmware/{flag}": float(flag in now) for flag in FLAGS}
    values |= {f"pi/firmware/{flag}_since_boot": float(flag in before) for flag in FLAGS}
    values["pi/rpi_volt/under_voltage"] = float("under_voltage" in now)
    found = throttling(values)
    assert set(found.now) == now
    assert len(found.now) == len(now)
    assert set(found.since_boot) == before


@pytest.mark.parametrize(
    ("values", "now"),
    [
        ({"cooling/pwm-fan/state": 3.0}, ()),
        ({"cooling/cpufreq-cpu0/state": 0.0}, ()),
        ({"cooling/cpufreq-cpu0/state": 2.0}, ("cooling cpufreq-cpu0",)),
        ({"coral/apex_0/temp_c": 84.5, "coral/apex_0/trip0_c": 84.8}, ()),
        ({"coral/apex_0/temp_c": 84.8, "coral/apex_0/trip0_c": 84.8}, ("coral apex_0",)),
    ],
)
def test_what_slows_down(values: dict[str, float], now: tuple[str, ...]) -> None:
    assert throttling(values).now == now


def test_a_cap_may_be_wanted() -> None:
    values = {"cpufreq/policy0/limit_hz": 1.4e9, "cpufreq/policy0/highest_hz": 1.9e9}
    assert throttling(values) == Throttling((), (), ("policy0",), told=False)
    assert slowed_between(values, values) == ()
    lower = values | {"cpufreq/policy0/limit_hz": 1.2e9}
    assert slowed_between(values, lower) == ("policy0 capped to 1200 MHz",)
    assert slowed_between(lower, values) == ()


def test_counters_that_rose_slowed_it_down() -> None:
    before = {"throttle/cpu0/package_events": 17.0, "cgroup/cpu/throttled_periods": 5.0}
    assert slowed_between(before, before) == ()
    after = {"throttle/cpu0/package_events": 18.0, "cgroup/cpu/throttled_periods": 6.0}
    assert slowed_between(before, after) == ("thermal events of cpu0", "processor quota")
    assert slowed_between({}, after) == ()


@pytest.mark.parametrize(
    ("values", "temp_c"),
    [
        ({}, None),
        ({"thermal/acpitz/temp_c": 27.8, "thermal/x86_pkg_temp/temp_c": 58.0}, 58.0),
        ({"thermal/CPU-therm/temp_c": 44.0, "thermal/GPU-therm/temp_c": 60.0}, 44.0),
        ({"thermal/acpitz/temp_c": 27.8, "hwmon/k10temp Tctl/temp_c": 61.0}, 61.0),
        ({"thermal/acpitz/temp_c": 27.8, "hwmon/nvme Composite/temp_c": 61.0}, 27.8),
    ],
)
def test_the_processors_temperature(values: dict[str, float], temp_c: float | None) -> None:
    assert processor_temp_c(values) == temp_c
