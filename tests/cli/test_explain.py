"""`edgerun explain`: what it writes, what it says, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from edgerun.cli import explain
from edgerun.cli.parser import Parser
from edgerun.errors import ConfigError
from tests.real_models import model_file

DETECTOR = "ssd-mobilenet-v2-oid"


def run(*words: str) -> int:
    parser = Parser(prog="edgerun explain")
    explain.add_arguments(parser)
    return explain.run(parser.parse_args(words))


def test_a_heat_map_and_the_parts_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = model_file("chelsea.png")
    assert run(DETECTOR, str(picture), "--inferences", "40") == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith("ssd-mobilenet-v2-oid: cat 0.")
    assert lines[1].startswith("  1. ")
    assert "% of the heat in x 0." in lines[1]
    assert lines[-2].startswith("d-rise, 40 inferences in ")
    assert lines[-1] == "heat-map: chelsea-heat.png"
    assert cv2.imread("chelsea-heat.png").shape == cv2.imread(str(picture)).shape
    assert told.err == ""


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.png"
    words = ["--class", "tabby", "--inferences", "30", "--seed", "5", "-o", str(target), "--json"]
    assert run(str(model_file("efficientnet_lite0_int8.tflite")), str(model_file("chelsea.png")), *words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(told) == ["v", "model", "picture", "target", "method", "kept", "regions", "inferences", "seconds",
                          "seed", "heat_map"]  # fmt: skip
    assert (told["v"], told["method"], told["seed"]) == (1, "occlusion", 5)
    assert told["target"]["label"] == "tabby"
    assert told["target"]["class"] == 281
    assert 0 < told["inferences"] <= 30
    assert all(0 <= side <= 1 for region in told["regions"] for side in region["box"])
    assert target.is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "heat.jpg"], r"-o: the heat-map is a PNG; expected a name that ends in \.png; got heat\.jpg"),
        (["--inferences", "9"], "--inferences: too few inferences for a map; expected ≥ 24; got 9"),
        (["--index", "-1"], "expected a whole number from 0, got '-1'"),
        (["--threshold", "2"], "expected a number from 0 to 1, got '2'"),
        (["--class", "hovercraft"], "chelsea.png: no such label"),
    ],
)
def test_mistakes_are_told(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(DETECTOR, str(model_file("chelsea.png")), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_lower_threshold_has_more_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--threshold", "0.02", "--index", "1", "--inferences", "24", "-o", str(tmp_path / "a.png"), "--json"]
    assert run(DETECTOR, str(model_file("chelsea.png")), *words) == 0
    assert json.loads(capsys.readouterr().out)["target"]["score"] < 0.5
