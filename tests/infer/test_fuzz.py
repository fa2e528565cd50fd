"""Damaged models never crash the process that loads them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.infer.fuzz_loaders import mutated
from tests.real_models import ROOT, model_file

RUNS = 40


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tflite", "image_classification.tflite"),
        ("tflite", "face_detection_short_range.tflite"),
        ("tflite", "tflite_micro_magic_wand.tflite"),
        ("onnx", "silero_vad.onnx"),
    ],
)
def test_mutated_models_are_refused_or_run(kind: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.infer.fuzz_loaders", kind, str(model_file(name)), "0", str(RUNS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"mutation {last} ended it with {done.returncode}: {done.stderr[-500:]}"
    assert len(done.stdout.splitlines()) == RUNS


def test_mutations_are_the_same_each_time_and_differ() -> None:
    content = model_file("silero_vad.onnx").read_bytes()
    assert mutated(content, 7) == mutated(content, 7)
    assert len({mutated(content, number) for number in range(20)} | {content}) == 21
