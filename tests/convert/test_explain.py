"""Heat lies on what carried the result: on real models and pictures, and where the truth is known by construction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgerun.config import ModelConfig
from edgerun.convert.explain import Explanation, Predictor, as_dict, explain
from edgerun.convert.heatmap import draw_heat, read_picture, write_picture
from edgerun.convert.likeness import Wanted, choose, iou
from edgerun.errors import ConfigError, ModelError
from edgerun.types import Answer, Box, Classification, Detection, Image, Quantity, Runs, Segment
from tests.infer import onnx_models
from tests.real_models import ROOT, model_file


@pytest.fixture(scope="module")
def detector() -> Iterator[Predictor]:
    with Predictor(ModelConfig(ROOT / "models" / "ssd-mobilenet-v2-oid")) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def classifier() -> Iterator[Predictor]:
    with Predictor(ModelConfig(model_file("efficientnet_lite0_int8.tflite"))) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def street() -> Image:
    video = cv2.VideoCapture(str(ROOT / "models" / "clips" / "street.mp4"))
    video.set(cv2.CAP_PROP_POS_FRAMES, 10)
    _, frame = video.read()
    video.release()
    return frame


@pytest.fixture(scope="module")
def cat() -> Image:
    return read_picture(model_file("chelsea.png"))


def inside(found: Explanation, box: Box) -> tuple[float, float]:
    """Share of the heat in the box, and the box's share of the picture."""
    height, width = found.heat.shape
    part = np.zeros(found.heat.shape, bool)
    part[int(box[1] * height) : int(box[3] * height), int(box[0] * width) : int(box[2] * width)] = True
    return float(found.heat[part].sum() / found.heat.sum()), float(part.mean())


def hottest(heat: np.ndarray) -> np.ndarray:
    """The hottest tenth of the pixels, no more where many are equally cold."""
    part = np.zeros(heat.size, bool)
    part[np.argsort(heat, axis=None, kind="stable")[::-1][: heat.size // 10]] = True
    return part.reshape(heat.shape)


def without(picture: Image, part: np.ndarray) -> Image:
    blanked = picture.copy()
    blanked[part] = picture.reshape(-1, 3).mean(axis=0).round()
    return blanked


def test_heat_of_a_detection_lies_on_the_object(detector: Predictor, street: Image) -> None:
    found = explain(detector, street, inferences=150, seed=3)
    assert (found.method, found.target.kind, found.target.label) == ("d-rise", "detections", "person")
    assert found.target.box is not None
    heat, area = inside(found, found.target.box)
    assert heat > 15 * area
    assert iou(found.regions[0].box, found.target.box) > 0.25
    assert found.regions[0].share > 0.3


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(index=1)])
def test_blanking_the_hottest_tenth_costs_more_than_blanking_any_tenth(
    detector: Predictor, street: Image, wanted: Wanted
) -> None:
    found = explain(detector, street, wanted, inferences=120)
    _, like = choose(detector.answer(street), wanted, detector.labels, "")
    random = np.random.default_rng(0)
    cells = [cv2.resize(random.random((12, 16)), found.heat.shape[::-1]) for _ in range(5)]
    others = [like(detector.fine_answer(without(street, hottest(cell)))) for cell in cells]
    left = like(detector.fine_answer(without(street, hottest(found.heat))))
    assert left < 0.5 * found.kept
    assert left < np.median(others)


def test_heat_of_a_class_lies_on_the_object(classifier: Predictor, cat: Image) -> None:
    found = explain(classifier, cat, inferences=120)
    assert (found.method, found.target.kind, found.target.label) == ("occlusion", "classes", "Egyptian cat")
    assert found.kept == pytest.approx(found.target.score, abs=0.01)
    face, area = inside(found, (0.1, 0.1, 0.9, 0.95))
    assert face > area
    _, like = choose(classifier.answer(cat), Wanted(), classifier.labels, "")
    random = np.random.default_rng(0)
    cells = [cv2.resize(random.random((12, 16)), found.heat.shape[::-1]) for _ in range(5)]
    others = [like(classifier.fine_answer(without(cat, hottest(cell)))) for cell in cells]
    assert like(classifier.fine_answer(without(cat, hottest(found.heat)))) < np.median(others)


def test_a_class_that_is_not_the_surest_can_be_asked_for(classifier: Predictor, cat: Image) -> None:
    found = explain(classifier, cat, Wanted("tabby"), inferences=24)
    assert (found.target.label, found.target.index) == ("tabby", 0)
    assert 0 < found.kept < 0.5


def test_heat_of_a_segment_is_where_its_mask_goes(cat: Image) -> None:
    with Predictor(ModelConfig(model_file("deeplabv3_257_fp32.tflite"))) as predictor:
        found = explain(predictor, cat, inferences=40)
    assert (found.target.kind, found.target.label, found.kept) == ("segments", "cat", 1.0)
    assert found.heat.max() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("inferences", [24, 61])
