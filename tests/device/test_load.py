"""What the process itself costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edgerun.clock import FakeClock
from edgerun.device.load import LoadSensor, process_started_ns
from edgerun.errors import DeviceError

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")
STAT = "4242 (edge) run (x) S 1 1 1 0 -1 4194560 9 0 0 0 {user} {system} 0 0 20 0 9 0 100 1 2\n"


def machine(root: Path, statm: str | None, stat: str | None) -> Path:
    folder = root / "proc" / "self"
    folder.mkdir(parents=True)
    for name, text in (("statm", statm), ("stat", stat)):
        if text is not None:
            (folder / name).write_text(text)
    return root


def read(root: Path) -> dict[str, float]:
    clock = FakeClock(mono_ns=5)
    sensor = LoadSensor(clock, root)
    readings = sensor.read()
    sensor.close()
    sensor.close()
    assert {reading.at_ns for reading in readings} <= {5}
    return {reading.name: reading.value for reading in readings}


def test_it_reads_what_proc_says(tmp_path: Path) -> None:
    root = machine(tmp_path, f"9000 {40 * 2**20 // PAGE} 3 4 0 5 0\n", STAT.format(user=7 * TICK, system=TICK // 2))
    assert read(root) == {"rss_mib": 40.0, "cpu_s": 7.5}


@pytest.mark.parametrize(("statm", "stat", "names"), [(None, None, []), ("1 2 3\n", None, ["rss_mib"])])
def test_what_is_absent_has_no_reading(statm: str | None, stat: str | None, names: list[str], tmp_path: Path) -> None:
    assert list(read(machine(tmp_path, statm, stat))) == names


@pytest.mark.parametrize(("statm", "stat"), [("", None), ("a b c", None), (None, "1 (x) S 1 2"), (None, "")])
def test_what_makes_no_sense_is_an_error(statm: str | None, stat: str | None, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is not what proc"):
        read(machine(tmp_path, statm, stat))


def test_it_agrees_with_psutil_on_this_machine() -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system has no /proc")
    values = read(Path("/"))
    process = psutil.Process()
    assert values["rss_mib"] == pytest.approx(process.memory_info().rss / 2**20, rel=0.2)
    assert 0 < values["cpu_s"] <= sum(process.cpu_times()[:2]) + 2 / TICK


def test_a_process_knows_when_it_started() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc")
    code = "from edgerun.device.load import process_started_ns; print(process_started_ns())"
    before_ns = time.monotonic_ns()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert before_ns - 2 * 10**9 // TICK <= int(told) <= time.monotonic_ns()


def test_without_proc_the_start_is_not_known(tmp_path: Path) -> None:
    assert process_started_ns(tmp_path) is None
