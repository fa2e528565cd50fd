"""ONNX files that keep their weights in others: made whole by the rules of the folder or bundle, or refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerun.errors import ModelError
from edgerun.infer.onnx import OnnxEngine, Options
from edgerun.models import load
from edgerun.ports import EngineContext
from tests.models.bundles import manifest, write_folder, write_zip

WEIGHTS = np.arange(6000, dtype=np.float32).reshape(3, 2000)


def save(folder: Path, location: str = "net.onnx.data") -> tuple[bytes, bytes]:
    """y = x · w + b with both constants elsewhere; the model and the other file."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2000])],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(WEIGHTS[0] + 1, "b")],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, folder / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    if location != "net.onnx.data":
        tree = onnx.load(folder / "net.onnx", load_external_data=False)
        for tensor in tree.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == "location" else entry.value
        (folder / "net.onnx").write_bytes(tree.SerializeToString())
    return (folder / "net.onnx").read_bytes(), (folder / "net.onnx.data").read_bytes()


def run(model: bytes) -> Any:
    return OnnxEngine(Options(), EngineContext(model, "net")).infer((np.ones((1, 3), np.float32),))[0]


def test_a_bare_pair_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "models")
    monkeypatch.chdir(tmp_path)  # where a runtime would look for the weights
    bundle = load(tmp_path / "models" / "net.onnx")
    assert (run(bundle.model)[0] == WEIGHTS.sum(0) + WEIGHTS[0] + 1).all()
    assert bundle.sha256 == hashlib.sha256(bundle.model).hexdigest()


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_in_a_bundle_the_other_file_is_listed_and_verified(write: Any, tmp_path: Path) -> None:
    model, data = save(tmp_path / "made")
    contents = {"m/net.onnx": model, "m/net.onnx.data": data}
    more: dict[str, Any] = {"artifacts": [{"file": "m/net.onnx"}], "labels": None, "inputs": None}
    name = "b.zip" if write is write_zip else "b"
    assert (
        run(load(write(tmp_path / name, contents, manifest(contents, **more))).model)[0, 0] == WEIGHTS[:, 0].sum() + 1
    )
    missing = manifest({"m/net.onnx": model}, **more)
    with pytest.raises(ModelError, match=r"keeps weights in another file, which cannot be used; .* names a file that"):
        load(write(tmp_path / ("x" + name), contents, missing))
    tampered = {**contents, "m/net.onnx.data": data[:-1] + b"\xff"}
    with pytest.raises(ModelError, match=r"net\.onnx\.data: a file of the bundle is not the one its manifest lists"):
        load(write(tmp_path / ("y" + name), tampered, manifest(contents, **more)))


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "C:secret", "..\\secret", ""])
@pytest.mark.parametrize("bundled", [False, True])
def test_names_that_lead_outside_are_refused(location: str, bundled: bool, tmp_path: Path) -> None:
    model, data = save(tmp_path / "net", location)
    (tmp_path / "secret").write_bytes(data)
    path = tmp_path / "net" / "net.onnx"
    if bundled:
        contents = {"net.onnx": model, "net.onnx.data": data}
        more: dict[str, Any] = {"artifacts": [{"file": "net.onnx"}], "labels": None}
        path = write_folder(tmp_path / "b", contents, manifest(contents, **more))
    with pytest.raises(ModelError, match=r"cannot be used; .* names a file outside itself"):
        load(path)


def test_files_that_are_not_there_or_too_short(tmp_path: Path) -> None:
    save(tmp_path)
    data = tmp_path / "net.onnx.data"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(ModelError, match="the file of the model's weights is too short; expected"):
        load(tmp_path / "net.onnx")
    data.unlink()
    with pytest.raises(
        ModelError, match=r"expected 'net.onnx.data' beside it; got .*No such file.* Copy that file too"
    ):
        load(tmp_path / "net.onnx")


def test_a_constant_elsewhere_inside_a_node_is_refused(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "v")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["x", "c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [3])],
        [helper.make_tensor_value_info("y", 1, [3])],
    )
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelError, match=r"constants in another file, in a place .* got /etc/hostname"):
        load(tmp_path / "m.onnx")
