"""`edgerun models inspect`: what was understood, from where, and what is still needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgerun.cli import models
from edgerun.cli.parser import Parser
from edgerun.errors import ConfigError, ModelError
from tests.infer import onnx_models
from tests.models.tflite_files import compiled_for_edge_tpu
from tests.real_models import model_file


def run(*words: str) -> int:
    parser = Parser(prog="edgerun models")
    models.add_arguments(parser)
    return models.run(parser.parse_args(words))


def classifier(path: Path) -> Path:
    """A float picture classifier that says nothing of itself."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Identity", ["m"], ["y"]),
    ]
    edges = [("x", TensorProto.FLOAT, (1, 3, "h", "w"))], [("y", TensorProto.FLOAT, (1, 3))]
    path.write_bytes(onnx_models.build(nodes, *edges, {"axes": np.array([2, 3])}))
    return path


def test_every_fact_has_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", str(model_file("efficientnet_lite0_int8.tflite"))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("efficientnet_lite0_int8.tflite: bare file efficientnet_lite0_int8, version aa03e4017f54")
    told = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert told["input"] == "  input    images 1×224×224×3 uint8, scale 0.012566, zero point 131"
    assert told["mean"].split() == ["mean", "127", "TFLite", "Metadata"]
    assert told["fit"].split() == ["fit", "stretch", "assumed"]
    assert told["size"].endswith("shape 1×224×224×3")
    assert "1000: tench, goldfish, great white shark … toilet tissue; 2 names twice" in told["labels"]
    assert lines[-1] == "Nothing is missing."


def test_what_is_needed_is_named_with_its_flag_and_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(classifier(tmp_path / "net.onnx"))
    run("inspect", path)
    out = capsys.readouterr().out
    assert "  must         the picture's size: --size WxH or inputs[0].size in manifest.json" in out
    assert out.endswith("It does not run yet: give what it must have.\n")
    run("inspect", path, "--size", "64x48")
    out = capsys.readouterr().out
    assert "  must         how pixels are normalised: --pixels 0..255|0..1|-1..1|imagenet or inputs[0].mean and" in out
    assert "  may          names for its classes: --labels FILE or labels in manifest.json" in out
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    run("inspect", path, "--size", "64x48", "--pixels", "imagenet", "--labels", str(tmp_path / "names.txt"), "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["v"], found["complete"], found["needs"]) == (1, True, [])
    facts = {one["key"]: (one["value"], one["from"]) for one in found["known"]}
    assert facts["size"] == ([64, 48], "--size")
    assert facts["mean"] == ([123.675, 116.28, 103.53], "--pixels")
    assert facts["labels"] == (["a", "b", "c"], "--labels")
    assert facts["decoder"] == ("classify", "outputs 1×3")
    assert found["assumed"] == ["colour order RGB", "stretched to the input's size"]


def test_state_and_constants_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", str(model_file("silero_vad.onnx")), "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["stateful"], found["state"], found["constants"]) == (True, [["state", "stateN"]], {"sr": 16000})
    run("inspect", str(model_file("silero_vad.onnx")))
    out = capsys.readouterr().out
    assert "  state    stateN → state\n  constant sr = 16000\n  stateful one stream only, in order\n" in out


def test_custom_ops_and_the_edge_tpu_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net_edgetpu.tflite"
    path.write_bytes(compiled_for_edge_tpu(model_file("image_classification.tflite")))
    run("inspect", str(path))
    out = capsys.readouterr().out
    assert "for edgetpu, sha256" in out
    assert "  custom   edgetpu-custom-op: the runtime must have them" in out


def test_the_bundled_model_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", "ssd-mobilenet-v2-oid")
    out = capsys.readouterr().out
    assert "bundle ssd-mobilenet-v2-oid, version" in out
    assert "manifest.json" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the following arguments are required: ACTION"),
        (("inspect",), "the following arguments are required: MODEL"),
        (("inspect", "m.tflite", "--size", "64"), "argument --size: not a size; expected WIDTHxHEIGHT"),
        (("inspect", "m.tflite", "--decoder", "yolo9"), 'unknown decoder kind; .* Did you mean "yolo"'),
    ],
)
def test_wrong_words(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*words)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("<html>not found</html>")
    with pytest.raises(
        ModelError, match="not a model of the format that its name says; expected a TensorFlow Lite model"
    ):
        run("inspect", str(tmp_path / "text.tflite"))
    with pytest.raises(ModelError, match=r"pixels are not normalised that way; expected --pixels 0..255"):
        run("inspect", str(model_file("visual_wake_words.tflite")), "--pixels", "0-1")
