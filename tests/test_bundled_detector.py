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
    return SimpleNamespace(threshold=threshold, labels=labels, models=("detector",), snapshot=None)  # type: ignore[return-value]


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


def test_it_is_small_and_says_how_good_it_is(model: LoadedModel) -> None:
    manifest = json.loads((DETECTOR / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"]["model.tflite"]["bytes"] == (DETECTOR / "model.tflite").stat().st_size <= 6_000_000
    accuracy = manifest["measured"]["accuracy"]
    assert accuracy["metric"] == "recall"
    assert accuracy["detections"] > 300
    assert 0.99 <= accuracy["value"] <= 1
    assert accuracy["extra"] <= 0.02
    assert manifest["source"]["license"] == "Apache-2.0"
    assert (DETECTOR / "LICENSE").is_file()


def test_its_report_is_that_of_this_file() -> None:
    report = json.loads((DETECTOR / "report.json").read_text(encoding="utf-8"))
    manifest = json.loads((DETECTOR / "manifest.json").read_text(encoding="utf-8"))
    assert report["passed"] is True
    assert report["quality"]["value"] == pytest.approx(manifest["measured"]["accuracy"]["value"], abs=1e-4)
    precisions = {layer["precision"] for layer in report["layers"]}
    assert "int8" in precisions
    assert len(precisions) > 1  # mixed: the search left what the gate needs in higher precision


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
