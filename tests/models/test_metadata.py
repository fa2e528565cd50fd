"""What TFLite Metadata and MLTK's parameters say is found, in files made field by field."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import ModelError
from edgerun.models import complete, load
from edgerun.models.calibration import parse_calibration
from edgerun.models.mltk import read_parameters
from edgerun.models.tflite_metadata import read_tflite_metadata
from tests.models.tflite_files import flatbuffer, with_metadata
from tests.real_models import model_file

PICTURE = model_file("image_classification.tflite").read_bytes()
LABELS = "\n".join(f"class {at}" for at in range(10)).encode()
LINES = b"0.9,2,0.5,0.1\n\n1,1,0\n" + b"1,1,0\n" * 7


def metadata(**changes: Any) -> bytes:
    """ModelMetadata with an image input that is normalised and an output with labels, threshold and calibration."""
    given_input = {
        0: "image",
        3: {0: ("B", 2), 1: {0: ("b", 1), 1: {0: ("I", 32), 1: ("I", 32)}}},
        4: [{0: ("B", 1), 1: {0: [127.5], 1: [63.75]}}],
    }
    output = {
        0: "probability",
        1: "One for each class.",
        4: [{0: ("B", 3), 1: {0: ("f", 0.25)}}, {0: ("B", 2), 1: {0: ("b", 1), 1: ("f", 0.125)}}],
        6: [{0: "labels.txt", 2: ("b", 2)}, {0: "calibration.csv", 2: ("b", 4)}],
    }
    tree = {0: "A net", 1: "What it does.", 2: "v7", 3: [{2: [given_input], 3: [output]}], 4: "Its maker", 5: "MIT"}
    return flatbuffer({**tree, **changes})


def test_everything_that_metadata_can_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(with_metadata(PICTURE, metadata(), {"labels.txt": LABELS, "calibration.csv": LINES}))
    found = read_tflite_metadata(path.read_bytes(), "m")
    assert found is not None
    assert (found.mean, found.std, found.color, found.size, found.threshold) == (
        (127.5,),
        (63.75,),
        "RGB",
        (32, 32),
        0.25,
    )
    assert (found.labels_file, found.calibration_file, found.calibration_of) == ("labels.txt", "calibration.csv", "log")
    assert found.calibration_default == 0.125
    assert found.about == {
        "name": "A net",
        "description": "What it does.",
        "version": "v7",
        "author": "Its maker",
        "license": "MIT",
    }
    bundle = load(path)
    file = bundle.main.structure
    assert file is not None
    with caplog.at_level(logging.WARNING):
        made = complete(bundle, file.inputs, file.outputs)
    assert (made.picture.mean, made.picture.std, made.threshold) == ((127.5,), (63.75,), 0.25)
    assert made.labels is not None
    assert made.labels[9] == "class 9"
    assert made.calibration is not None
    assert made.calibration.lines[:3] == ((0.9, 2.0, 0.5, 0.1), None, (1.0, 1.0, 0.0, None))
    assert "has a score calibration, which is not applied" in caplog.text


def test_sound_is_told_by_its_rate() -> None:
    audio = flatbuffer({3: [{2: [{3: {0: ("B", 4), 1: {0: ("I", 16000), 1: ("I", 1)}}}]}]})
    found = read_tflite_metadata(with_metadata(PICTURE, audio, {}), "m")
    assert found is not None
    assert (found.rate_hz, found.channels, found.color) == (16000, 1, None)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labels.txt": LABELS}, "names a score calibration that is not in the file; expected 'calibration.csv'"),
        ({"calibration.csv": LINES}, "names labels that is not in the file"),
        ({"labels.txt": LABELS, "calibration.csv": b"1,2\n"}, r"calibration\.csv:1: not a line of a score calibration"),
        ({"labels.txt": LABELS, "calibration.csv": b"\n-1,2,3\n"}, r"calibration\.csv:2: not a line"),
        ({"labels.txt": LABELS, "calibration.csv": b"nan,2,3\n"}, "not a line"),
        ({"labels.txt": LABELS, "calibration.csv": b"\xff"}, "calibration is not text"),
    ],
)
def test_metadata_that_contradicts_itself(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(with_metadata(PICTURE, metadata(), files))
    bundle = load(path)
    assert bundle.main.structure is not None
    with pytest.raises(ModelError, match=message):
        complete(bundle, bundle.main.structure.inputs, bundle.main.structure.outputs)


@pytest.mark.parametrize(("mean", "std"), [([0.0], [0.0]), ([1.0, 2.0], [1.0]), ([math.inf], [1.0])])
def test_normalisation_that_cannot_be(mean: list[float], std: list[float], tmp_path: Path) -> None:
    wrong = flatbuffer({3: [{2: [{4: [{0: ("B", 1), 1: {0: mean, 1: std}}]}]}]})
    path = tmp_path / "net.tflite"
    path.write_bytes(with_metadata(PICTURE, wrong, {}))
    bundle = load(path)
    assert bundle.main.structure is not None
    with pytest.raises(ModelError, match=r"the model's (mean|std) cannot be used; expected 1 or 3 numbers"):
        complete(bundle, bundle.main.structure.inputs, bundle.main.structure.outputs)


@given(
    st.lists(st.floats(0.0, 1.0, width=32), min_size=3, max_size=3),
    st.sampled_from(["identity", "log", "logit"]),
    st.floats(-5, 5),
    st.floats(-5, 5),
)
def test_calibration_is_the_formula_of_the_schema(scores: list[float], of: Any, slope: float, offset: float) -> None:
    text = f"0.75,{slope!r},{offset!r}\n\n0.75,{slope!r},{offset!r},0.5"
    got = parse_calibration(text.encode(), of, 0.25, "m").apply(np.array(scores, np.float32))

    def g(x: float) -> float:
        lifted, rest = max(x, 1e-30), max(1 - x, 1e-30)
        return x if of == "identity" else math.log(lifted) - (math.log(rest) if of == "logit" else 0)

    def f(x: float) -> float:
        return 0.75 / (1 + math.exp(min(700, -(slope * g(x) + offset))))

    wanted = [f(scores[0]), 0.25, f(scores[2]) if scores[2] > 0.5 else 0.25]
    assert got == pytest.approx(wanted, abs=1e-6)


def test_calibration_of_another_number_of_classes() -> None:
    with pytest.raises(ModelError, match="for another number of classes; expected 1"):
        parse_calibration(b"1,1,1", "identity", 0.0, "m").apply(np.zeros(2, np.float32))


def test_mltk_parameters() -> None:
    found = read_parameters(model_file("visual_wake_words.tflite").read_bytes(), "m")
    assert found is not None
    assert found["classes"] == ("person", "non_person")
    assert not found["samplewise_norm.rescale"]
    assert read_parameters(model_file("efficientnet_lite0_int8.tflite").read_bytes(), "m") is None
    made = flatbuffer({1: [{0: "k", 1: ("B", 12), 2: {0: "v"}}, {0: "f", 1: ("B", 10), 2: {0: ("f", 0.5)}}]})
    assert read_parameters(with_metadata(PICTURE, made, {}, b"SL_PARAMSv1"), "m") == {"k": "v", "f": 0.5}
