"""Open sides of TFLite inputs are fixed in the file, and the runtime follows; formats of one bundle are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from edgerun.errors import ModelError
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.models import Bundle, Given, complete, fix_sizes, inspect, load
from edgerun.ports import EngineContext
from tests.infer.onnx_models import identity
from tests.infer.tflite_models import doubler
from tests.models.bundles import manifest, write_folder


def bare(tmp_path: Path, stated: list[int], shape: list[int] | None = None) -> Bundle:
    path = tmp_path / "net.tflite"
    path.write_bytes(doubler(shape or [max(side, 1) for side in stated], stated))
    return load(path)


@pytest.mark.parametrize("stated", [[1, -1, -1, 3], [-1, -1, -1, 3], [1, 3, -1, -1], [1, 48, -1, 3]])
def test_a_size_is_asked_for_and_then_runs(stated: list[int], tmp_path: Path) -> None:
    bundle = bare(tmp_path, stated)
    assert [need.flag for need in inspect(bundle, Given(decoder="segment", pixels="0..1")).ledger.needs[:1]] == [
        "--size WxH"
    ]
    fixed = fix_sizes(bundle, (64, 48))
    engine = TfliteEngine(Options(), EngineContext(fixed.model, "net"))
    wanted = (1, 3, 48, 64) if stated[1] == 3 else (1, 48, 64, 3)
    assert engine.inputs[0].shape == engine.outputs[0].shape == wanted
    x = np.random.default_rng(0).random(wanted, np.float32)
    assert (engine.infer((x,))[0] == 2 * x).all()
    assert complete(fixed, engine.inputs, engine.outputs, decoder="segment", pixels="0..1").picture.size == (64, 48)
    assert fix_sizes(fixed, (32, 32)) is fixed


def test_other_inputs_get_their_shape_from_the_manifest(tmp_path: Path) -> None:
    contents = {"m.tflite": doubler([1, 1, 40], [1, -1, 40])}
    more: dict[str, Any] = {
        "artifacts": [{"file": "m.tflite"}],
        "labels": None,
        "inputs": None,
        "decoder": {"kind": "anomaly"},
    }
    made = manifest(contents, **more, shapes={"x": [1, 98, 40]})
    fixed = fix_sizes(load(write_folder(tmp_path / "b", contents, made)))
    assert TfliteEngine(Options(), EngineContext(fixed.model, "m")).outputs[0].shape == (1, 98, 40)
    for wrong in ([1, 98, 41], [98, 40]):
        made = manifest(contents, **more, shapes={"x": wrong})
        with pytest.raises(ModelError, match=r"a shape it cannot have; expected x 1×\?×40; got"):
            fix_sizes(load(write_folder(tmp_path / str(len(wrong) + sum(wrong)), contents, made)))


def test_a_size_beyond_the_limit(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no device of this kind could hold"):
        fix_sizes(bare(tmp_path, [1, -1, -1, 3]), (16384, 16384))


def test_what_is_fixed_already_stays(tmp_path: Path) -> None:
    bundle = bare(tmp_path, [1, 8, 8, 3])
    assert fix_sizes(bundle, (64, 48)) is bundle
    assert fix_sizes(bundle) is bundle


def test_the_engines_format_chooses_the_file(tmp_path: Path) -> None:
    contents = {
        "m.tflite": doubler([1, 8, 8, 3], []),
        "m.onnx": identity(TensorProto.FLOAT, (1, 3, 8, 8)),
        "edge.tflite": b"x",
    }
    artifacts = [
        {"file": "edge.tflite", "for": ["edgetpu"]},
        {"file": "m.tflite", "for": ["cpu"]},
        {"file": "m.onnx", "for": ["cpu", "cuda"]},
    ]
    inputs = [{"name": "x:0", "layout": "NHWC", "mean": [0], "std": [255]}]
    made = manifest(contents, artifacts=artifacts, labels=None, inputs=inputs, decoder={"kind": "segment"})
    bundle = load(write_folder(tmp_path / "b", contents, made))
    assert bundle.format == "tflite"
    assert bundle.artifact_for("cpu", "onnx").file == bundle.artifact_for("cuda").file == "m.onnx"
    assert bundle.artifact_for("cpu").file == bundle.artifact_for("gpu").file == "m.tflite"
    assert bundle.of_format(None) is bundle
    onnx = bundle.of_format("onnx")
    assert (onnx.format, onnx.main.file, onnx.picture.layout, onnx.picture.mean) == ("onnx", "m.onnx", None, (0.0,))
    file = onnx.main.structure
    assert file is not None
    assert complete(onnx, file.inputs, file.outputs).picture.layout == "NCHW"
    with pytest.raises(ModelError, match=r"the bundle has no \.tflite file; expected one of m\.onnx"):
        onnx.of_format("tflite")
