"""IIO sensors on a sysfs tree as the kernel lays it out."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from edgerun.capture.iio import IioSource, Options, _Channel, _set_rate
from edgerun.clock import FakeClock, SystemClock
from edgerun.errors import SourceError
from edgerun.types import Grab
from tests.capture.scenes import context

LSM6DS3 = {
    "iio:device0/name": "bme280",
    "iio:device0/in_temp_input": "21340",
    "iio:device1/name": "lsm6ds3_accel",
    "iio:device1/in_accel_x_raw": "100",
    "iio:device1/in_accel_y_raw": "-200",
    "iio:device1/in_accel_z_raw": "16393",
    "iio:device1/in_accel_scale": "0.000598",
    "iio:device1/in_accel_z_offset": "7",
    "iio:device1/sampling_frequency": "104.000000",
    "iio:device1/sampling_frequency_available": "13 26 52 104 208",
    "iio:device2/name": "mcp3008",
    "iio:device2/in_voltage0_raw": "512",
    "iio:device2/in_voltage_scale": "3.222656250",
    "iio:device2/in_voltage_offset": "-12",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in LSM6DS3.items():
        path = tmp_path / "sys/bus/iio/devices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path


def device(root: Path, number: int = 1) -> Path:
    return root / f"sys/bus/iio/devices/iio:device{number}"


def opened(root: Path, clock: FakeClock | SystemClock | None = None, **changed: object) -> IioSource:
    options = {
        "device": "lsm6ds3_accel",
        "channels": ("accel_x", "accel_y", "accel_z"),
        "rate_hz": 100.0,
        "window_samples": 4,
        "root": str(root),
        **changed,
    }
    return IioSource(Options(**options), context(clock or FakeClock()))


def test_values_are_raw_plus_offset_times_scale(root: Path) -> None:
    source = opened(root)
    assert source.grab() is not None
    window = source.retrieve(None)
    assert source.frame_size == (3, 4)
    assert window.shape == (4, 3)
    assert window[0] == pytest.approx([100 * 0.000598, -200 * 0.000598, 16400 * 0.000598])


def test_scale_and_offset_of_a_numbered_channel_are_its_kinds(root: Path) -> None:
    source = opened(root, device="iio:device2", channels=("voltage0",))
    source.grab()
    assert source.retrieve(None)[0, 0] == pytest.approx(500 * 3.22265625)


def test_processed_channels_are_taken_as_they_are(root: Path) -> None:
    source = opened(root, device="bme280", channels=("temp",))
    source.grab()
    assert source.retrieve(None)[0, 0] == 21340


def test_samples_are_one_interval_apart_and_windows_one_hop(root: Path) -> None:
    clock = FakeClock()
    source = opened(root, clock, hop_samples=2)
    began_ns = clock.mono_ns()
    grabs = [source.grab() for _ in range(3)]
    assert [grab.captured_ns - began_ns for grab in grabs if grab] == [30_000_000, 50_000_000, 70_000_000]
    assert [grab.gap for grab in grabs if grab] == [True, False, False]


def test_time_lost_is_a_gap(root: Path) -> None:
    clock = FakeClock()
    source = opened(root, clock)
    source.grab()
    clock.advance(0.005)
    later = source.grab()
    assert later is not None
    assert not later.gap
    clock.advance(1.0)
    after = source.grab()
    assert after is not None
    assert after.gap


def test_a_failed_read_is_a_gap_and_ten_in_a_row_lose_the_sensor(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(root)
    source.grab()
    path = device(root) / "in_accel_y_raw"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as node:  # opening a socket's node fails with ENXIO
        monkeypatch.chdir(path.parent)  # its path would be too long
        node.bind(path.name)
        with pytest.raises(SourceError, match="cannot be read any more") as caught:
            source.grab()
    assert not caught.value.final
    assert "in_accel_y_raw" in str(caught.value)
    assert "a sample is missing" in caplog.text


def test_a_sensor_that_vanishes_is_lost_at_once_and_found_again(root: Path) -> None:
    source = opened(root)
    source.grab()
    away = root / "away"
    device(root).rename(away)
    with pytest.raises(SourceError, match="No such file") as caught:
        source.grab()
    assert not caught.value.final
    with pytest.raises(SourceError, match=r"there is no sensor 'lsm6ds3_accel'.*bme280") as missing:
        opened(root)
    assert not missing.value.final
    away.rename(device(root))
    again = opened(root).grab()
    assert again is not None
    assert again.gap


def test_a_sensor_that_vanishes_while_it_is_opened_is_waited_for(root: Path) -> None:
    """It was found a moment ago; what it seems to lack now is no mistake of the config's."""
    options = Options(
        device="lsm6ds3_accel", channels=("accel_x",), rate_hz=100.0, window_samples=4, device_rate_hz=208.0
    )
    device(root).rename(root / "away")
    for opening in (lambda: _Channel(device(root), "accel_x"), lambda: _set_rate(device(root), options)):
        with pytest.raises(SourceError) as caught:
            opening()
        assert not caught.value.final


def test_no_number_is_told(root: Path) -> None:
    source = opened(root)
    (device(root) / "in_accel_x_raw").write_text("ERR\n")
    with pytest.raises(SourceError, match="gives no number"):
        source.grab()


def test_a_channel_it_lacks_is_final_with_what_it_has(root: Path) -> None:
    with pytest.raises(SourceError, match="accel_x, accel_y, accel_z") as caught:
        opened(root, channels=("accel_q",))
    assert caught.value.final
    assert "did you mean" in str(caught.value).lower()


def test_polling_faster_than_it_samples_is_refused(root: Path) -> None:
    with pytest.raises(SourceError, match="at most 104") as caught:
        opened(root, rate_hz=200.0)
    assert caught.value.final


def test_its_rate_is_set_when_asked_for(root: Path) -> None:
    opened(root, rate_hz=200.0, device_rate_hz=208.0)
    assert (device(root) / "sampling_frequency").read_text() == "208\n"


def test_a_rate_that_cannot_be_set_says_what_to_do(root: Path) -> None:
    (device(root) / "sampling_frequency").unlink()
    (device(root) / "sampling_frequency").mkdir()
    with pytest.raises(SourceError, match="udev rule"):
        opened(root, device_rate_hz=208.0)


def test_at_a_real_rate_it_keeps_time(root: Path) -> None:
    source = opened(root, SystemClock(), rate_hz=104.0, window_samples=26, hop_samples=13)
    grabs = [grab for grab in (source.grab() for _ in range(4)) if grab is not None]
    steps = np.diff([grab.captured_ns for grab in grabs if not grab.gap])
    assert len(grabs) == 4
    assert all(step > 0 for step in steps)


def test_stop_ends_the_wait(root: Path) -> None:
    stop = threading.Event()
    source = IioSource(
        Options(device="bme280", channels=("temp",), rate_hz=0.001, window_samples=2, root=str(root)),
        context(stop=stop),
    )
    ended: list[Grab | None] = []
    thread = threading.Thread(target=lambda: ended.append(source.grab()))
    thread.start()
    stop.set()
    thread.join(20)
    assert ended == [None]
