"""What a bare file tells is used, what it does not tell is asked for by name, and assumptions are said aloud."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from onnx import TensorProto

from edgerun.errors import ModelError
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.models import Bundle, PictureInput, complete, load
from edgerun.models.bundle import Artifact
from edgerun.models.onnx_metadata import read_metadata_props
from edgerun.models.tflite_metadata import read_tflite_metadata
from edgerun.ports import EngineContext
from edgerun.types import TensorSpec
from tests.infer.onnx_models import identity
from tests.real_models import model_file

ULTRALYTICS = {"names": "{0: 'person', 1: 'car'}", "imgsz": "[64, 96]", "task": "detect", "stride": "32"}
FLOAT = TensorSpec("images", (1, 3, 64, 96), "float32")
YOLO_8 = TensorSpec("output0", (1, 6, 126), "float32")
SCORES = TensorSpec("scores", (1, 10), "float32")


def bare(content: bytes = b"", kind: str = "tflite", **known: Any) -> Bundle:
    artifact = Artifact(f"m.{kind}", kind, ("cpu",), content, "0" * 64)  # type: ignore[arg-type]
    return Bundle("m", "1", (artifact,), bare=True, **known)


def said(**known: Any) -> Bundle:
    """A bundle whose manifest gives `known` of its picture."""
    return msgspec.structs.replace(bare(picture=PictureInput(**known)), bare=False)


def test_tflite_metadata_gives_normalisation_labels_and_all(caplog: pytest.LogCaptureFixture) -> None:
    path = model_file("efficientnet_lite0_int8.tflite")
    engine = TfliteEngine(Options(), EngineContext(path, "lite0"))
    with caplog.at_level(logging.WARNING):
        bundle = complete(load(path), engine.inputs, engine.outputs)
    assert (bundle.decoder, bundle.task, bundle.top_k) == ("classify", "classify", 5)
    assert bundle.picture == PictureInput("images", (224, 224), "NHWC", "RGB", "stretch", (127.0,), (128.0,))
    assert bundle.labels is not None
    assert (len(bundle.labels), bundle.labels[0], bundle.labels[281]) == (1000, "tench", "tabby")
    (record,) = caplog.records
    assert record.getMessage() == (
        "model efficientnet_lite0_int8 does not say all of how it wants pictures; assumed: stretched to the input's "
        "size (a bundle's manifest.json can say it)"
    )


def test_a_segmenter_is_known_by_its_mask() -> None:
    path = model_file("deeplabv3_257_fp32.tflite")
    engine = TfliteEngine(Options(), EngineContext(path, "deeplab"))
    bundle = complete(load(path), engine.inputs, engine.outputs)
    assert (bundle.decoder, bundle.task, bundle.picture.mean) == ("segment", "segment", (127.5,))
    assert bundle.labels is not None
    assert (len(bundle.labels), bundle.labels[15]) == (21, "person")


def test_metadata_cut_or_turned_over_is_an_error_or_absent_but_never_a_crash() -> None:
    model = model_file("efficientnet_lite0_int8.tflite").read_bytes()
    assert read_tflite_metadata(model, "m") is not None
    head = bytearray(model[:200_000])
    for at in range(0, 4000, 37):
        changed = head.copy()
        changed[at] ^= 0xFF
        for content in (bytes(changed) + model[200_000:], bytes(changed)):
            try:
                read_tflite_metadata(content, "m")
            except ModelError as error:
                assert "metadata cannot be read" in str(error)  # noqa: PT017


def test_a_model_without_metadata_has_none() -> None:
    assert read_tflite_metadata(model_file("visual_wake_words.tflite").read_bytes(), "m") is None


def test_ultralytics_onnx_tells_everything(caplog: pytest.LogCaptureFixture) -> None:
    content = identity(TensorProto.FLOAT, (1, 3, 64, 96), ULTRALYTICS)
    bundle = complete(bare(content, "onnx"), [FLOAT], [YOLO_8])
    assert bundle.picture == PictureInput("images", (96, 64), "NCHW", "RGB", "letterbox", (0.0,), (255.0,))
    assert (bundle.decoder, bundle.task, bundle.labels, bundle.threshold) == ("yolo", "detect", ("person", "car"), 0.5)
    assert caplog.records == []


def test_ultralytics_pose_tells_its_keypoints_and_segments_want_a_decoder() -> None:
    props = {**ULTRALYTICS, "names": "{0: 'dog'}", "task": "pose", "kpt_shape": "[24, 3]"}
    output = TensorSpec("output0", (1, 4 + 1 + 72, 126), "float32")
    bundle = complete(bare(identity(TensorProto.FLOAT, (1, 3, 64, 96), props), "onnx"), [FLOAT], [output])
    assert (bundle.decoder, bundle.decoder_options, bundle.task) == ("yolo-pose", {"keypoints": 24}, "pose")
    content = identity(TensorProto.FLOAT, (1, 3, 64, 96), {**ULTRALYTICS, "task": "segment"})
    outputs = [TensorSpec("output0", (1, 38, 126), "float32"), TensorSpec("output1", (1, 32, 16, 24), "float32")]
    with pytest.raises(ModelError, match="needs a decoder yolo-segment, which this version lacks"):
        complete(bare(content, "onnx"), [FLOAT], outputs)


@pytest.mark.parametrize(
    ("pixels", "mean", "std"),
    [
        ("0..255", (0.0,), (1.0,)),
        ("-1..1", (127.5,), (127.5,)),
        ("imagenet", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_one_flag_says_how_pixels_are_normalised(pixels: str, mean: Any, std: Any) -> None:
    bundle = complete(bare(), [TensorSpec("x", (1, 96, 96, 3), "float32")], [SCORES], pixels=pixels)
    assert (bundle.picture.mean, bundle.picture.std) == (mean, std)


def test_open_sides_take_the_size_of_the_metadata() -> None:
    content = identity(TensorProto.FLOAT, (1, 3, "h", "w"), ULTRALYTICS)
    open_spec = TensorSpec("images", (-1, 3, -1, -1), "float32")
    assert complete(bare(content, "onnx"), [open_spec], [YOLO_8]).picture.size == (96, 64)
    with pytest.raises(ModelError, match=r"the input's size is open; expected inputs\[0\]\.size"):
        complete(bare(identity(TensorProto.FLOAT, (1,)), "onnx"), [open_spec], [YOLO_8])


def test_ultralytics_tflite_keeps_its_facts_in_a_zip_behind_the_model() -> None:
    spec = TensorSpec("images", (1, 64, 96, 3), "float32")
    facts = {"names": {"0": "person", "1": "car"}, "imgsz": [64, 96], "task": "detect"}
    for name, text in (("metadata.json", json.dumps(facts)), ("temp_meta.txt", str(facts))):
        tail = io.BytesIO()
        with zipfile.ZipFile(tail, "w") as archive:
            archive.writestr(name, text)
        bundle = complete(bare(b"\x1c\0\0\0TFL3" + bytes(64) + tail.getvalue()), [spec], [YOLO_8])
        assert (bundle.decoder, bundle.labels, bundle.picture.fit) == ("yolo", ("person", "car"), "letterbox")


@pytest.mark.parametrize("names", ["{0: 'a', 2: 'c'}", "{1: 'a'}"])
def test_class_names_with_gaps_are_refused(names: str) -> None:
    content = identity(TensorProto.FLOAT, (1,), {**ULTRALYTICS, "names": names})
    with pytest.raises(ModelError, match="class names in the metadata have gaps"):
        complete(bare(content, "onnx"), [FLOAT], [YOLO_8])


def test_metadata_props_of_a_file_cut_short() -> None:
    content = identity(TensorProto.FLOAT, (1, 3, 64, 96), ULTRALYTICS)
    assert read_metadata_props(content, "m")["imgsz"] == "[64, 96]"
    with pytest.raises(ModelError, match="the ONNX file cannot be read"):
        read_metadata_props(content[:-3], "m")


@pytest.mark.parametrize(
    ("outputs", "decoder"),
    [
        ([YOLO_8], "yolo"),
        ([TensorSpec("o", (1, 126, 6), "float32")], "yolo"),
        ([TensorSpec("o", (1, 378, 7), "float32")], "yolo"),
        ([SCORES], "classify"),
        ([TensorSpec("s", (1, 1, 1, 1001), "uint8")], "classify"),
        ([TensorSpec("mask", (1, 64, 96, 21), "float32")], "segment"),
        ([TensorSpec("mask", (1, 21, 32, 48), "float32")], "segment"),
        (
            [TensorSpec(f"o{i}", shape, "float32") for i, shape in enumerate([(1, 10), (1,), (1, 10, 4), (1, 10)])],
            "tflite-detection-postprocess",
        ),
        (
            [TensorSpec(f"TFLite_Detection_PostProcess:{i}", (), "float32") for i in range(4)],
            "tflite-detection-postprocess",
        ),
    ],
)
def test_the_outputs_tell_the_decoder(outputs: list[TensorSpec], decoder: str) -> None:
    spec = TensorSpec("x", (1, 64, 96, 3), "uint8")
    assert complete(bare(), [spec], outputs).decoder == decoder


@pytest.mark.parametrize(
    "outputs",
    [
        [TensorSpec("boxes", (1, 1917, 4), "float32"), TensorSpec("scores", (1, 1917, 24), "float32")],
        [TensorSpec("mask", (1, 60, 90, 21), "float32")],
        [TensorSpec("rebuilt", (1, 64, 96, 3), "float32")],
        [TensorSpec("o", (1, 127, 6), "float32")],
        [TensorSpec("one", (1, 1), "float32")],
        [SCORES, SCORES],
    ],
)
def test_outputs_that_leave_a_doubt_are_asked_about(outputs: list[TensorSpec]) -> None:
    spec = TensorSpec("x", (1, 64, 96, 3), "uint8")
    with pytest.raises(ModelError, match="expected --decoder KIND"):
        complete(bare(), [spec], outputs)
    assert complete(bare(), [spec], outputs, decoder="ssd-anchors").decoder == "ssd-anchors"


def test_what_is_given_wins_over_what_is_known() -> None:
    bundle = said(mean=(0.0,), std=(255.0,), color="BGR", fit="crop", layout="NCHW")
    known = msgspec.structs.replace(
        bundle, decoder="yolo", decoder_options={"iou": 0.7}, labels=("a", "b"), threshold=0.3
    )
    kept = complete(known, [FLOAT], [YOLO_8])
    assert (kept.decoder, kept.decoder_options, kept.labels, kept.threshold) == ("yolo", {"iou": 0.7}, ("a", "b"), 0.3)
    changed = complete(known, [FLOAT], [SCORES], decoder="classify", labels=("x",), threshold=0.0, top_k=3)
    assert (changed.decoder, changed.decoder_options, changed.labels) == ("classify", {}, ("x",))
    assert (changed.threshold, changed.top_k) == (0.0, 3)


def test_a_float_input_without_metadata_is_asked_about_not_guessed() -> None:
    with pytest.raises(ModelError, match=r"inputs\[0\]\.mean and inputs\[0\]\.std"):
        complete(bare(), [TensorSpec("x", (1, 96, 96, 3), "float32")], [SCORES])
    with pytest.raises(ModelError, match="mean without std"):
        complete(said(mean=(0.0,)), [TensorSpec("x", (1, 96, 96, 3), "float32")], [SCORES])


@pytest.mark.parametrize(
    ("spec", "decoder", "mean", "std", "words"),
    [
        (TensorSpec("x", (1, 64, 96, 3), "uint8", (0.5,), (10,)), "classify", 10.0, 2.0, "raw pixels"),
        (TensorSpec("x", (1, 64, 96, 3), "uint8"), "classify", 0.0, 1.0, "raw pixels"),
        (TensorSpec("x", (1, 64, 96, 3), "int8", (0.25,), (-128,)), "classify", 0.0, 4.0, "pixels less 128"),
        (TensorSpec("x", (1, 64, 96, 3), "float32"), "yolo", 0.0, 255.0, r"pixels / 255 \(0\.\.1\)"),
    ],
)
def test_what_is_assumed_is_said(
    spec: TensorSpec, decoder: str, mean: float, std: float, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        bundle = complete(bare(), [spec], [SCORES], decoder=decoder, labels=("x",))
    assert (bundle.picture.mean, bundle.picture.std) == ((mean,), (std,))
    (record,) = caplog.records
    assert words.replace("\\", "") in record.getMessage()
    assert "colour order RGB" in record.getMessage()


def test_no_labels_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bundle = complete(bare(), [TensorSpec("x", (1, 8, 8, 1), "uint8")], [SCORES])
    assert bundle.labels == ()
    assert bundle.picture.color == "GRAY"
    assert any("give --labels FILE" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "not a model for pictures; .*; got no inputs"),
        ([FLOAT, FLOAT], "not a model for pictures"),
        ([TensorSpec("x", (1, 16000), "float32")], "not a model for pictures"),
        ([TensorSpec("x", (1, 3, 8, 3), "uint8")], r'expected inputs\[0\]\.layout "NHWC" or "NCHW"'),
        ([TensorSpec("x", (1, 8, 8, 4), "uint8")], r'expected inputs\[0\]\.layout "NHWC" or "NCHW"'),
    ],
)
def test_inputs_that_take_no_picture(inputs: list[TensorSpec], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        complete(bare(), inputs, [SCORES])


def test_a_manifest_for_another_input_is_refused() -> None:
    with pytest.raises(ModelError, match="describes another input"):
        complete(said(name="data"), [FLOAT], [YOLO_8])


def test_a_file_goes_in_and_a_runnable_description_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "yolo.onnx"
    path.write_bytes(identity(TensorProto.FLOAT, (1, 3, 64, 96), ULTRALYTICS))
    bundle = complete(load(path), [FLOAT], [YOLO_8])
    assert (bundle.name, bundle.format) == ("yolo", "onnx")
