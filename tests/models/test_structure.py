"""What is read straight from a file is what its runtime says of it, and what no device could hold is refused unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerun.errors import ModelError
from edgerun.infer.onnx import OnnxEngine
from edgerun.infer.onnx import Options as OnnxOptions
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.models import load
from edgerun.models.onnx_structure import read_onnx
from edgerun.models.tflite_structure import read_tflite
from edgerun.ports import EngineContext
from tests.infer import onnx_models
from tests.models.tflite_files import changed, compiled_for_edge_tpu
from tests.real_models import ROOT, model_file

TFLITES = (
    "ssd_mobilenetv2_oidv4_fp16.tflite",
    "efficientnet_lite0_int8.tflite",
    "deeplabv3_257_fp32.tflite",
    "face_detection_short_range.tflite",
    "visual_wake_words.tflite",
    "tflite_micro_magic_wand.tflite",
    "image_classification.tflite",
)
DETECTOR = ROOT / "models" / "ssd-mobilenet-v2-oid" / "model.tflite"


@pytest.mark.parametrize("name", [*TFLITES, "the detector that ships"])
def test_a_tflite_file_has_the_edges_that_its_runtime_sees(name: str) -> None:
    path = model_file(name) if name in TFLITES else DETECTOR
    engine = TfliteEngine(Options(), EngineContext(path, name))
    file = read_tflite(path.read_bytes(), name)
    assert file.inputs == engine.inputs
    assert file.outputs == engine.outputs
    assert file.op_count > 0
    assert file.custom_ops == ()
    assert not file.variables


def test_an_onnx_file_has_the_edges_that_its_runtime_sees() -> None:
    path = model_file("silero_vad.onnx")
    engine = OnnxEngine(OnnxOptions(), EngineContext(path, "vad"))
    file = read_onnx(path.read_bytes(), "vad")
    assert [(spec.name, spec.shape, spec.dtype) for spec in file.inputs] == [
        (spec.name, spec.shape, spec.dtype) for spec in engine.inputs
    ]
    assert [spec.name for spec in file.outputs] == [spec.name for spec in engine.outputs]
    assert file.opset == 16
    assert file.ops["If"] > 0
    assert file.ops["LSTM"] > 0  # inside the branches


def test_constants_that_are_listed_as_inputs_are_none() -> None:
    model = onnx_models.build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, (1, 3)), ("w", TensorProto.FLOAT, (3,))],
        [("y", TensorProto.FLOAT, (1, 3))],
        {"w": np.ones(3, np.float32)},
    )
    assert [spec.name for spec in read_onnx(model, "m").inputs] == ["x"]


def test_custom_ops_are_named_and_functions_of_the_file_are_none() -> None:
    domain = "com.acme"
    nodes = [
        helper.make_node("Sharpen", ["x"], ["h"], domain=domain),
        helper.make_node("Twice", ["h"], ["y"], domain="f"),
    ]
    shape = [("x", TensorProto.FLOAT, (1,)), ("y", TensorProto.FLOAT, (1,))]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*shape[0])], [helper.make_tensor_value_info(*shape[1])]
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid(domain, 1), helper.make_opsetid("f", 1)]
    twice = helper.make_function("f", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets[:1])
    model = helper.make_model(graph, opset_imports=opsets, functions=[twice]).SerializeToString()
    assert read_onnx(model, "m").custom_ops == ("com.acme:Sharpen",)


def huge(tree: Any) -> None:
    tree.subgraphs[0].tensors[tree.subgraphs[0].inputs[0]].shape = [1, 60000, 60000, 3]


def huge_in_the_middle(tree: Any) -> None:
    tree.subgraphs[0].tensors[5].shape = [1 << 15, 1 << 15]


@pytest.mark.parametrize("change", [huge, huge_in_the_middle])
def test_a_tflite_tensor_beyond_the_limit_is_refused(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "huge.tflite"
    path.write_bytes(changed(model_file("visual_wake_words.tflite"), change))
    with pytest.raises(ModelError, match=r"no device of this kind could hold; expected ≤ 512 MiB a tensor; got .*×"):
        load(path)


def _onnx(nodes: list[Any], shape: tuple[int | str, ...], constants: dict[str, Any] | None = None) -> bytes:
    edges = [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, ("a", "b"))]
    return onnx_models.build(nodes, *edges, constants)


@pytest.mark.parametrize(
    "model",
    [
        _onnx([helper.make_node("Identity", ["x"], ["y"])], (1 << 20, 1 << 20)),
        _onnx([helper.make_node("ConstantOfShape", ["s"], ["y"])], (1,), {"s": np.array([1 << 16, 1 << 16])}),
        _onnx([helper.make_node("Expand", ["x", "s"], ["y"])], (1,), {"s": np.array([1 << 40])}),
        _onnx([helper.make_node("RandomNormal", [], ["y"], shape=[1 << 20, 1 << 20])], (1,)),
        _onnx(
            [
                helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([1 << 16, 1 << 16]))),
                helper.make_node("ConstantOfShape", ["s"], ["y"]),
            ],
            (1,),
        ),
    ],
)
def test_an_onnx_tensor_beyond_the_limit_is_refused(model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    path.write_bytes(model)
    with pytest.raises(ModelError, match=r"no device of this kind could hold; expected ≤ 512 MiB"):
        load(path)


def test_a_constant_that_claims_a_huge_shape_is_refused(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "w")
    tensor.dims[0] = 1 << 40
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [3])],
        [helper.make_tensor_value_info("y", 1, [3])],
        [tensor],
    )
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelError, match="got w 1099511627776 float32"):
        load(tmp_path / "m.onnx")


def test_a_file_compiled_for_the_edge_tpu_is_never_the_cpus(tmp_path: Path) -> None:
    plain = model_file("image_classification.tflite")
    compiled = compiled_for_edge_tpu(plain)
    path = tmp_path / "net_edgetpu.tflite"
    path.write_bytes(compiled)
    bundle = load(path)
    assert bundle.artifact_for("edgetpu").model == compiled
    for accelerator, named in (("cpu", "the CPU"), ("gpu", "gpu")):
        with pytest.raises(
            ModelError, match=f"compiled for the Edge TPU: cannot run on {named}. Give the model it was"
        ):
            bundle.artifact_for(accelerator)
    (tmp_path / "net.tflite").write_bytes(plain.read_bytes())
    for half in (path, tmp_path / "net.tflite"):
        both = load(half)
        assert both.artifact_for("edgetpu").model == compiled
        assert both.artifact_for("cpu").model == both.artifact_for("gpu").model == plain.read_bytes()
        assert both.main.file == "net.tflite"


def test_a_neighbour_of_another_model_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "net_edgetpu.tflite").write_bytes(compiled_for_edge_tpu(model_file("visual_wake_words.tflite")))
    (tmp_path / "net.tflite").write_bytes(model_file("image_classification.tflite").read_bytes())
    bundle = load(tmp_path / "net.tflite")
    assert [artifact.file for artifact in bundle.artifacts] == ["net.tflite"]
    assert "has other inputs or outputs, and is left out" in caplog.text
    (tmp_path / "net_edgetpu.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    assert len(load(tmp_path / "net.tflite").artifacts) == 1
    with pytest.raises(ModelError, match=r"has no model for edgetpu; .* Compile the int8 model with edgetpu_compiler"):
        bundle.artifact_for("edgetpu")
