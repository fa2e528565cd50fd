"""Reading what people have: packed weights, no signature, long names, open batches; and refusing the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgerun.convert.tflite.graph import MOST_BYTES, Graph
from edgerun.convert.tflite.importing import ReadOptions, read
from edgerun.errors import ModelError
from tests.convert.tflite_nets import INPUT, Writer, pictures, run, small_net
from tests.real_models import model_file


def _read(writer: Writer, folder: Path, options: ReadOptions | None = None) -> tuple[bytes, tuple[str, ...]]:
    source = folder / "in.tflite"
    source.write_bytes(writer.bytes())
    network = read(source, folder, options)
    return network.path.read_bytes(), network.notes


def _pack(writer: Writer, name: str, dtype: str, behind: bool) -> None:
    """Store a constant as float16 or int8, either behind DEQUANTIZE or read as it is."""
    number = next(i for i, t in enumerate(writer.graph.tensors) if t.name == name.encode())
    graph = Graph(writer.bytes(), "test")
    values = graph.constant(number)
    assert values is not None
    scale: Any = None
    if dtype == "int8":
        scale = np.abs(values).reshape(values.shape[0], -1).max(axis=1) / 127
        packed = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
    else:
        packed = values.astype(np.float16)
    small = writer.constant(name + "/packed", packed, scale)
    if behind:
        writer.graph.tensors[number].buffer = 0
        writer.op("DEQUANTIZE", [small], [number])
        writer.graph.operators.insert(0, writer.graph.operators.pop())
        return
    for op in writer.graph.operators:
        op.inputs = [small if i == number else i for i in op.inputs]


def test_a_plain_float_model_is_given_a_signature_and_short_names(tmp_path: Path) -> None:
    writer = small_net()
    content, notes = _read(writer, tmp_path)
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": [INPUT], "outputs": ["scores"]}}
    graph = Graph(content, "test")
    names = [graph.name(i) for i in range(len(graph.main.tensors))]
    assert len(set(names)) == len(names)
    assert "conv" in names
    assert not any(";" in name for name in names)
    assert any("SignatureDef" in note for note in notes)
    np.testing.assert_allclose(run(content, pictures(3)), run(writer.bytes(), pictures(3)), atol=1e-6)


@pytest.mark.parametrize(("dtype", "behind"), [("float16", True), ("int8", True), ("int8", False)])
def test_packed_weights_become_float_again(tmp_path: Path, dtype: str, behind: bool) -> None:
    writer = small_net()
    _pack(writer, "left/weights", dtype, behind)
    content, notes = _read(writer, tmp_path)
    graph = Graph(content, "test")
    assert "DEQUANTIZE" not in [graph.kind(op) for op in graph.ops]
    assert all(graph.dtype(int(op.inputs[1])) == "float32" for op, _ in graph.weighted())
    assert len(list(graph.weighted())) == 5
    assert any("packed" in note or "int8" in note for note in notes)
    error = np.abs(run(content, pictures(4)) - run(small_net().bytes(), pictures(4))).max()
    assert 0 < error < 0.02


def test_int4_weights_are_unpacked_low_half_first(tmp_path: Path) -> None:
    writer = small_net()
    number = next(i for i, t in enumerate(writer.graph.tensors) if t.name == b"dense/weights")
    random = np.random.default_rng(3)
    values = random.integers(-8, 8, (5, 16)).astype(np.int8)
    nibbles = (values.reshape(-1, 2) & 15).astype(np.uint8)
    packed = (nibbles[:, 0] | nibbles[:, 1] << 4).astype(np.uint8)
    small = writer.constant("four", packed, [0.1])
    writer.graph.tensors[small].shape, writer.graph.tensors[small].type = [5, 16], 17  # TensorType.INT4
    writer.graph.tensors[number].buffer = 0
    writer.op("DEQUANTIZE", [small], [number])
    writer.graph.operators.insert(0, writer.graph.operators.pop())
    graph = Graph(_read(writer, tmp_path)[0], "test")
    dense = next(op for op, _ in graph.weighted() if graph.layer(op) == "dense")
    np.testing.assert_allclose(graph.constant(int(dense.inputs[1])), values * np.float32(0.1), rtol=1e-6)


def test_an_open_batch_becomes_one_and_other_open_sides_are_asked_for(tmp_path: Path) -> None:
    content, notes = _read(small_net(open_batch=True), tmp_path)
    assert Interpreter(model_content=content).get_input_details()[0]["shape_signature"].tolist() == [1, 16, 16, 3]
    assert any("fixed to 1×16×16×3" in note for note in notes)
    writer = small_net()
    writer.graph.tensors[0].shapeSignature = [1, -1, -1, 3]
    with pytest.raises(ModelError, match=r"input picture: an input's shape is open.*--size"):
        _read(writer, tmp_path)
    content, _ = _read(writer, tmp_path, ReadOptions({INPUT: (1, 32, 32, 3)}))
    assert Interpreter(model_content=content).get_input_details()[0]["shape"].tolist() == [1, 32, 32, 3]
    graph = Graph(content, "test")
    assert graph.shape(int(graph.ops[0].outputs[0])) == (1, 16, 16, 8)
    with pytest.raises(ModelError, match="does not fit"):
        _read(writer, tmp_path, ReadOptions({INPUT: (1, 32, 32, 4)}))


def test_a_model_that_is_int8_already_is_refused_by_layer(tmp_path: Path) -> None:
    path = model_file("efficientnet_lite0_int8.tflite")
    with pytest.raises(ModelError, match=r"quantised already.*images_int8 \(QUANTIZE, int8\)"):
        read(path, tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not a model at all", b"\x00\x00\x00\x00TFL3" + b"\xff" * 64])
def test_garbage_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "in.tflite"
    path.write_bytes(damage)
    with pytest.raises(ModelError):
        read(path, tmp_path)


def test_a_file_over_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.tflite"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # sparse: no disk is used
    with pytest.raises(ModelError, match="too large"):
        read(path, tmp_path)


def test_a_custom_operator_without_its_library_is_named(tmp_path: Path) -> None:
    writer = small_net()
    writer.op("CUSTOM", [writer.graph.outputs[0]], [writer.tensor("boxes", (1, 5))])
    writer.model.operatorCodes[-1].customCode = b"MyOwnOp"
    writer.graph.outputs = [len(writer.graph.tensors) - 1]
    with pytest.raises(ModelError, match="MyOwnOp"):
        _read(writer, tmp_path)


def test_damaged_models_are_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    whole, path, refused = small_net().bytes(), tmp_path / "in.tflite", 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        content = bytearray(whole)
        for _ in range(random.integers(1, 6)):
            content[random.integers(8, len(content))] = random.integers(0, 256)
        path.write_bytes(content[: random.integers(9, len(content))] if seed % 5 == 0 else content)
        try:
            read(path, tmp_path)
        except ModelError:
            refused += 1
    assert 20 < refused < 60
