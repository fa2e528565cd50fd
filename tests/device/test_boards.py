"""What the sensors say of each board in tests/boards, as golden files, and what they do when a board misbehaves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock
from edgerun.device.evidence import thermal_picture
from edgerun.device.machine import Machine
from edgerun.device.sampler import Sample, Sampler
from edgerun.device.sensors import KINDS, builtin_kinds
from edgerun.device.site import SensorOptions, Site, name_parts
from edgerun.errors import DeviceError
from tests.boards import tree

GOLDEN = Path(__file__).parent / "golden"
SENSOR_FILES = {
    name: sorted(
        file
        for file in (*tree.read(name).files, *tree.read(name).refused)
        if file.startswith(("sys/", "proc/")) and "/usb/" not in file and "video" not in file
    )
    for name in tree.BOARDS
}


def site(machine: Machine, clock: FakeClock | None = None, **options: object) -> Site:
    return Site(machine, clock or FakeClock(), SensorOptions(**options))  # type: ignore[arg-type]


def sampled(text: str, folder: Path, **options: object) -> Sample:
    sampler = Sampler(site(tree.BoardMachine(tree.parse(text), folder), **options))
    sample = sampler.sample()
    sampler.close()
    return sample


@pytest.mark.parametrize("name", tree.BOARDS)
def test_board(name: str, tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    clock = FakeClock()
    machine = tree.BoardMachine(tree.read(name), tmp_path)
    sampler = Sampler(site(machine, clock, vcgencmd=True))
    sampler.sample()
    work(tmp_path / "proc/stat")
    clock.advance(1.0)
    sampler.sample()
    readings = sampler.latest.values()
    lines = [f"{one.name} = {one.value:.12g}" for one in sorted(readings, key=lambda one: one.name)]
    lines += [f"broken: {one.kind} {one.place}: {one.reason}" for one in sampler.broken]
    lines.append(f"thermal: {json.dumps(thermal_picture(readings))}")
    golden(GOLDEN / f"{name}.txt", "\n".join(lines) + "\n")
    sampler.close()


def work(stat: Path) -> None:
    """A second of four processors, a quarter of it busy."""
    head, rest = stat.read_text().split("\n", 1)
    fields = head.split()
    fields[1], fields[4] = str(int(fields[1]) + 100), str(int(fields[4]) + 300)
    stat.write_text(" ".join(fields).replace("cpu ", "cpu  ") + "\n" + rest)


def test_every_kind_is_on_some_board() -> None:
    """So that no sensor goes without a golden line. The process's own load has tests of its own, on the real /proc."""
    seen = set()
    for path in GOLDEN.glob("*.txt"):
        seen |= {name_parts(line.split(" = ")[0])[0] for line in path.read_text().splitlines() if " = " in line}
    kinds = {"thermal", "cooling", "hwmon", "rail", "cpufreq", "throttle", "pi", "pmic", "gpu", "coral", "battery"}
    kinds |= {"supply", "pressure", "cgroup", "disk", "wear", "wifi", "system"}
    assert kinds <= seen


def test_every_kind_has_a_class_that_keeps_the_port() -> None:
    for kind, sensor_class in builtin_kinds().items():
        assert kind in KINDS
        assert all(callable(getattr(sensor_class, name)) for name in ("find", "read", "close")), kind


