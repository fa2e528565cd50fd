"""What the doctor says of each board in tests/boards, as golden files (`--update` writes them anew)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgerun.cli.doctor import page
from edgerun.config import ModelConfig
from edgerun.doctor import Needs, examine
from edgerun.doctor.checks import CHECKS
from edgerun.doctor.examine import Examination, Patient
from edgerun.doctor.line import Line
from tests.boards import tree

GOLDEN = Path(__file__).parent / "golden"
FROM_FILES = [check for check in CHECKS if check.family not in ("engines", "broker")]
"""The families that a board's files can tell; the other two ask real processes and a real broker."""


def examined(board: tree.Board, folder: Path, needs: Needs | None = None) -> Examination:
    needs = needs or Needs({"main": ModelConfig(Path("m.tflite"))})
    return examine(Patient(tree.BoardMachine(board, folder), needs), FROM_FILES)


def line(found: Examination, what: str) -> Line:
    (one,) = [line for lines in found.families.values() for line in lines if line.what == what]
    return one


@pytest.mark.parametrize("name", tree.BOARDS)
def test_board(name: str, tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    found = examined(tree.read(name), tmp_path)
    text = "\n".join("\n".join(page(family, lines)) for family, lines in found.families.items())
    assert "the check failed" not in text
    golden(GOLDEN / f"{name}.txt", text.replace(str(tmp_path), "") + "\n")


def test_a_camera_that_the_config_names_must_be_there(tmp_path: Path) -> None:
    cameras = {"/dev/v4l/by-id/usb-046d_0825_5A2F1C40-video-index0": ("door",), "/dev/video7": ("yard", "gate")}
    found = examined(tree.read("pi5"), tmp_path, Needs({"main": ModelConfig(Path("m.tflite"))}, cameras))
    there = [line for line in found.families["cameras"] if "read by stream door" in line.value]
    assert [line.status for line in there] == ["green"]
    missing = line_of_status(found, "cameras", "red")
    assert "/dev/video7 is not there, and stream yard, gate reads it" in missing.value
    assert missing.needed
    assert not found.ok


def test_a_metadata_node_in_the_config_is_told(tmp_path: Path) -> None:
    needs = Needs({"main": ModelConfig(Path("m.tflite"))}, {"1": ("door",)})
    found = examined(tree.read("pi5"), tmp_path, needs)
    assert "gives no pictures, it is for metadata" in line_of_status(found, "cameras", "red").value


def test_a_coral_that_is_needed_and_absent_is_red(tmp_path: Path) -> None:
    needs = Needs({"main": ModelConfig(Path("m.tflite"), accelerators=("edgetpu",))})
    found = examined(tree.read("container"), tmp_path, needs)
    assert line(found, "Coral").status == "red"
    assert not found.ok
    needs = Needs({"main": ModelConfig(Path("m.tflite"), accelerators=("edgetpu", "cpu"))})
    found = examined(tree.read("pi3"), tmp_path / "second", needs)
    assert line(found, "Coral").status == "absent"


def test_a_sensor_that_never_answers_costs_its_family_only(tmp_path: Path) -> None:
    text = "== sys/class/thermal/thermal_zone0/type = cpu\n== sys/class/thermal/thermal_zone0/temp !blocks\n"
    machine = tree.BoardMachine(tree.parse(text + "== @python = 3.11.2\n"), tmp_path)
    needs = Needs({"main": ModelConfig(Path("m.tflite"))})
    quick = [check for check in FROM_FILES if check.family in ("clock", "storage")]
    slow = next(check for check in FROM_FILES if check.family == "heat and power")
    slow = type(slow)(slow.family, slow.look, limit_s=0.2)
    found = examine(Patient(machine, needs), [slow, *quick])
    assert line(found, "heat and power").value == "no end within 0.2 s"
    assert found.families["storage"]


def line_of_status(found: Examination, family: str, status: str) -> Line:
    (one,) = [line for line in found.families[family] if line.status == status]
    return one
