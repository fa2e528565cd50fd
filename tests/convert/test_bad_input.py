"""What people get wrong, as they type it: the exit code, a paragraph that says what to do, and nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")

from edgerun.cli.main import main  # noqa: E402
from tests.convert.nets import CLASSES, colour_net, write_pictures  # noqa: E402
from tests.real_models import model_file  # noqa: E402

PLAIN = ("--mean", "0", "--std", "255", "--labels", "labels.txt", "--no-measure")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net, names of its classes, and pictures."""
    folder = tmp_path_factory.mktemp("whole")
    colour_net(folder / "net.onnx")
    write_pictures(folder / "frames", 24, 1)
    write_pictures(folder / "others", 24, 2)
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    return folder


@pytest.fixture
def ground(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    folder = tmp_path / "ground"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    return folder


def told(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """The paragraph on standard error; nothing else may be said, or have been made."""
    before = sorted(Path().rglob("*"))
    assert main(["convert", *words, "-o", "made"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("edgerun: ")
    assert said.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return said.err


def has(said: str, *parts: str) -> None:
    assert [part for part in parts if part not in said] == [], said


def test_files_that_are_no_pictures(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("frames/3.png", "frames/7.png"):
        Path(name).write_text(f"<html>{name} not found</html>")
    said = told(capsys, 2, "net.onnx", *PLAIN, "--calibrate", "frames", "--evaluate", "others")
    has(
        said,
        "2 of 24 items of the calibration set cannot be used",
        "frames/3.png",
        "frames/7.png",
        "Take them out",
    )


def test_three_pictures(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, 2, "net.onnx", *PLAIN, "--calibrate", "frames[0:3]", "--evaluate", "others")
    has(said, "the calibration set is too small to go by", "at least 10 items, better 100; got 3", "Record more")


def test_everything_black(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at, path in enumerate(sorted(Path("frames").glob("*.png"))):
        picture = np.zeros((20, 24, 3), np.uint8)
        picture[0, at] = 2
        cv2.imwrite(str(path), picture)
    said = told(capsys, 2, "net.onnx", *PLAIN, "--calibrate", "frames", "--evaluate", "others")
    has(said, "every item of the calibration set is black", "the lens was uncovered")


def test_one_picture_again_and_again(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path("frames").glob("*.png"):
        cv2.imwrite(str(path), np.zeros((20, 24, 3), np.uint8))
    said = told(capsys, 2, "net.onnx", *PLAIN, "--calibrate", "frames", "--evaluate", "others")
    has(said, "got 1, 23 items that were there twice count once")


def test_pictures_for_a_model_that_takes_none(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    faces = [helper.make_tensor_value_info(name, kind, [1, 8]) for name in ("row", "score")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["row", "w"], ["score"])], "g", faces[:1], faces[1:], [weights]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "rows.onnx")
    said = told(capsys, 2, "rows.onnx", "--no-measure", "--calibrate", "frames")
    has(
        said,
        "the set is of the wrong kind: the model takes windows of samples",
        ".npz: windows of 8 samples × 1 channels",
    )


def test_sides_that_are_left_open(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag that the message names is one that works."""
    model = onnx.load("net.onnx")
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, "open.onnx")
    words = ("open.onnx", *PLAIN, "--calibrate", "frames", "--evaluate", "others")
    said = told(capsys, 1, *words)
    has(said, "the input 'image' has sides that are left open: height, width", "--shape image=1,3,?,?")
    assert main(["convert", *words, "--shape", "image=1,3,16,16", "-o", "made"]) == 0
    assert main(["convert", *words, "--size", "16x16", "-o", "made-too"]) == 0


def test_a_shape_of_another_model(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, 2, "net.onnx", *PLAIN, "--calibrate", "frames", "--shape", "audio=1,16000")
    has(said, "no such input", "expected image", "got audio")
    said = told(capsys, 2, "net.onnx", *PLAIN, "--calibrate", "frames", "--shape", "image=1,0,2")
    has(said, "--shape", "INPUT=N,…")


def test_more_than_two_gibibytes(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("huge.onnx").open("wb") as file:
        file.truncate((2 << 30) + 1)
    said = told(capsys, 2, "huge.onnx", *PLAIN, "--calibrate", "frames")
    has(said, "too large to be converted", "at most 2 GiB", "got 2.1 GB", "smaller model of its family")


def test_labels_of_something_else(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(Path("named"), 24, 3, labelled=True)
    Path("named/red").rename("named/reed")
    said = told(capsys, 2, "net.onnx", *PLAIN, "--calibrate", "frames", "--evaluate", "named")
    has(said, "the set's labels are not those of the model", "got 'reed'", 'id you mean "red"')


def test_not_as_many_labels_as_classes(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels.txt").write_text("red\ngreen\n")
    said = told(capsys, 1, "net.onnx", *PLAIN, "--calibrate", "frames", "--evaluate", "others")
    has(said, "label", "3", "2")


def test_the_same_pictures_under_other_names(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at, path in enumerate(sorted(Path("frames").glob("*.png"))[:2]):
        shutil.copy(path, f"others/copy-{at}.png")
    said = told(capsys, 2, "net.onnx", *PLAIN, "--calibrate", "frames", "--evaluate", "others")
    has(said, "the evaluation set overlaps the calibration set", "others/copy-0.png")


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_an_operator_that_nothing_takes(kind: str, ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("net.onnx")
    model.graph.node[-1].output[0] = "flat"
    model.graph.node.append(
        onnx.helper.make_node("Secret", ["flat"], ["scores"], name="the_last", domain="com.example")
    )
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, "odd.onnx")
    said = told(capsys, 1, "odd.onnx", *PLAIN, "--calibrate", "frames", "--format", kind)
    has(said, "Secret", "the_last", "xport it without")


def test_an_operator_that_has_no_tflite_form(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("litert_quantizer", reason="TFLite is quantised by the extra `convert`")
    model = onnx.load("net.onnx")
    model.graph.node[-1].output[0] = "flat"
    model.graph.node.append(onnx.helper.make_node("Det", ["square"], ["det"], name="odd_one"))
    model.graph.node.insert(-1, onnx.helper.make_node("Reshape", ["c2", "four"], ["square"], name="fold"))
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["det"], ["sum"], name="sum", keepdims=0))
    model.graph.node.append(onnx.helper.make_node("Add", ["flat", "sum"], ["scores"], name="add"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 16, 16], np.int64), "four"))
    onnx.save(model, "odd.onnx")
    said = told(capsys, 1, "odd.onnx", *PLAIN, "--calibrate", "frames", "--format", "tflite")
    has(said, "Det", "odd_one", "--format onnx")


def test_a_model_with_memory(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(model_file("silero_vad.onnx"), ground)
    said = told(capsys, 1, "silero_vad.onnx", "--calibrate", "frames")
    has(said, "silero_vad: a model that carries state from call to call cannot be converted")


def test_a_model_that_is_quantised_already(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(model_file("efficientnet_lite0_int8.tflite"), ground)
    said = told(capsys, 1, "efficientnet_lite0_int8.tflite", "--calibrate", "frames")
    has(said, "the model is quantised already", "onvert the float model it was made from")


def test_a_tflite_model_as_onnx(ground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(model_file("face_detection_short_range.tflite"), "faces.tflite")
    said = told(capsys, 2, "faces.tflite", "--calibrate", "frames", "--format", "onnx")
    has(said, "faces.tflite: a TFLite model is not turned into ONNX", "--format tflite", "where the model was trained")


def test_no_room(ground: Path, capsys: pytest.CaptureFixture[str], make_disk: Callable[[str], Path]) -> None:
    disk = make_disk("4m")
    words = ["net.onnx", *PLAIN, "--calibrate", "frames", "--evaluate", "others", "-o", str(disk / "made")]
    assert main(["convert", *words]) == 4
    has(capsys.readouterr().err, "no room on the disk for the work", "ake room")
    assert list(disk.iterdir()) == []
