"""What the governor is built from: policies, measurements, shares, the count of energy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.app.energy_file import EnergyFile
from edgerun.app.governing import Governing, make_meter, make_sampler
from edgerun.app.levels import share_out
from edgerun.app.measures import measured, policy_of
from edgerun.clock import SystemClock
from edgerun.config.governing import FallingConfig, GovernorConfig, RisingConfig
from edgerun.device.governor import mistakes
from edgerun.device.ladder import Climber, build_ladder
from edgerun.errors import ConfigError
from tests.governor.test_governing import Settings, Stream
from tests.pipeline.parts import CountingSource, build


def test_a_policy_with_nothing_to_lower_is_refused() -> None:
    pipeline = build({"dock": lambda stop: CountingSource(SystemClock(), stop, frames=1)})
    settings = Settings({"dock": Stream()}, GovernorConfig(temp_c=RisingConfig(80.0, 70.0)))
    clock = SystemClock()
    sampler, meter = make_sampler(settings.sensors, clock), make_meter(settings.sensors)
    with pytest.raises(ConfigError, match="governor: temp_c: the zones calm and hold cross"):
        Governing(settings, pipeline, sampler, meter, clock, lambda news: None)


@given(
    warm=st.floats(20, 90),
    gaps=st.tuples(st.floats(0.5, 20), st.floats(0.5, 20)),
    power=st.floats(0.5, 100),
    low=st.floats(0.3, 0.9),
)
def test_any_config_that_passes_the_check_makes_a_sound_policy(
    warm: float, gaps: tuple[float, float], power: float, low: float
) -> None:
    governor = GovernorConfig(
        temp_c=RisingConfig(warm, warm + gaps[0], warm + sum(gaps)),
        power_w=power,
        battery=FallingConfig(low, low - 0.1, low - 0.2),
        memory=RisingConfig(0.85, 0.92, 0.98),
        memory_pressure=RisingConfig(0.05, 0.2),
    )
    for targets in (False, True):
        assert mistakes(policy_of(governor, targets), build_ladder([Climber("dock")])) == []


def test_what_is_measured() -> None:
    values = {
        "thermal/cpu-thermal/temp_c": 61.0,
        "battery/BAT0/charge_share": 0.2,
        "battery/BAT0/discharging": 0.0,
        "battery/BAT1/charge_share": 0.4,
        "battery/BAT1/discharging": 1.0,
        "pi/rpi_volt/under_voltage": 1.0,
        "pi/firmware/under_voltage_since_boot": 1.0,
        "system/memory/total_bytes": 1000.0,
        "system/memory/available_bytes": 250.0,
        "rss_mib": 90.0,
        "cgroup/memory/limit_bytes": 100.0 * 2**20,
        "pressure/memory/some_10s_share": 0.1,
    }
    assert measured(values, 4.0) == {
        "temp_c": 61.0,
        "power_w": 4.0,
        "battery_share": 0.4,
        "under_voltage": 1.0,
        "memory_share": 0.9,
        "memory_pressure": 0.1,
    }
    assert measured({}, None) == {}
    assert measured({"battery/BAT0/charge_share": 0.1}, None) == {"battery_share": 0.1}


asked_rates = st.lists(st.none() | st.floats(0.01, 1000.0), min_size=1, max_size=6)


@given(asked_rates, st.lists(st.floats(0.1, 10.0), min_size=6, max_size=6), st.floats(0.1, 100.0))
def test_shares_of_an_engine(asked: list[float | None], weights: list[float], capacity: float) -> None:
    got = share_out(asked, weights, capacity)
    known = [(a, g, w) for a, g, w in zip(asked, got, weights, strict=False) if a is not None and g is not None]
    assert [one is None for one in got] == [one is None for one in asked]
    assert all(0 < g <= a * (1 + 1e-9) for a, g, _ in known)
    wanted = sum(a for a, _, _ in known)
    assert sum(g for _, g, _ in known) == pytest.approx(min(capacity, wanted))
    short = [g / w for a, g, w in known if g < a * (1 - 1e-9)]
    assert max(short, default=0.0) == pytest.approx(min(short, default=0.0))


def test_the_energy_counted_survives_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    first = EnergyFile(folder)
    assert first.read() == 0.0
    first.write(None)
    assert not folder.exists()
    first.write(1.25)
    assert EnergyFile(folder).read() == 1.25
    for nonsense in (b"", b"{}", b'{"energy_kwh": -1}', b'{"energy_kwh": "a"}', b"\xff", b"[" * 100_000):
        (folder / "energy.json").write_bytes(nonsense)
        caplog.clear()
        assert EnergyFile(folder).read() == 0.0
        assert "counted from 0 again" in caplog.text
    (tmp_path / "file").touch()
    nowhere = EnergyFile(tmp_path / "file" / "below")
    caplog.clear()
    nowhere.write(2.0)
    nowhere.write(3.0)
    assert caplog.text.count("is not kept") == 1
