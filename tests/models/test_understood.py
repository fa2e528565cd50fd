"""Every model of the project's cache: what is understood without a manifest, and what has to be given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgerun.models import Given, Inspection, Signal, inspect, load
from edgerun.models.families import recognise, ssd_anchor_count
from edgerun.models.structure import Structure
from edgerun.types import TensorSpec
from tests.real_models import model_file

MODELS = (
    "ssd_mobilenetv2_oidv4_fp16.tflite",
    "efficientnet_lite0_int8.tflite",
    "deeplabv3_257_fp32.tflite",
    "face_detection_short_range.tflite",
    "visual_wake_words.tflite",
    "image_classification.tflite",
    "tflite_micro_magic_wand.tflite",
    "autoencoder_example.tflite",
    "fingerprint_signature_generator.tflite",
    "okay_nabu.tflite",
    "silero_vad.onnx",
)
FLAGS = {"fingerprint_signature_generator.tflite": Given(decoder="embedding")}
"""The one flag, where the file does not tell enough."""
GOLDEN = Path(__file__).parent / "understood.txt"


def row(name: str, found: Inspection) -> str:
    """One line of the table: what goes in and how, what reads it, where that comes from, what is missing."""
    bundle, known = found.bundle, {one.key: one for one in found.ledger.known}
    picture, signal = bundle.picture, bundle.signal
    if signal is not None:
        takes = f"{signal.samples} × {signal.channels}" + (f" at {signal.rate_hz:g} Hz" if signal.rate_hz else "")
        takes += f", {signal.features} features" if signal.features else ""
        origin = known["signal"].origin
    else:
        numbers = f"({picture.mean[0]:g}, {picture.std[0]:g})" if picture.mean and picture.std else "?"
        takes = f"{picture.size} {picture.color} {picture.layout} {picture.fit} {numbers}"
        origin = known["mean"].origin if "mean" in known else "nothing"
    decoder = f"{known['decoder'].value} ({known['decoder'].origin})" if "decoder" in known else "?"
    labels = f"{len(bundle.labels)} labels ({known['labels'].origin})" if bundle.labels else "no labels"
    memory = "; ".join(
        [*("state" for _ in found.recurrence.state), *(["variables"] if found.recurrence.variables else [])]
    )
    missing = [one.what for one in found.ledger.needs if "this version lacks" not in one.what]
    return " | ".join([name, f"{takes} ({origin})", decoder, labels, memory or "-", "; ".join(missing) or "nothing"])


def test_the_table_of_models(golden: Callable[[Path, str], None]) -> None:
    rows = ["model | takes (from) | decoder (from) | labels (from) | memory | to be given"]
    for name in MODELS:
        bundle = load(model_file(name))
        rows.append(row(name, inspect(bundle, Given())))
        if name in FLAGS:
            rows.append(row(f"{name} --decoder {FLAGS[name].decoder}", inspect(bundle, FLAGS[name])))
    golden(GOLDEN, "\n".join(rows) + "\n")


@pytest.mark.parametrize("name", MODELS)
def test_one_flag_is_enough(name: str) -> None:
    found = inspect(load(model_file(name)), FLAGS.get(name, Given()))
    missing = [one.what for one in found.ledger.needs if not one.optional and "this version lacks" not in one.what]
    assert missing == []


def test_the_default_ssd_has_as_many_anchors_as_its_paper_models() -> None:
    """TF Object Detection API: 1917 for 300×300, 2034 for 320×320."""
    assert [ssd_anchor_count((side, side)) for side in (300, 320)] == [1917, 2034]


def made(inputs: list[tuple[str, tuple[int, ...], str]], outputs: list[tuple[str, tuple[int, ...], str]]) -> Structure:
    return Structure(tuple(TensorSpec(*one) for one in inputs), tuple(TensorSpec(*one) for one in outputs))


@pytest.mark.parametrize(
    ("file", "decoder"),
    [
        (made([("x", (1, 192, 192, 3), "uint8")], [("y", (1, 1, 17, 3), "float32")]), "pose"),
        (
            made(
                [("input", (-1, -1), "f"), ("sr", (), "i"), ("h", (2, -1, 64), "f"), ("c", (2, -1, 64), "f")],
                [("output", (-1, 1), "f"), ("hn", (2, -1, 64), "f"), ("cn", (2, -1, 64), "f")],
            ),
            "vad",
        ),
        (made([("x", (1, 320, 320, 3), "f")], [("s", (1, 2034, 91), "f"), ("b", (1, 2034, 4), "f")]), "ssd-anchors"),
        (made([("x", (1, 300, 300, 3), "f")], [("s", (1, 1916, 91), "f"), ("b", (1, 1916, 4), "f")]), None),
        (made([("x", (1, 128, 128, 3), "f")], [("a", (1, 896, 1), "f"), ("b", (1, 896, 18), "f")]), None),
        (made([("x", (1, 3, 40), "int8")], [("y", (1, 1), "uint8")]), None),  # without state
        (made([], []), None),
    ],
)
def test_families_are_recognised_and_others_are_not(file: Structure, decoder: str | None) -> None:
    found = recognise(file)
    assert (found.decoder if found is not None else None) == decoder


def test_a_signal_says_what_one_inference_takes() -> None:
    found = inspect(load(model_file("tflite_micro_magic_wand.tflite")), Given())
    assert found.bundle.signal == Signal(samples=128, channels=3)
    assert found.bundle.labels == ("wing", "ring", "slope", "negative")
