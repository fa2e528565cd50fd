"""What users get wrong: each ends in one clear paragraph and the right exit code, never in a traceback or a hang."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import emulators, mosquitto
from tests.real_models import model_file
from tests.test_end_to_end import CLIP, DETECTOR, edgerun, summary_of


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are not what they are called."""
    folder = tmp_path_factory.mktemp("bad")
    model = model_file("efficientnet_lite0_int8.tflite").read_bytes()
    (folder / "truncated.tflite").write_bytes(model[: len(model) // 3])
    (folder / "text.tflite").write_text("hello\n")
    (folder / "empty.tflite").touch()
    (folder / "text.mp4").write_text("hello\n")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(CLIP.read_bytes()[:2000])
    (folder / "two-labels.txt").write_text("cat\ndog\n")
    (folder / "folder").mkdir()
    (folder / "bundle").mkdir()
    shutil.copytree(DETECTOR, folder / "tampered")
    with (folder / "tampered" / "model.tflite").open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    return folder


CLASSIFIER = "CLASSIFIER"

CASES = {
    "missing model": (["--model", "no.tflite", "--source", "synthetic"], 2, "no such file"),
    "truncated model": (["--model", "truncated.tflite", "--source", "synthetic"], 1, "refuses the model"),
    "text as model": (["--model", "text.tflite", "--source", "synthetic"], 1, "not a TensorFlow Lite model"),
    "empty model": (["--model", "empty.tflite", "--source", "synthetic"], 1, "an empty file"),
    "folder as model": (["--model", "bundle", "--source", "synthetic"], 1, "no manifest"),
    "tampered bundle": (["--model", "tampered", "--source", "synthetic"], 1, "model.tflite"),
    "wrong decoder": (["--model", CLASSIFIER, "--source", "synthetic", "--decoder", "ssd-anchors"], 1, "SSD head"),
    "unknown decoder": (["--model", CLASSIFIER, "--source", "synthetic", "--decoder", "yolo9"], 2, 'mean "yolo"'),
    "few labels": (["--model", CLASSIFIER, "--source", "synthetic", "--labels", "two-labels.txt"], 1, "1000 labels"),
    "missing video": (["--model", CLASSIFIER, "--source", "no.mp4"], 2, "no such file"),
    "text as video": (["--model", CLASSIFIER, "--source", "text.mp4"], 2, "text.mp4"),
    "empty video": (["--model", CLASSIFIER, "--source", "empty.mp4"], 2, "empty"),
    "video with no frames": (["--model", CLASSIFIER, "--source", "cut.mp4"], 2, "cut.mp4"),
    "folder without pictures": (["--model", CLASSIFIER, "--source", "folder"], 2, "no picture"),
    "no camera": (["--model", CLASSIFIER, "--source", "/dev/video77", "--seconds", "1"], 1, "no such camera"),
    "nobody at the camera's port": (
        ["--model", CLASSIFIER, "--source", "http://127.0.0.1:1/", "--seconds", "1"], 1, "Connection refused"
    ),
    "unwritable lines": (["--model", CLASSIFIER, "--source", "synthetic", "--jsonl", "no/r.jsonl"], 2, "no/r.jsonl"),
    "unwritable film": (["--model", CLASSIFIER, "--source", "synthetic", "--save", "no/f.mp4"], 2, "no/f.mp4"),
    "unwritable snapshot": (["--model", CLASSIFIER, "--source", "synthetic", "--snapshot", "no/s.jpg"], 2, "no/s.jpg"),
    "accelerator that is not here": (
        ["--model", CLASSIFIER, "--source", "synthetic", "--accelerators", "edgetpu"], 4, "edgetpu"
    ),
    "mistyped flag": (["--model", CLASSIFIER, "--source", "synthetic", "--max-pfs", "5"], 2, "--max-fps"),
    "nothing to run": (["--source", "synthetic"], 2, "--model"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "code", "says"), CASES.values(), ids=CASES)
def test_one_paragraph_and_the_right_exit_code(bad: Path, args: list[str], code: int, says: str) -> None:
    words = [str(model_file("efficientnet_lite0_int8.tflite")) if word == CLASSIFIER else word for word in args]
    done = edgerun("run", *words, "--quiet", cwd=bad)
    assert done.returncode == code, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("edgerun: ")]
    assert len(told) == 1, done.stderr
    assert re.search(re.escape(says), told[0]), told[0]
    assert "Traceback" not in done.stderr


def test_a_camera_that_never_answers_is_a_told_failure_not_a_hang() -> None:
    with emulators.start("mjpeg", "--never-answer") as silent:
        done = edgerun("run", "--model", DETECTOR, "--source", silent.url, "--seconds", 7, "--quiet")
    assert done.returncode == 1
    assert "not one frame came" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("fault", "failed"),
    [(("--corrupt-at", 5), {"decode": 1}), (("--resize-at", 5), {}), (("--half-frame-at", 5), {})],
    ids=["corrupt", "resize", "half"],
)
def test_a_camera_fault_in_mid_run_is_counted_or_recovered_from(fault: tuple[str, int], failed: dict[str, int]) -> None:
    with emulators.start("mjpeg", "--fps", 10, "--frames", 0, *fault) as camera:
        done = edgerun("run", "--model", DETECTOR, "--source", camera.url, "--seconds", 5, "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    stream = summary_of(done.stdout)["streams"]["main"]
    assert stream["published"] > 8
    assert stream.get("failed_reasons", {}) == failed


def test_an_unreadable_picture_in_a_folder_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((50, 80, 3), number, np.uint8))
    (tmp_path / "2.png").write_bytes(b"not a picture")
    done = edgerun("run", "--model", DETECTOR, "--source", tmp_path, "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    stream = summary_of(done.stdout)["streams"]["main"]
    assert (stream["grabbed"], stream["published"], stream["failed"]) == (4, 3, 1)


def test_a_broker_that_refuses_the_password_is_told_without_it() -> None:
    with mosquitto.broker_with_password("edgerun", "right") as broker:
        url = f"mqtt://edgerun:planted-secret-7@127.0.0.1:{broker.port}"
        done = edgerun("run", "--model", DETECTOR, "--source", CLIP, "--broker", url, "--seconds", 4, "--json", "-v")
    assert done.returncode == 0, done.stderr
    assert "planted-secret-7" not in done.stdout + done.stderr
    assert re.search(r"(?i)not authori[sz]ed|password", done.stderr), done.stderr
    assert summary_of(done.stdout)["streams"]["main"]["published"] > 0


def test_nan_scores_are_counted_failures(tmp_path: Path) -> None:
    """A real ONNX model that answers NaN: every frame is `failed` and accounted for; a run without a result says so."""
    from onnx import TensorProto, helper, save

    picture = helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 3, 32, 32])
    scores = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2])
    nodes = [
        helper.make_node("ReduceMean", ["in"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Slice", ["mean", "from", "to", "axis"], ["two"]),
        helper.make_node("Mul", ["two", "nan"], ["out"]),
    ]
    constants = [
        helper.make_tensor("from", TensorProto.INT64, [1], [0]),
        helper.make_tensor("to", TensorProto.INT64, [1], [2]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("nan", TensorProto.FLOAT, [1], [float("nan")]),
    ]
    graph = helper.make_graph(nodes, "nan", [picture], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    names = {"names": "{0: 'a', 1: 'b'}", "imgsz": "[32, 32]", "task": "classify"}
    model.metadata_props.extend([_prop(key, value) for key, value in names.items()])
    save(model, tmp_path / "nan.onnx")
    done = edgerun(
        "run", "--model", tmp_path / "nan.onnx", "--source", CLIP, "--as-fast", "--frames", 10, "--quiet", "--json"
    )
    assert done.returncode == 1, done.stderr
    assert "not one of 10 frames could be used: decode 10" in done.stderr
    stream = json.loads(done.stdout)["streams"]["main"]
    assert (stream["grabbed"], stream["failed"], stream["failed_reasons"]) == (10, 10, {"decode": 10})


def _prop(key: str, value: str) -> object:
    from onnx import StringStringEntryProto

    return StringStringEntryProto(key=key, value=value)