class Changed:
    """A board's tree some of whose files are other than they were, until the end of the block."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self._before = {folder / file: (folder / file).read_bytes() for file in files}

    def __enter__(self) -> None:
        for path in self._before:
            path.unlink()

    def __exit__(self, *_: object) -> None:
        for path, content in self._before.items():
            path.write_bytes(content)


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tree.BoardMachine]:
    return {name: tree.BoardMachine(tree.read(name), tmp_path_factory.mktemp(name)) for name in tree.BOARDS}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_garbage_in_any_file_is_a_device_error_or_a_finite_value(
    data: st.DataObject, boards: dict[str, tree.BoardMachine]
) -> None:
    board = data.draw(st.sampled_from(tree.BOARDS))
    files = data.draw(st.lists(st.sampled_from(SENSOR_FILES[board]), min_size=1, max_size=6, unique=True))
    machine = boards[board]
    numbers = st.integers(-(1 << 70), 1 << 70).map(lambda number: str(number).encode())
    odd = st.sampled_from(
        [b"", b"\n", b"max", b"nan", b"inf", b"1e999", b"-1", b"2147483648", b"9" * 5000, b"some avg10"]
    )
    contents = [data.draw(st.one_of(st.binary(max_size=60), numbers, odd)) for _ in files]
    with Changed(machine.root, files):
        for file, content in zip(files, contents, strict=True):
            machine.path(file).write_bytes(content)
        everything_says_something_sane(site(machine))


def everything_says_something_sane(here: Site) -> None:
    for kind, sensor_class in builtin_kinds().items():
        try:
            found = sensor_class.find(here)
        except DeviceError:
            continue
        for one in found:
            try:
                readings = [*one.sensor.read(), *one.sensor.read()]
            except DeviceError:
                continue
            assert all(math.isfinite(reading.value) for reading in readings), (kind, one.place)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_files_that_vanish_take_their_readings_with_them_and_no_others(
    data: st.DataObject, boards: dict[str, tree.BoardMachine]
) -> None:
    board = data.draw(st.sampled_from(tree.BOARDS))
    values = [file for file in SENSOR_FILES[board] if not file.endswith(("type", "name", "_label", "status"))]
    files = data.draw(st.lists(st.sampled_from(values), min_size=1, unique=True))
    clock, machine = FakeClock(), boards[board]
    sampler = Sampler(site(machine, clock), look_every_s=1e6)
    sampler.sample()
    clock.advance(1e4)
    before = sampler.sample().values()
    clock.advance(1e4)
    with Changed(machine.root, files):
        after = sampler.sample().values()
    derived = {name for name in after if name.endswith(("/power_w", "/energy_wh"))}  # of what is left: U · I
    assert {name: before[name] for name in after if name not in derived} == {
        name: value for name, value in after.items() if name not in derived
    }
    sampler.close()


TEMP = "sys/class/thermal/thermal_zone0/temp"
OTHERS = "== sys/class/thermal/thermal_zone1/type = gpu\n== sys/class/thermal/thermal_zone1/temp = 50000\n"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (TEMP, "hot", "is not a number"),
        (TEMP, "", "is not a number"),
        (TEMP, "-88700", "says what temp_c cannot be"),
        (TEMP, "2147483648", "says what temp_c cannot be"),
        (TEMP, "!EIO", "cannot be read; got Input/output error"),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "!EACCES", "Let everybody read it until the next boot"),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "-5", "says what energy_j cannot be"),
        ("sys/class/apex/apex_0/temp", "-88700", "The Edge TPU does not answer"),
        ("sys/class/hwmon/hwmon0/temp1_fault", "1", "at fault"),
        ("sys/class/hwmon/hwmon0/fan1_input", "2147483648", "says what fan_rpm cannot be"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "<unknown>", "is not a number"),
        ("sys/class/devfreq/1.gpu/load", "12345", "says what load_share cannot be"),
        ("sys/class/devfreq/1.gpu/load", "101@800000000Hz", "says what a load cannot be"),
        ("sys/class/power_supply/BAT0/capacity", "-3", "says what charge_share cannot be"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "ffffffffff", "is no set of flags"),
        ("proc/pressure/cpu", "some avg10=-1.00 avg60=0 avg300=0 total=0", "is not what the kernel writes there"),
        ("proc/uptime", "nan 1", "is not what the kernel writes there"),
        ("proc/net/wireless", "a\nb\nwlan0: 0 1", "is not what the kernel writes there"),
        ("sys/block/mmcblk0/device/life_time", "0x0c 0x01", "is not what the kernel writes there"),
        ("sys/block/mmcblk0/device/life_time", "0x0q", "is not what the kernel writes there"),
        ("proc/stat", "cpu x", "is not what proc"),
        ("proc/meminfo", "MemTotal: 5 kB\nMemAvailable: 9 kB", "says what memory cannot be"),
    ],
)
def test_nonsense_is_told_and_stops_nothing_else(file: str, content: str, said: str, tmp_path: Path) -> None:
    around = {
        TEMP.replace("temp", "type"): "cpu",
        "sys/class/hwmon/hwmon0/name": "chip",
        "sys/class/hwmon/hwmon0/temp1_input": "40000",
        "sys/class/power_supply/BAT0/type": "Battery",
    }
    entry = f"== {file} {content}\n" if content.startswith("!") else f"== {file}\n{content}\n"
    text = "".join(f"== {name} = {value}\n" for name, value in around.items() if name != file)
    sample = sampled(text + entry + OTHERS + "== @clock = synchronised 1.0\n", tmp_path)
    assert sample.values()["thermal/gpu/temp_c"] == 50.0
    (broken,) = [one for one in sample.broken if said in one.reason]
    assert not broken.blocked


def test_an_empty_board_is_not_broken(tmp_path: Path) -> None:
    sample = sampled("== @clock = synchronised 1.0\n", tmp_path)
    assert [one.name for one in sample.readings] == ["system/clock/synchronised", "system/clock/max_error_s"]
    assert sample.broken == ()


class NotNow(tree.BoardMachine):
    """A board one of whose drivers has no value at the moment."""

    def read(self, name: str) -> bytes | None:
        if name == TEMP:
            raise DeviceError("cannot be read", where="/" + name, got=os.strerror(11))
        return super().read(name)


def test_a_driver_that_says_eagain(tmp_path: Path) -> None:
    text = f"== {TEMP} = 1\n== {TEMP.replace('temp', 'type')} = cpu\n" + OTHERS
    sampler = Sampler(site(NotNow(tree.parse(text + "== @clock = synchronised 1.0\n"), tmp_path)))
    sample = sampler.sample()
    assert sample.values()["thermal/gpu/temp_c"] == 50.0
    assert [(one.place, one.reason.rpartition("; ")[2]) for one in sample.broken] == [
        ("cpu", "got Resource temporarily unavailable")
    ]


def test_a_healthy_half_of_a_sensor_is_kept(tmp_path: Path) -> None:
    battery = "sys/class/power_supply/BAT0"
    text = f"== {battery}/type = Battery\n== {battery}/capacity = 81\n== {battery}/power_now !EIO\n"
    sample = sampled(text + "== @clock = synchronised 1.0\n", tmp_path)
    assert sample.values()["battery/BAT0/charge_share"] == 0.81
    assert [one.place for one in sample.broken] == ["BAT0"]


def test_the_firmwares_tool_is_asked_only_when_told_to_and_seldom(tmp_path: Path) -> None:
    machine = tree.BoardMachine(tree.read("pi5"), tmp_path)
    asked = tmp_path / "asked"
    script = tmp_path / "usr/bin/vcgencmd"
    script.write_text(script.read_text().replace("#!/bin/sh", f"#!/bin/sh\necho >> {asked}"))
    quiet = Sampler(site(machine))
    quiet.sample()
    quiet.close()
    assert not asked.exists()
    clock = FakeClock()
    told = Sampler(site(machine, clock, vcgencmd=True))
    for _ in range(11):  # 0 … 10 s
        told.sample()
        clock.advance(1.0)
    assert told.latest["pmic/rails/power_w"].value == pytest.approx(2.0355, abs=1e-4)
    told.close()
    assert len(asked.read_text()) == 3  # at 0, 5 and 10 s: the flags have a file


def test_a_tool_that_fails_is_told_with_the_remedy(tmp_path: Path) -> None:
    machine = tree.BoardMachine(tree.read("pi5"), tmp_path)
    (tmp_path / "usr/bin/vcgencmd").write_text("#!/bin/sh\necho VCHI initialization failed >&2\nexit 255\n")
    sampler = Sampler(site(machine, vcgencmd=True), builtin_kinds(["pi-pmic"]))
    (broken,) = sampler.sample().broken
    assert "got VCHI initialization failed. Put the user into group video" in broken.reason


def test_a_chip_that_gets_another_number_is_found_again(tmp_path: Path) -> None:
    clock = FakeClock()
    machine = tree.BoardMachine(tree.read("coral-dev-board"), tmp_path)
    sampler = Sampler(site(machine, clock), look_every_s=60.0)
    assert sampler.sample().values()["hwmon/gpio_fan fan1/fan_rpm"] == 8600.0
    (tmp_path / "sys/class/hwmon/hwmon0").rename(tmp_path / "sys/class/hwmon/hwmon9")
    clock.advance(30.0)
    assert "hwmon/gpio_fan fan1/fan_rpm" not in sampler.sample().values()
    clock.advance(31.0)
    assert sampler.sample().values()["hwmon/gpio_fan fan1/fan_rpm"] == 8600.0
    assert sampler.broken == ()


def test_parts_of_a_machine_may_lie_elsewhere(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "root", mounted={"sys": tmp_path / "host/sys", "sys/fs/cgroup": tmp_path / "groups"})
    assert machine.path("sys") == tmp_path / "host/sys"
    assert machine.path("/sys/class/thermal") == tmp_path / "host/sys/class/thermal"
    assert machine.path("sys/fs/cgroup/memory.max") == tmp_path / "groups/memory.max"
    assert machine.path("system/x") == tmp_path / "root/system/x"
    assert machine.path("proc/stat") == tmp_path / "root/proc/stat"


def test_this_machine_can_be_sampled() -> None:
    from edgerun.clock import SystemClock

    sampler = Sampler(Site(Machine(), SystemClock()))
    first, second = sampler.sample(), sampler.sample()
    sampler.close()
    assert all(first.began_ns <= one.at_ns <= first.ended_ns for one in first.readings)
    assert all(math.isfinite(one.value) for one in second.readings)
    if Path("/proc/meminfo").exists():
        assert first.values()["system/memory/total_bytes"] > 0
