"""RAPL counters on a tree of files like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.bench.energy import EnergyMeter

RANGE_UJ = 262_143_328_850


def write_zone(root: Path, zone: str, name: str, energy_uj: int, range_uj: int | None = RANGE_UJ) -> None:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    if range_uj is not None:
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")


def test_a_board_without_counters_has_no_figure(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    assert not meter.readable
    assert meter.take_j() is None


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    write_zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    write_zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    write_zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    meter = EnergyMeter(tmp_path)
    assert meter.readable
    write_zone(tmp_path, "intel-rapl:0", "package-0", 3_500_000)
    write_zone(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    write_zone(tmp_path, "intel-rapl:1", "package-1", 5_250_000)
    write_zone(tmp_path, "intel-rapl:2", "psys", 99_000_000)
    assert meter.take_j() == pytest.approx(2.75)
    assert meter.take_j() == 0.0


def test_a_counter_that_wraps(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 400)
    meter = EnergyMeter(tmp_path)
    write_zone(tmp_path, "intel-rapl:0", "package-0", 1_200)
    assert meter.take_j() == pytest.approx(0.0016)


def test_a_counter_that_runs_back_without_a_range_is_not_guessed(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 500, range_uj=None)
    meter = EnergyMeter(tmp_path)
    write_zone(tmp_path, "intel-rapl:0", "package-0", 100, range_uj=None)
    assert meter.take_j() is None


def test_a_counter_that_vanishes(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 500)
    meter = EnergyMeter(tmp_path)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert meter.take_j() is None