@pytest.mark.parametrize("which", ["detector", "classifier"])
def test_inferences_are_bounded_and_counted(
    which: str, inferences: int, cat: Image, request: pytest.FixtureRequest
) -> None:
    predictor: Predictor = request.getfixturevalue(which)
    before, told = predictor.inferences, []
    found = explain(predictor, cat, inferences=inferences, done=lambda done, total: told.append((done, total)))
    assert found.inferences == predictor.inferences - before <= inferences
    assert told[-1] == (found.inferences, inferences)
    assert found.inferences > 0.7 * inferences


def test_the_same_seed_gives_the_same_map(detector: Predictor, street: Image) -> None:
    one, same, other = (explain(detector, street, inferences=30, seed=seed).heat for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_large_picture_is_explained_at_a_smaller_size(classifier: Predictor, cat: Image) -> None:
    large = cv2.resize(cat, (2600, 1730))
    found = explain(classifier, large, inferences=24)
    assert found.heat.shape == (852, 1280)
    assert draw_heat(large, found).shape == large.shape


def test_mistakes_are_told(detector: Predictor, classifier: Predictor, cat: Image) -> None:
    with pytest.raises(ConfigError, match=r"cat.png: no such label; .* got --class catt. Did you mean \"cat\"\?"):
        explain(detector, cat, Wanted("catt"), where="cat.png")
    with pytest.raises(ConfigError, match="does not see that class"):
        explain(detector, cat, Wanted("bicycle"))
    with pytest.raises(ConfigError, match=r"expected --index 0\.\.0; got 3"):
        explain(detector, cat, Wanted(index=3))
    with pytest.raises(ConfigError, match="finds nothing in this picture"):
        explain(detector, np.full_like(cat, 90))
    with pytest.raises(ConfigError, match=r"--inferences: too few .* expected ≥ 24; got 5"):
        explain(classifier, cat, inferences=5)


@pytest.mark.parametrize("name", ["silero_vad.onnx", "tflite_micro_magic_wand.tflite"])
def test_a_model_that_takes_no_picture_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"remembers what came before|takes no picture|not a picture"):
        Predictor(ModelConfig(model_file(name)))


def build(path: Path, kind: str) -> Path:
    """The largest value of each colour as an embedding, or of all as one number, of 32×32 pictures of 0..1."""
    axes, shape = (np.array([2, 3]), (1, 3)) if kind == "embedding" else (np.array([1, 2, 3]), (1, 1))
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Reshape", ["m", "shape"], ["y"]),
    ]
    edges = [("x", TensorProto.FLOAT, (1, 3, 32, 32))], [("y", TensorProto.FLOAT, shape)]
    path.write_bytes(onnx_models.build(nodes, *edges, {"axes": axes, "shape": np.array(shape)}))
    return path


@pytest.mark.parametrize("kind", ["embedding", "regress"])
def test_heat_lies_on_the_only_part_that_can_count(tmp_path: Path, kind: str) -> None:
    picture = np.full((120, 160, 3), (120, 0, 0), np.uint8)
    picture[60:76, 100:116] = (0, 0, 250)  # the only red, and the brightest place
    with Predictor(ModelConfig(build(tmp_path / "net.onnx", kind), decoder=kind, pixels="0..1")) as predictor:
        found = explain(predictor, picture, inferences=200)
    heat, area = inside(found, (80 / 160, 48 / 120, 136 / 160, 88 / 120))
    x0, y0, x1, y1 = found.regions[0].box
    assert found.method == "occlusion"
    assert heat > 5 * area
    assert abs((x0 + x1) / 2 - 108 / 160) < 0.06
    assert abs((y0 + y1) / 2 - 68 / 120) < 0.06


