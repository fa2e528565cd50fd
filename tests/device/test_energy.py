"""Energy from what a board tells, against integrals that are known."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.device.energy import EnergyMeter, PowerModel, Spent, by_stream, power_picture
from edgerun.device.machine import Machine
from edgerun.device.sampler import Sampler
from edgerun.device.sensors import builtin_kinds
from edgerun.device.site import Site
from edgerun.types import Reading
from tests.boards import tree
from tests.device import counting

KINDS = ["ina", "jetpack4", "battery", "rapl", "cpu"]


class Bench:
    """A tree of power files that another process changes, a clock turned by hand, and a meter."""

    def __init__(self, root: Path, process: subprocess.Popen[str]) -> None:
        self.root, self._process, self.clock = root, process, FakeClock()
        self.sampler: Sampler | None = None

    def becomes(self, kind: str, value: float) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind} {value!r}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def feed(self, meter: EnergyMeter, busy: float | None = None) -> None:
        if self.sampler is None:
            self.sampler = Sampler(Site(Machine(self.root), self.clock), builtin_kinds(KINDS))
        meter.feed(self.sampler.sample().readings, busy=busy)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    command = [sys.executable, counting.__file__, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Bench(tmp_path, process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60.0) == 0


def test_a_counter_is_followed_across_its_wraps(bench: Bench) -> None:
    meter, steps = EnergyMeter(), random.Random(7)
    bench.becomes("rapl", 0.0)
    bench.feed(meter)
    used_j = 0.0
    for _ in range(200):
        step_j = round(steps.uniform(0.0, 45.0), 6)
        bench.becomes("rapl", step_j)
        bench.clock.advance(1.0)
        bench.feed(meter)
        used_j += step_j
    spent = meter.take()
    assert spent is not None
    assert used_j > 60 * counting.RANGE_UJ / 1e6, "it wrapped often"
    assert spent.total_j == pytest.approx(used_j, rel=1e-9)
    assert spent.seconds == pytest.approx(200.0)
    assert spent.source == "rapl"
    assert meter.energy_kwh == pytest.approx(used_j / 3.6e6)
    assert meter.take() is None, "nothing was measured since"


@pytest.mark.parametrize(
    ("power_w", "integral_j", "within"),
    [
        (lambda t: 4.0, lambda t: 4.0 * t, 1e-6),
        (lambda t: 2.0 + 0.05 * t, lambda t: 2.0 * t + 0.025 * t * t, 1e-4),
        (lambda t: 5.0 + 3.0 * math.sin(t / 5), lambda t: 5.0 * t + 15.0 * (1 - math.cos(t / 5)), 2e-3),
    ],
)
def test_power_is_integrated(
    power_w: Callable[[float], float], integral_j: Callable[[float], float], within: float, bench: Bench
) -> None:
    """mA of a 5 V rail are steps of 5 mW, which is what `within` leaves room for besides the trapezia."""
    meter, steps, at_s = EnergyMeter(), random.Random(3), 0.0
    bench.becomes("rail", power_w(0.0))
    bench.feed(meter)
    while at_s < 100.0:
        step_s = steps.uniform(0.1, 0.9)  # a sampler that is late now and then
        bench.clock.advance(step_s)
        at_s += step_s
        bench.becomes("rail", power_w(at_s))
        bench.feed(meter)
    spent = meter.take()
    assert spent is not None
    assert spent.source == "rail"
    assert spent.total_j == pytest.approx(integral_j(at_s), rel=within)
    assert spent.seconds == pytest.approx(at_s)


def test_a_rail_goes_before_a_counter_and_the_counter_stands_in_when_it_is_gone(bench: Bench) -> None:
    meter = EnergyMeter(max_gap_s=10.0)
    bench.becomes("rapl", 1.0)
    bench.becomes("rail", 5.0)
    for _ in range(5):
        bench.feed(meter)
        bench.clock.advance(1.0)
    assert meter.source == "rail"
    assert meter.take() is not None
    (bench.root / counting.RAIL / "curr1_input").unlink()
    for _ in range(12):
        bench.feed(meter)
        assert meter.source == "rail" or bench.clock.mono_ns() > 11e9
        bench.clock.advance(1.0)
    assert meter.source == "rapl"
    assert meter.take() is None, "half of that time nothing was known"
    for _ in range(3):
        bench.becomes("rapl", 2.0)
        bench.feed(meter)
        bench.clock.advance(1.0)
    spent = meter.take()
    assert spent is not None
    assert (spent.source, spent.total_j) == ("rapl", pytest.approx(6.0))


def test_the_baseline_is_measured_at_rest_and_subtracted(bench: Bench) -> None:
    meter = EnergyMeter()
    bench.becomes("rail", 3.0)
    for _ in range(11):
        bench.feed(meter, busy=0.0)
        bench.clock.advance(1.0)
    first = meter.take()
    assert first is not None
    assert (first.idle_w, first.baseline, first.work_j) == (pytest.approx(3.0), "measured", pytest.approx(0.0))
    bench.becomes("rail", 7.0)
    bench.feed(meter, busy=0.9)
    meter.take()
    for _ in range(10):
        bench.clock.advance(1.0)
        bench.feed(meter, busy=0.9)
    spent = meter.take()
    assert spent is not None
    assert spent.power_w == pytest.approx(7.0)
    assert spent.work_j == pytest.approx(40.0)
    shares = by_stream(spent, {"dock": 6_000_000_000, "yard": 2_000_000_000, "off": 0}, {"dock": 60, "yard": 10})
    assert shares["dock"].work_j == pytest.approx(30.0)
    assert shares["dock"].j_per_inference == pytest.approx(0.5)
    assert shares["yard"].j_per_inference == pytest.approx(1.0)
    assert shares["off"].j_per_inference is None
    picture = power_picture(meter, spent, 70)
    assert picture["j_per_inference"] == pytest.approx(40.0 / 70, abs=1e-4)
    assert (picture["source"], picture["idle_w"], picture["baseline"]) == ("rail", 3.0, "measured")
    assert "estimated" not in picture


def test_a_stated_baseline_goes_before_a_measured_one(bench: Bench) -> None:
    meter = EnergyMeter(idle_w=2.5, start_kwh=1.0)
    bench.becomes("rail", 3.0)
    for _ in range(11):
        bench.feed(meter, busy=0.0)
        bench.clock.advance(1.0)
    spent = meter.take()
    assert spent is not None
    assert (spent.idle_w, spent.baseline, spent.work_j) == (2.5, "stated", pytest.approx(5.0))
    assert meter.energy_kwh == pytest.approx(1.0 + 30.0 / 3.6e6)


@pytest.mark.parametrize(
    ("board", "source"),
    [
        ("jetson-orin-nano", "rail"),
        ("jetson-xavier-jp4", "rail"),
        ("laptop", "battery"),
        ("container", None),
        ("pi3", None),
    ],
)
def test_the_best_source_of_each_board(board: str, source: str | None, tmp_path: Path) -> None:
    clock, meter = FakeClock(), EnergyMeter()
    sampler = Sampler(Site(tree.BoardMachine(tree.read(board), tmp_path), clock))
    for _ in range(3):
        meter.feed(sampler.sample().readings)
        clock.advance(1.0)
    spent = meter.take()
    assert meter.source == source
    assert (spent is None) == (source is None)
    if source is None:
        assert meter.energy_kwh is None
        assert power_picture(meter, spent, 5) == {}
    elif source == "rail" and spent is not None:  # VDD_IN holds the others
        assert spent.power_w == pytest.approx({"jetson-orin-nano": 5.863168, "jetson-xavier-jp4": 4.218}[board])
    sampler.close()


def power(name: str, at_s: float, value: float) -> Reading:
    return Reading(name, value, round(at_s * 1e9))


def test_rails_without_a_supply_are_added_unless_one_is_named() -> None:
    for rail, expected_w in ((None, 5.0), ("b", 3.0), ("c", None)):
        meter = EnergyMeter(rail=rail)
        for at_s in (1.0, 2.0):
            meter.feed([power("rail/a/power_w", at_s, 2.0), power("rail/b/power_w", at_s, 3.0)])
        spent = meter.take()
        assert (None if spent is None else spent.power_w) == expected_w


def test_a_battery_that_is_charged_tells_nothing_of_the_consumption() -> None:
    meter = EnergyMeter()
    for at_s in (1.0, 2.0):
        meter.feed([power("battery/B/power_w", at_s, 9.0), power("battery/B/discharging", at_s, 0.0)])
    assert meter.source is None
    rail = EnergyMeter()
    for at_s in (1.0, 2.0):
        rail.feed([power("rail/UPS/power_w", at_s, -4.0)])
    assert rail.take() is None


def test_a_counter_that_runs_back_without_a_range_is_not_guessed() -> None:
    meter = EnergyMeter()
    meter.feed([power("rapl/package-0/energy_j", 1.0, 500.0)])
    meter.feed([power("rapl/package-0/energy_j", 2.0, 100.0)])
    assert meter.take() is None
    assert meter.energy_kwh == 0.0


def test_packages_are_added_and_the_platform_is_not() -> None:
    meter = EnergyMeter()
    for at_s, joules in ((1.0, 0.0), (2.0, 1.5)):
        names = ("package-0", "package-1", "psys")
        meter.feed([power(f"rapl/{name}/energy_j", at_s, 7.0 + joules) for name in names])
    spent = meter.take()
    assert spent is not None
    assert spent.total_j == pytest.approx(3.0)


def test_a_gap_is_not_filled() -> None:
    meter = EnergyMeter(max_gap_s=30.0)
    for at_s in (0.0, 10.0, 100.0, 110.0):
        meter.feed([power("rail/a/power_w", at_s + 1, 2.0)])
    assert meter.energy_kwh == pytest.approx(40.0 / 3.6e6)
    assert meter.take() is None


def test_an_estimate_is_labelled() -> None:
    meter = EnergyMeter(model=PowerModel(2.0, 6.0))
    for at_s, share in ((1.0, 0.0), (2.0, 0.5), (3.0, 1.0)):
        meter.feed([power("system/cpu/busy_share", at_s, share)])
    spent = meter.take()
    assert spent is not None
    assert spent.total_j == pytest.approx(4.0 + 6.0)
    picture = power_picture(meter, spent, 10)
    assert picture["estimated"] is True
    assert picture["source"] == "estimated"
    without = EnergyMeter()
    without.feed([power("system/cpu/busy_share", 1.0, 0.5)])
    assert without.source is None


@given(
    st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.0, 500.0)), min_size=1, max_size=30),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=5),
    st.floats(0.0, 300.0),
)
def test_energy_is_conserved(points: list[tuple[float, float]], engine_ns: list[int], idle_w: float) -> None:
    """Intervals add up to the total, the streams' parts to the work, and nothing is negative."""
    meter, at_s, taken_j = EnergyMeter(idle_w=idle_w), 1.0, 0.0
    meter.feed([power("rail/a/power_w", at_s, 1.0)])
    for step_s, power_w in points:
        at_s += step_s
        meter.feed([power("rail/a/power_w", at_s, power_w)])
        spent = meter.take()
        assert spent is not None
        assert 0.0 <= spent.work_j <= spent.total_j
        taken_j += spent.total_j
        names = {f"s{index}": ns for index, ns in enumerate(engine_ns)}
        parts = by_stream(spent, names, dict.fromkeys(names, 1))
        assert sum(part.work_j for part in parts.values()) == pytest.approx(spent.work_j if any(engine_ns) else 0.0)
    assert meter.energy_kwh == pytest.approx(taken_j / 3.6e6)


def test_power_of_no_inference_is_no_figure() -> None:
    meter = EnergyMeter()
    for at_s in (1.0, 2.0):
        meter.feed([power("rail/a/power_w", at_s, 2.0)])
    spent = meter.take()
    assert "j_per_inference" not in power_picture(meter, spent, 0)
    assert by_stream(Spent(1.0, 1.0, "rail"), {"a": 0}, {"a": 3}) == {}
