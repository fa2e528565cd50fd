"""What the Edge TPU takes by the published table, and the compiler as it is found on PATH."""

from pathlib import Path

import pytest

pytest.importorskip("litert_quantizer", reason="the convert extra is not installed: pip install 'edgerun[convert]'")

from edgerun.convert.tflite.edgetpu import COMPILER, compile_model, coverage, in_words
from edgerun.convert.tflite.graph import Graph
from edgerun.convert.tflite.quantizer import QuantizerOptions, TfliteQuantizer
from edgerun.errors import DeviceError, ModelError
from tests.convert.tflite_nets import Writer, pictures, saved, small_net
from tests.real_models import model_file


def _whole(folder: Path, writer: Writer) -> bytes:
    options = QuantizerOptions(target="edgetpu")
    quantizer = TfliteQuantizer(saved(writer, folder), pictures(8), options, lambda step, done, of: None)
    assert set(quantizer.precisions(frozenset()).values()) == {"int8"}
    with pytest.raises(ModelError, match="no layer can be kept"):
        quantizer.build(frozenset({"conv"}))
    return quantizer.build(frozenset())


def test_a_whole_int8_model_is_covered(tmp_path: Path) -> None:
    content = _whole(tmp_path, small_net())
    graph = Graph(content, "test")
    faces = [int(i) for i in (*graph.main.inputs, *graph.main.outputs)]
    assert {graph.dtype(i) for i in faces} == {"int8"}
    found = coverage(content, "test")
    assert [one.reason for one in found] == [None] * len(found)
    assert all(one.on_tpu for one in found)
    assert in_words(found).startswith("8 of 8 operators")


def test_what_follows_an_operator_that_is_not_mapped_is_not_either(tmp_path: Path) -> None:
    writer = small_net()
    for op in writer.graph.operators[1:2]:  # the depthwise convolution
        op.builtinOptions.dilationWFactor = 2
    found = coverage(_whole(tmp_path, writer), "test")
    assert [one.on_tpu for one in found] == [True, *[False] * (len(found) - 1)]
    assert found[1].reason == "its dilations in x and y differ"
    assert "first that does not is depth (DEPTHWISE_CONV_2D): its dilations" in in_words(found)


def test_a_float_model_is_covered_by_nothing(tmp_path: Path) -> None:
    found = coverage(saved(small_net(), tmp_path).path.read_bytes(), "test")
    assert not any(one.on_tpu for one in found)
    assert "float32, not int8" in (found[0].reason or "")


def test_a_published_int8_model(tmp_path: Path) -> None:
    path = model_file("efficientnet_lite0_int8.tflite")
    found = coverage(path.read_bytes(), path)
    assert sum(one.on_tpu for one in found) >= 60


def _compiler(folder: Path, body: str) -> str:
    program = folder / "compiler"
    program.write_text("#!/bin/sh\n" + body)
    program.chmod(0o755)
    return str(program)


def test_without_the_compiler_there_is_nothing_and_no_error(tmp_path: Path) -> None:
    assert compile_model(tmp_path / "m.tflite", tmp_path, f"no-{COMPILER}") is None


def test_the_compilers_counts_are_read(tmp_path: Path) -> None:
    body = """
if [ "$1" = --version ]; then echo "Edge TPU Compiler version 16.0"; exit; fi
cp "$4" "$3/m_edgetpu.tflite"
echo "Number of operations that will run on Edge TPU: 63"
echo "Number of operations that will run on CPU: 2"
"""
    (tmp_path / "m.tflite").write_bytes(b"model")
    (tmp_path / "out").mkdir()
    made = compile_model(tmp_path / "m.tflite", tmp_path / "out", _compiler(tmp_path, body))
    assert made is not None
    assert (made.model, made.on_tpu, made.on_cpu) == (b"model", 63, 2)
    assert made.version == "Edge TPU Compiler version 16.0"


def test_a_refusal_is_told_in_the_compilers_words(tmp_path: Path) -> None:
    program = _compiler(tmp_path, '[ "$1" = --version ] && exit; echo "Model not quantized" >&2; exit 1')
    with pytest.raises(ModelError, match="Model not quantized"):
        compile_model(tmp_path / "m.tflite", tmp_path, program)
    program = _compiler(tmp_path, "exit 0")
    with pytest.raises(ModelError, match="made no model"):
        compile_model(tmp_path / "m.tflite", tmp_path, program)
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    with pytest.raises(DeviceError, match="did not run"):
        compile_model(tmp_path / "m.tflite", tmp_path, str(broken))
