"""The detector that ships: what its bundle promises holds when edgerun itself runs it, and the wheel carries it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgerun.app.opening import LoadedModel, open_decoder, open_model
from edgerun.config import ModelConfig, StreamConfig

ROOT = Path(__file__).parent.parent
DETECTOR = ROOT / "models" / "ssd-mobilenet-v2-oid"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return open_model(ModelConfig(path=DETECTOR, threads=1))


def stream(threshold: float, *labels: str) -> StreamConfig:
    return SimpleNamespace(threshold=threshold, labels=labels, models=("detector",))  # type: ignore[return-value]


@pytest.mark.parametrize("case", range(3))
def test_golden_pictures_give_the_golden_detections(model: LoadedModel, case: int) -> None:
    """From the picture to boxes through preprocess, engine and decoder; int8 may differ by a few steps elsewhere."""
    golden = np.load(DETECTOR / "golden.npz")
    tensor, placement = model.preprocess.prepare(np.ascontiguousarray(golden[f"input_{case}"][..., ::-1]))
    found = open_decoder("main", model, stream(0.45)).decode(model.engine.infer((tensor,)), placement).detections
    assert found is not None
    certain = golden[f"scores_{case}"] >= 0.55
    for box, number, score in zip(
        golden[f"boxes_{case}"][certain],
        golden[f"classes_{case}"][certain],
        golden[f"scores_{case}"][certain],
        strict=True,
    ):
        same = [one for one in found if one.class_id == number and np.allclose(one.box, box, atol=0.03)]
        assert same, f"{number} at {box} is not among {found}"
        assert min(abs(one.score - score) for one in same) < 0.05
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_it_is_small_and_int8_and_says_how_good_it_is(model: LoadedModel) -> None:
    manifest = json.loads((DETECTOR / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"]["model.tflite"]["bytes"] == (DETECTOR / "model.tflite").stat().st_size <= 6_000_000
    assert model.engine.inputs[0].dtype == "int8"
    everything = manifest["measured"]["accuracy"]["sets"]["all"]
    assert everything["float_detections"] > 300
    assert 0 < everything["recall"] <= 1
    assert manifest["source"]["license"] == "Apache-2.0"
    assert (DETECTOR / "LICENSE").is_file()


def test_preprocessing_it_is_a_subtraction(model: LoadedModel) -> None:
    """The manifest's mean makes the quantised input pixel − 128, so that the cheap path of the preprocessor applies."""
    picture = np.random.default_rng(7).integers(0, 256, (300, 300, 3), np.uint8)
    tensor, _ = model.preprocess.prepare(picture)
    assert np.array_equal(tensor[0].astype(int), picture[..., ::-1].astype(int) - 128)


def test_the_wheel_carries_what_the_demo_needs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    bundle = "edgerun/_bundled/ssd-mobilenet-v2-oid"
    assert {f"{bundle}/{name}" for name in ("manifest.json", "model.tflite", "labels.txt", "LICENSE")} <= names
    assert {"edgerun/_bundled/clips/street.mp4", "edgerun/_bundled/clips/LICENSE", "edgerun/__main__.py"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "tools/", ".cache"))]
