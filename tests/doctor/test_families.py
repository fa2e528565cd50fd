"""Findings that the boards do not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.broker.options import BrokerOptions
from edgerun.config import ModelConfig
from edgerun.device.machine import Machine
from edgerun.doctor import Line, Needs, engines, examine, identity, sensors, software, storage
from edgerun.doctor.checks import CHECKS
from edgerun.doctor.child import Trial
from edgerun.doctor.examine import Check, Patient
from edgerun.secret import Secret
from tests.boards import tree

MODELS = {"main": ModelConfig(Path("m.tflite"))}


def password(secret: Secret, folder: Path) -> Line:
    broker = BrokerOptions("mqtt://broker.example", "dock-7-doctor", password=secret)
    patient = Patient(Machine(folder, {}), Needs(MODELS, broker=broker))
    (line,) = [line for line in identity.look(patient) if line.what == "broker password"]
    return line


def test_where_the_password_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv("GIVEN", "secret")
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(0o604)
    assert password(Secret("env", "GIVEN"), tmp_path).status == "green"
    assert password(Secret("plain", "secret"), tmp_path).status == "yellow"
    open_to_all = password(Secret("file", str(file)), tmp_path)
    assert (open_to_all.status, open_to_all.remedy) == ("yellow", f"Run: chmod o-r {file}")
    missing = password(Secret("env", "MISSING"), tmp_path)
    assert (missing.status, missing.needed) == ("red", True)
    outside = password(Secret("credential", "mqtt-password"), tmp_path)
    assert outside.status == "yellow"
    assert "LoadCredential=mqtt-password:/etc/edgerun/mqtt-password" in (outside.remedy or "")
    for line in (open_to_all, missing, outside):
        assert "secret\n" not in line.value


def test_a_state_folder_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text(
        "Uid:\t4242\t4242\t4242\t4242\nGid:\t4242\t4242\t4242\t4242\nGroups:\t\n"
    )
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "var/lib").chmod(0o755)
    patient = Patient(Machine(tmp_path, {"STATE_DIRECTORY": "/var/lib/edgerun"}), Needs(MODELS))
    line = next(iter(storage.look(patient)))
    assert (line.status, line.what) == ("red", "state folder")
    assert "sudo install -d -o 4242 /var/lib/edgerun" in (line.remedy or "")
    (tmp_path / "var/lib").chmod(0o777)
    assert next(iter(storage.look(patient))).status == "green"


@pytest.mark.parametrize(
    ("packages", "trouble"),
    [
        ({"tflite-runtime": "2.14.0", "numpy": "2.0.0"}, "tflite-runtime with numpy 2"),
        ({"numpy": "1.26.4", "opencv-python": "4.12.0.88", "ai-edge-litert": "2.1.0"}, "OpenCV with numpy 1"),
        ({"opencv-python": "4.11.0", "opencv-python-headless": "4.11.0"}, "several OpenCV packages"),
        ({"onnxruntime": "1.22.0", "onnxruntime-gpu": "1.22.0"}, "several ONNX Runtime packages"),
        ({"numpy": "2.0.0"}, "TFLite runtime"),
        ({"numpy": "1.26.4", "opencv-python-headless": "4.11.0.86", "tflite-runtime": "2.14.0"}, None),
        ({"numpy": "2.4.0", "opencv-python-headless": "5.0.0.93", "ai-edge-litert": "2.3.0"}, None),
    ],
)
def test_packages_that_do_not_go_together(packages: dict[str, str], trouble: str | None, tmp_path: Path) -> None:
    facts = "".join(f"== @package {name} = {version}\n" for name, version in packages.items())
    machine = tree.BoardMachine(tree.parse("== @python = 3.11.2\n" + facts), tmp_path)
    names = {one.what for one in software.TROUBLES}
    told = [line.what for line in software.look(Patient(machine, Needs(MODELS))) if line.what in names]
    assert (trouble in told) if trouble else not told


def test_not_knowing_about_the_engines_is_as_bad_as_having_none() -> None:
    def fails(_: Patient) -> list[Line]:
        raise RuntimeError("no")

    essential = {check.family: check.essential(Needs(MODELS)) for check in CHECKS}
    assert [family for family, needed in essential.items() if needed] == ["engines"]
    patient = Patient(Machine(), Needs(MODELS))
    assert not examine(patient, [Check("engines", fails, essential=lambda _: True)]).ok
    assert examine(patient, [Check("heat", fails)]).ok


@pytest.mark.parametrize(
    ("trial", "status"),
    [
        (Trial("tflite", "edgetpu", agreed=1.0, infer_ms=4.0, cpu_ms=20.0, delegated=(1, 1)), "green"),
        (Trial("tflite", "edgetpu", agreed=1.0, infer_ms=20.0, cpu_ms=20.0, delegated=(0, 109)), "yellow"),
        (Trial("tflite", "gpu", agreed=1.0, infer_ms=40.0, cpu_ms=20.0, delegated=(109, 109)), "yellow"),
        (Trial("onnx", "openvino", agreed=1.0, infer_ms=5.0, cpu_ms=0.1, delegated=(1, 1)), "green"),
    ],
)
def test_an_accelerator_that_opens(trial: Trial, status: str) -> None:
    line = engines._opened("accelerator", trial)
    assert line.status == status
    assert "100.0% of its values agree" in line.value


@pytest.mark.parametrize(
    ("trial", "status", "value", "remedy"),
    [
        (Trial("onnx", "qnn", refused="no DSP"), "absent", "no DSP", "edgerun doctor --verbose"),
        (Trial("onnx", "acl", problem="not built in", missing=True), "absent", "not built in", "doctor --verbose"),
        (
            Trial("onnx", "openvino", problem="takes none of this machine's devices: AMD CPU", remedy="pip install x"),
            "yellow", "it is installed, and does not open: takes none", "pip install x",
        ),
        (Trial("tflite", "gpu", problem="no driver", missing=True, remedy="apt it"), "yellow", "is there", "apt it"),
        (Trial("tflite", "edgetpu", problem="in use"), "yellow", "its device is there", "systemctl stop edgerun"),
    ],
)  # fmt: skip
def test_an_accelerator_that_does_not_open(trial: Trial, status: str, value: str, remedy: str) -> None:
    line = engines._trial_line(trial)
    assert line.status == status
    assert value in line.value
    assert remedy in str(line.remedy)


def test_sensors_with_their_channels(tmp_path: Path) -> None:
    files = {
        "sys/bus/iio/devices/iio:device0/name": "lsm6dsox_accel",
        "sys/bus/iio/devices/iio:device0/in_accel_x_raw": "12",
        "sys/bus/iio/devices/iio:device0/in_accel_y_raw": "-3",
        "sys/bus/iio/devices/iio:device0/in_accel_scale": "0.000598",
        "sys/bus/iio/devices/iio:device1/name": "bme280",
        "sys/bus/iio/devices/iio:device1/in_temp_input": "21480",
        "sys/bus/iio/devices/iio:device2/name": "hx711",
        "sys/bus/iio/devices/trigger0/name": "tick",
        "proc/asound/pcm": "00-00: bcm2835 : bcm2835 Headphones : playback 8\n"
        "01-00: USB Audio : USB Audio : playback 1 : capture 1\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    found = list(sensors.look(Patient(Machine(tmp_path), Needs(MODELS))))
    assert [(line.status, line.value) for line in found] == [
        ("green", "lsm6dsox_accel (iio:device0): accel_x, accel_y"),
        ("green", "bme280 (iio:device1): temp"),
        ("yellow", "hx711 (iio:device2) offers no channel to poll"),
        ("green", "USB Audio (hw:1,0)"),
    ]
    (none,) = sensors.look(Patient(Machine(tmp_path / "proc"), Needs(MODELS)))
    assert (none.status, none.value) == ("absent", "no IIO device and no microphone")
