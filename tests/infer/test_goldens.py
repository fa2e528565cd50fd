"""A bundle's own pictures find out an accelerator that is right with made-up ones."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgerun.app.opening import open_model
from edgerun.app.proving import golden_tensors
from edgerun.config import ModelConfig
from edgerun.errors import ModelError
from edgerun.infer.fallback import Fallback
from edgerun.infer.golden import golden_inputs
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.models import load
from edgerun.ports import EngineContext
from edgerun.types import Tensor
from tests.infer.conftest import Sick
from tests.real_models import model_file

PICTURES = ("apple.jpg", "chelsea.png", "messi5.jpg", "rocket.jpg", "motorcycle_left.png", "squirrel_cls.jpg")


@pytest.fixture
def pictures() -> list[Tensor]:
    """Photographs in the size of the classifier's input, RGB."""
    read = [cv2.imread(str(model_file(name))) for name in PICTURES]
    return [np.ascontiguousarray(cv2.resize(one, (32, 32), interpolation=cv2.INTER_AREA)[..., ::-1]) for one in read]


@pytest.fixture
def engine(classifier: bytes, closing: Callable[[Any], Any]) -> TfliteEngine:
    opened: TfliteEngine = closing(TfliteEngine(Options(), EngineContext(classifier, "net")))
    return opened


def class_of(engine: TfliteEngine, tensor: Tensor) -> int:
    return int(engine.infer([tensor])[0].argmax())


def write_bundle(folder: Path, model: bytes, pictures: list[Tensor], golden: bytes | None = None) -> Path:
    arrays = {f"input_{at}": picture for at, picture in enumerate(pictures)}
    arrays |= {f"scores_{at}": np.zeros(10, np.float32) for at in range(len(pictures))}
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    files = {"model.tflite": model, "golden.npz": golden if golden is not None else out.getvalue()}
    manifest = {
        "v": 1,
        "name": "net",
        "version": "1",
        "task": "classify",
        "files": {name: {"sha256": sha256(one).hexdigest(), "bytes": len(one)} for name, one in files.items()},
        "artifacts": [{"file": "model.tflite", "for": ["cpu", "external"]}],
        "inputs": [{"size": [32, 32], "layout": "NHWC", "color": "RGB", "fit": "stretch", "mean": [128], "std": [128]}],
        "decoder": {"kind": "classify"},
    }
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_golden_pictures_become_what_a_stream_would_give(
    tmp_path: Path, classifier: bytes, pictures: list[Tensor], engine: TfliteEngine
) -> None:
    path = write_bundle(tmp_path / "net", classifier, pictures)
    golden = golden_tensors(ModelConfig(path), load(path), engine)
    assert len(golden) == 4  # no more than a short proof needs
    for (tensor,), picture in zip(golden, pictures, strict=False):
        assert (tensor.shape, tensor.dtype) == ((1, 32, 32, 3), np.int8)
        assert (tensor[0] == (picture.astype(np.int16) - 128)).all()  # scale 1/128, zero point 0


def test_one_that_is_wrong_on_real_pictures_only_is_found_out(
    tmp_path: Path,
    classifier: bytes,
    sick: Sick,
    pictures: list[Tensor],
    engine: TfliteEngine,
    closing: Callable[[Any], Any],
) -> None:
    made_up = {class_of(engine, golden_inputs(engine.inputs, number)[0]) for number in (0, 1)}
    telling = [p for p in pictures if class_of(engine, (p.astype(np.int16) - 128).astype(np.int8)[None]) not in made_up]
    assert telling, "these pictures tell nothing that the made-up ones do not"
    order = (sick.declare("picky", spared=sum(1 << one for one in made_up)), "cpu")

    bare = tmp_path / "net.tflite"
    bare.write_bytes(classifier)
    taken = closing(open_model(ModelConfig(bare, accelerators=order)).engine)
    assert taken.info.accelerator == "external"  # proved with made-up pictures, with which it is right

    bundle = write_bundle(tmp_path / "net", classifier, telling)
    found_out = closing(open_model(ModelConfig(bundle, accelerators=order)).engine)
    assert isinstance(found_out, Fallback)
    ((kind, reason),) = found_out.info.fallbacks
    assert (found_out.info.accelerator, kind) == ("cpu", "external")
    assert "the accelerator's outputs are not those of the CPU" in reason

    sick.heal()
    well = closing(open_model(ModelConfig(bundle, accelerators=order)).engine)
    assert well.info.accelerator == "external"


def test_a_golden_file_that_holds_none_is_the_models_fault(
    tmp_path: Path, classifier: bytes, engine: TfliteEngine
) -> None:
    path = write_bundle(tmp_path / "net", classifier, [], golden=b"PK")
    with pytest.raises(ModelError, match="the golden file cannot be read"):
        golden_tensors(ModelConfig(path), load(path), engine)
