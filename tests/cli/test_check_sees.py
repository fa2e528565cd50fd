"""What `edgerun run` would refuse, or what could never work, `edgerun check` tells before."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.cli.main import main
from edgerun.device.energy import unknown_rail

CONFIG = """\
[models.m]
path = "ssd-mobilenet-v2-oid"
[streams.s]
source = "synthetic"
model = "m"
"""


def checked(folder: Path, more: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a check of a config with `more` in it."""
    (folder / "edge.toml").write_text(CONFIG + more)
    code = main(["check", "--config", str(folder / "edge.toml")])
    return code, capsys.readouterr().err


def test_certificates_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.pem").write_text("this is no certificate\n")
    code, err = checked(tmp_path, '[mqtt]\nurl = "mqtts://localhost"\nca_file = "ca.pem"\n', capsys)
    assert code == 2
    assert "ca_file: the certificate cannot be used; expected a PEM file, its key without a passphrase" in err
    assert f"got {tmp_path}" in err


def test_a_control_socket_where_none_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = checked(tmp_path, '[security]\nsocket = "/"\n', capsys)
    assert code == 2
    assert "edgerun: /: a folder, not a path for a socket" in err
    code, err = checked(tmp_path, f'[security]\nsocket = "/{"x" * 120}"\n', capsys)
    assert (code, "too long for a socket's path" in err) == (2, True)


def test_sensors_below_a_root_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = checked(tmp_path, '[sensors]\nroot = "nowhere"\n', capsys)
    assert code == 2
    assert "sensors.root: no such folder" in err
    assert checked(tmp_path, '[sensors]\nroot = "/"\n', capsys)[0] == 0


def test_a_rail_that_this_machine_has_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sys").mkdir()
    code, err = checked(tmp_path, '[sensors]\nroot = "."\nrail = "x"\n', capsys)
    assert code == 0, "another machine may have it"
    assert err.startswith("warning: sensors.rail: there is no rail 'x' on this machine")


def test_which_rails_there_are() -> None:
    names = ("rail/VDD_IN/power_w", "rail/VDD_IN/voltage_v", "rail/CPU/power_w", "thermal/cpu/temp_c")
    assert unknown_rail("VDD_IN", names) is None
    assert str(unknown_rail("vdd", names)).endswith("it has CPU, VDD_IN")
    assert str(unknown_rail("vdd", ())).endswith("it has none that is measured")


@pytest.mark.parametrize("device", ["-1", '""'])
def test_a_camera_that_cannot_be(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edge.toml").write_text(
        CONFIG.replace('"synthetic"', f'{{ kind = "camera", device = {device} }}'), encoding="utf-8"
    )
    code = main(["check", "--config", str(tmp_path / "edge.toml")])
    assert code == 2
    assert "streams.s.source.device: " in capsys.readouterr().err