def test_a_model_that_does_not_look_has_no_warm_part(tmp_path: Path, cat: Image) -> None:
    """0 · the mean + 0.7, whatever the picture."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "zero"], ["z"]),
        helper.make_node("Add", ["z", "answer"], ["y"]),
    ]
    edges = [("x", TensorProto.FLOAT, (1, 3, 32, 32))], [("y", TensorProto.FLOAT, (1, 3))]
    answer = np.array([[0.7, 0.2, 0.1]], np.float32)
    constants = {"axes": np.array([2, 3]), "zero": np.zeros(1, np.float32), "answer": answer}
    (tmp_path / "net.onnx").write_bytes(onnx_models.build(nodes, *edges, constants))
    with Predictor(ModelConfig(tmp_path / "net.onnx", pixels="0..1")) as predictor:
        found = explain(predictor, cat, inferences=24)
    assert (found.regions, found.kept, float(found.heat.max())) == ((), 0.7, 0.0)
    assert draw_heat(cat, found).shape == cat.shape


def test_the_map_is_drawn_and_written(detector: Predictor, cat: Image, tmp_path: Path) -> None:
    found = explain(detector, cat, inferences=24)
    drawn = draw_heat(cat, found)
    assert drawn.shape == cat.shape
    write_picture(tmp_path / "heat.png", drawn)
    assert np.array_equal(cv2.imread(str(tmp_path / "heat.png")), drawn)
    told = as_dict(found)
    assert (told["target"]["label"], told["method"], "heat" in told) == ("cat", "d-rise", False)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_picture(tmp_path / "none" / "heat.png", drawn)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    for name in ("a.png", "missing.png"):
        with pytest.raises(ConfigError, match=rf"{name}: .*expected a JPEG, PNG or other picture"):
            read_picture(tmp_path / name)


# How like one answer is to another.

shares = st.floats(0, 1).map(lambda value: round(value, 3))
boxes = st.tuples(shares, shares, shares, shares).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 0.01, max(b[1], b[3]) + 0.01)
)


@given(boxes, boxes)
def test_iou_is_symmetric_and_one_only_for_the_same_box(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1
    assert iou(a, a) == pytest.approx(1)


@given(boxes, boxes, shares, shares)
def test_a_detection_is_most_like_itself(a: Box, b: Box, sure: float, less: float) -> None:
    answer = Answer(detections=(Detection("cat", 3, max(sure, less), a),))
    _, like = choose(answer, Wanted(), (), "")
    assert like(answer) == pytest.approx(max(sure, less))
    moved = Answer(detections=(Detection("dog", 2, 1.0, a), Detection("cat", 3, min(sure, less), b)))
    assert like(moved) <= like(answer) + 1e-9
    assert like(Answer(detections=())) == 0


def test_likeness_of_every_kind_of_answer() -> None:
    runs = [Runs((2, 2), counts, (0, 0, 1, 1)) for counts in ((0, 4), (2, 2), (4,))]
    masks = [Answer(segments=(Segment("sky", 1, 0.5, runs=one),)) for one in runs]
    cases = [
        (Answer(classes=(Classification("a", 0, 0.9),)), Answer(classes=(Classification("b", 1, 0.9),)), 0.9, 0.0),
        (masks[0], masks[1], 1.0, 0.5),
        (masks[0], masks[2], 1.0, 0.0),
        (Answer(segments=(Segment("sky", 1, 0.5),)), Answer(segments=(Segment("sky", 1, 0.25),)), 1.0, 0.5),
        (Answer(segments=(Segment("sky", 1, 0.5),)), Answer(segments=()), 1.0, 0.0),
        (Answer(embedding=(1.0, 0.0)), Answer(embedding=(0.0, 2.0)), 1.0, 0.0),
        (Answer(embedding=(1.0, 0.0)), Answer(embedding=(1.0, 1.0)), 1.0, math.sqrt(0.5)),
        (Answer(value=4.0), Answer(value=3.0), 1.0, 0.75),
        (Answer(value=4.0), Answer(value=5.0), 1.0, 0.75),
        (Answer(values=(Quantity("t", 2.0, "°C"),)), Answer(values=(Quantity("t", 1.0, "°C"),)), 1.0, 0.5),
        (Answer(keypoints=((0.1, 0.1, 0.8), (0.4, 0.5, 0.0))), Answer(keypoints=()), 0.8, 0.0),
        (Answer(keypoints=((0.0, 0.0, 1.0), (0.3, 0.4, 1.0))), Answer(keypoints=((0.05, 0.0, 1.0), (0.3, 0.4, 1.0))),
         1.0, (1 + math.exp(-0.5)) / 2),
    ]  # fmt: skip
    for answer, other, itself, left in cases:
        _, like = choose(answer, Wanted(), (), "")
        assert (like(answer), like(other)) == (pytest.approx(itself), pytest.approx(left))


def test_a_number_is_a_label_first_and_then_a_class() -> None:
    digits = Answer(classes=(Classification("8", 7, 0.6), Classification("7", 6, 0.3), Classification("nine", 8, 0.1)))
    assert [choose(digits, Wanted(text), (), "")[0].class_id for text in ("7", "8", "nine")] == [6, 7, 8]
    assert choose(Answer(classes=(digits.classes or ())[2:]), Wanted("8"), (), "")[0].class_id == 8


def test_results_without_a_class_or_a_second_one() -> None:
    with pytest.raises(ConfigError, match="have no classes"):
        choose(Answer(value=1.0), Wanted("cat"), (), "p.jpg")
    with pytest.raises(ConfigError, match="one result for a picture"):
        choose(Answer(embedding=(1.0,)), Wanted(index=1), (), "p.jpg")
    target, _ = choose(Answer(values=(Quantity("a", 1.0), Quantity("b", 2.0, "kg"))), Wanted(index=1), (), "")
    assert (target.text, target.index) == ("b 2 kg", 1)
