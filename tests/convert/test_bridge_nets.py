"""Whole nets through the bridge: how few operators come out, what is folded and fused, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgerun.convert.bridge import OPERATORS, proving, to_tflite
from edgerun.convert.bridge.reading import read
from edgerun.convert.parts import Network
from edgerun.errors import ModelError
from tests.convert import efficientnet
from tests.convert.bridge_nets import Array, Net, converted, weights


def conv(net: Net, x: str, inputs: int, outputs: int, kernel: int = 3, norm: bool = True, **told: Any) -> str:
    """Convolution without bias and batch normalisation, as training leaves them."""
    pads = told.pop("pads", [kernel // 2] * 4)
    groups = told.get("group", 1)
    y = net.add("Conv", x, weights(outputs, inputs // groups, kernel, kernel) / kernel, pads=pads, **told)
    terms = (np.abs(weights(outputs, seed=seed)) + 0.5 for seed in range(4))
    return str(net.add("BatchNormalization", y, *terms)) if norm else y


def test_efficientnet_lite0_is_62_operators_and_no_transposition(tmp_path: Path) -> None:
    made = to_tflite(Network(efficientnet.float_onnx(), "onnx"), tmp_path)
    assert made.format == "tflite"
    assert made.path == tmp_path / "efficientnet_lite0_float.tflite"
    assert any("95 nodes became 62 operators, 0 of them transpositions" in note for note in made.notes)
    assert set(made.tools) == {"onnx", "onnxruntime", "ai-edge-litert", "numpy"}
    assert [path.name for path in tmp_path.iterdir()] == [made.path.name]  # no half-written file


def test_residual_block_with_strides_and_squeeze_and_excite() -> None:
    net = Net("batch", 3, 32, 32)
    stem = net.add("Relu", conv(net, "x", 3, 8, strides=[2, 2]))
    stem = net.add("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = net.add("HardSwish", conv(net, stem, 8, 8, group=8))
    gate = net.add("GlobalAveragePool", y)
    gate = net.add("Relu", conv(net, gate, 8, 4, 1, norm=False))
    y = net.add("Mul", y, net.add("HardSigmoid", conv(net, gate, 4, 8, 1, norm=False), alpha=1 / 6, beta=0.5))
    y = net.add("Relu", net.add("Add", conv(net, y, 8, 8, 1), stem))
    y = net.add("Flatten", net.add("GlobalAveragePool", y))
    made = converted(net, net.add("Softmax", net.add("Gemm", y, weights(8, 5), weights(5)), axis=1))
    assert made.ops == [
        *("PAD", "CONV_2D", "PAD", "MAX_POOL_2D", "DEPTHWISE_CONV_2D", "HARD_SWISH", "MEAN", "CONV_2D", "CONV_2D"),
        *("ADD", "MUL", "MUL", "CONV_2D", "ADD", "MEAN", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"),
    ]
    assert made.input_shape == (1, 32, 32, 3)
    assert any("1×32×32×3 (N×H×W×C) now" in note for note in made.notes)


def test_detector_neck_and_head_without_a_transposition_inside() -> None:
    """SiLU, cross-stage split, pyramid pooling, upsampling, and a head that puts anchors apart and joins the scales."""
    net = Net(1, 3, 32, 32)

    def silu(x: str) -> str:
        return str(net.add("Mul", x, net.add("Sigmoid", x)))

    deep = silu(conv(net, "x", 3, 8, strides=[2, 2]))
    left, right = net.add("Split", deep, [4, 4], axis=1, outputs=2)
    deep = net.add("Concat", left, silu(conv(net, right, 4, 4)), axis=1)
    pooled = net.add("MaxPool", deep, kernel_shape=[5, 5], pads=[2, 2, 2, 2])
    low = silu(conv(net, net.add("Concat", deep, pooled, axis=1), 16, 8, strides=[2, 2]))
    up = net.add("Resize", low, "", np.array([1, 1, 2, 2], np.float32), mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    high = silu(conv(net, net.add("Concat", up, deep, axis=1), 16, 8))
    heads = []
    for level, size in ((high, 16), (low, 8)):
        y = conv(net, level, 8, 3 * 7, 1, norm=False)
        y = net.add("Transpose", net.add("Reshape", y, [1, 3, 7, size, size]), perm=[0, 1, 3, 4, 2])
        heads.append(net.add("Reshape", net.add("Sigmoid", y), [1, -1, 7]))
    made = converted(net, net.add("Concat", *heads, axis=1))
    assert made.ops.count("TRANSPOSE") == 2  # anchors before places: each scale's own, as the output wants it
    assert "GATHER" not in made.ops


def test_head_whose_anchors_lie_in_the_channels_needs_no_transposition_at_all() -> None:
    net = Net(1, 8, 6, 6)
    y = net.add("Transpose", net.add("Conv", "x", weights(12, 8, 1, 1)), perm=[0, 2, 3, 1])
    made = converted(net, net.add("Reshape", y, [1, -1, 4]))
    assert made.ops == ["CONV_2D", "RESHAPE"]


def test_transformer_block() -> None:
    net = Net(1, 3, 16, 16)
    patches = net.add("Conv", "x", weights(8, 3, 4, 4), weights(8), strides=[4, 4])
    y = net.add("Transpose", net.add("Reshape", patches, [1, 8, 16]), perm=[0, 2, 1])
    heads = []
    for seed in range(3):
        part = net.add("MatMul", y, weights(8, 8, seed=seed))
        heads.append(net.add("Transpose", net.add("Reshape", part, [1, 16, 2, 4]), perm=[0, 2, 1, 3]))
    keys = net.add("Transpose", heads[1], perm=[0, 1, 3, 2])
    scores = net.add("Softmax", net.add("Mul", net.add("MatMul", heads[0], keys), np.float32(0.5)), axis=-1)
    out = net.add("Transpose", net.add("MatMul", scores, heads[2]), perm=[0, 2, 1, 3])
    y = net.add("Add", y, net.add("Reshape", out, [1, 16, 8]))
    y = net.add("LayerNormalization", y, weights(8), weights(8))
    y = net.add("MatMul", y, weights(8, 8))
    half = net.add("Mul", y, net.add("Add", net.add("Erf", net.add("Div", y, np.float32(math.sqrt(2)))), np.float32(1)))
    made = converted(net, net.add("Mul", half, np.float32(0.5)))
    assert "GELU" in made.ops
    assert made.ops.count("TRANSPOSE") <= 4


@pytest.mark.parametrize("divided", [False, True])
def test_hard_swish_spelled_out(divided: bool) -> None:
    net = Net(1, 3, 4, 4)
    y = net.add("Conv", "x", weights(3, 3, 1, 1))
    gate = net.add("Clip", net.add("Add", y, np.float32(3)), np.float32(0), np.float32(6))
    if divided:
        y = net.add("Div", net.add("Mul", y, gate), np.float32(6))
    else:
        y = net.add("Mul", y, net.add("Mul", gate, np.float32(1 / 6)))
    assert converted(net, y).ops == ["CONV_2D", "HARD_SWISH", "TRANSPOSE"]


def test_channel_shuffle_moves_values_once() -> None:
    net = Net(1, 6, 4, 4)
    y = net.add("Conv", "x", weights(6, 6, 1, 1))
    y = net.add("Transpose", net.add("Reshape", y, [1, 2, 3, 4, 4]), perm=[0, 2, 1, 3, 4])
    y = net.add("Conv", net.add("Reshape", y, [1, 6, 4, 4]), weights(6, 6, 1, 1))
    assert converted(net, net.add("GlobalAveragePool", y)).ops.count("TRANSPOSE") == 1


@pytest.mark.parametrize("product", ["Gemm", "MatMul"])
def test_weights_after_a_flattened_picture_are_put_in_its_order(product: str) -> None:
    net = Net(1, 3, 5, 4)
    y = net.add("Reshape", net.add("Conv", "x", weights(4, 3, 2, 2)), [1, -1])
    made = converted(net, net.add(product, y, weights(48, 7)))
    assert made.ops == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]


def test_biases_are_never_shared_between_layers() -> None:
    net = Net(1, 3, 5, 4)
    y = net.add("Conv", "x", weights(1, 3, 1, 1), np.array([0.5], np.float32))
    y = net.add("Mul", net.add("Sigmoid", y), np.float32(0.5))
    made = converted(net, net.add("Conv", y, weights(1, 1, 1, 1), np.array([0.5], np.float32)))
    assert {"c1", "c2", "c4"} <= set(made.names)


def test_shape_arithmetic_and_a_kept_layout() -> None:
    """A net that takes N×H×W×C itself, reshapes by what Shape says, and casts on the way."""
    net = Net(1, 6, 6, 3, dtype=TensorProto.UINT8)
    y = net.add("Transpose", net.add("Cast", "x", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    y = net.add("Conv", y, weights(4, 3, 3, 3))
    batch = net.add("Gather", net.add("Shape", y), [0], axis=0)
    y = net.add("Reshape", y, net.add("Concat", batch, [-1], axis=0))
    made = converted(net, net.add("Dropout", y))
    assert made.input_shape == (1, 6, 6, 3)
    assert made.ops == ["CAST", "CONV_2D", "TRANSPOSE", "RESHAPE"]


def test_affine_neighbours_of_a_layer_are_taken_into_its_weights() -> None:
    net = Net(1, 3, 6, 6)
    y = net.add("Pad", "x", [0, 0, 1, 1, 0, 0, 1, 1])
    y = net.add("Conv", y, weights(4, 3, 3, 3))
    y = net.add("Mul", net.add("Add", y, weights(1, 4, 1, 1)), weights(4, 1, 1))
    y = net.add("ConvTranspose", y, weights(4, 2, 2, 2), strides=[2, 2], group=2)
    y = net.add("Div", y, np.abs(weights(4, 1, 1)) + 1)
    y = net.add("GlobalAveragePool", net.add("Relu", y))
    made = converted(net, y)
    assert [op for op in made.ops if op in ("PAD", "ADD", "MUL", "DIV")] == []


def test_what_passes_a_value_on_stands_between_nothing() -> None:
    net = Net(1, 3, 6, 6)
    y = net.add("Dropout", net.add("Conv", "x", weights(4, 3, 3, 3)))
    assert converted(net, net.add("Relu", net.add("Identity", y))).ops == ["CONV_2D", "TRANSPOSE"]


def test_padding_of_channels_is_not_the_convolutions() -> None:
    net = Net(1, 3, 6, 6)
    y = net.add("Pad", "x", [0, 1, 1, 1, 0, 0, 1, 1])
    assert converted(net, net.add("Conv", y, weights(4, 4, 3, 3))).ops == ["PAD", "CONV_2D", "TRANSPOSE"]


def test_half_precision_weights_become_single() -> None:
    net = Net(1, 3, 6, 6, dtype=TensorProto.FLOAT16)
    y = net.add("Conv", "x", weights(4, 3, 3, 3).astype(np.float16))
    made = converted(net, net.add("Relu", y), types={"Relu_1_out0": TensorProto.FLOAT16})
    assert made.ops == ["CONV_2D", "TRANSPOSE"]
    assert any("float32" in note for note in made.notes)


def test_several_inputs_and_outputs_keep_their_names_and_the_outputs_their_layout() -> None:
    net = Net(1, 3, 4, 6, name="picture")
    net.inputs.append(onnx.helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1, 5]))
    y = net.add("Conv", "picture", weights(5, 3, 1, 1))
    z = net.add("Mul", net.add("Reshape", "scale", [1, 5, 1, 1]), y)
    made = converted(net, y, z)
    signature = made.interpreter.get_signature_list()["serving_default"]
    assert signature == {"inputs": ["picture", "scale"], "outputs": [y, z]}
    shapes = {entry["name"]: tuple(entry["shape"]) for entry in made.interpreter.get_output_details()}
    assert shapes == {y: (1, 5, 4, 6), z: (1, 5, 4, 6)}


def refusal(net: Net, *outputs: str, tmp_path: Path) -> str:
    onnx.save(net.model(*outputs), tmp_path / "net.onnx")
    with pytest.raises(ModelError) as caught:
        to_tflite(Network(tmp_path / "net.onnx", "onnx"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    return str(caught.value)


def test_every_layer_that_cannot_be_written_is_named_at_once_with_a_way_out(tmp_path: Path) -> None:
    net = Net(1, 3, 8, 8)
    y = net.add("LRN", net.add("Conv", "x", weights(4, 3, 1, 1)), size=3)
    y = net.add("Resize", y, "", "", [1, 4, 16, 16], mode="cubic")
    y = net.add("Relu", net.add("Elu", y, alpha=0.5))
    text = refusal(net, y, tmp_path=tmp_path)
    assert text.startswith(f"{tmp_path / 'net.onnx'}: 3 layers cannot be written as TFLite: ")
    assert 'LRN "/LRN_1" has no counterpart' in text
    assert "use BatchNormalization" in text
    assert 'Resize "/Resize_2" has mode "cubic": TFLite knows nearest and linear' in text
    assert 'Elu "/Elu_3" has alpha 0.5' in text


def test_bounds_that_another_layer_gives_are_refused(tmp_path: Path) -> None:
    net = Net(1, 3, 8, 8)
    y = net.add("Conv", "x", weights(4, 3, 1, 1))
    y = net.add("Clip", y, "", net.add("ReduceMax", "x", keepdims=0))
    text = refusal(net, y, tmp_path=tmp_path)
    assert 'Clip "/Clip_2" takes "ReduceMax_1_out0" from another layer, not a constant' in text


def test_a_quantised_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    net = Net(1, 3, 8, 8)
    y = net.add("QuantizeLinear", "x", np.float32(0.1), np.uint8(0))
    text = refusal(net, net.add("DequantizeLinear", y, np.float32(0.1), np.uint8(0)), tmp_path=tmp_path)
    assert "the model is quantised already; start from its float original" in text


def test_open_dimensions_are_named(tmp_path: Path) -> None:
    net = Net("batch", 3, "height", "width")
    text = refusal(net, net.add("Relu", "x"), tmp_path=tmp_path)
    assert 'dimension 2 ("height") of input "x", dimension 3 ("width") of input "x" has no size' in text


def test_shapes_that_depend_on_values_are_named(tmp_path: Path) -> None:
    net = Net(1, 8)
    text = refusal(net, net.add("Cast", net.add("NonZero", "x"), to=TensorProto.FLOAT), tmp_path=tmp_path)
    assert 'the size of what NonZero "/NonZero_0" gives is known only when the model runs' in text


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x3a\xff\xff\xff\xff\x0f"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="is not an ONNX model that can be read"):
        to_tflite(Network(tmp_path / "net.onnx", "onnx"), tmp_path)


def test_a_file_that_answers_differently_is_not_let_through(tmp_path: Path) -> None:
    """One weight of the finished file is changed behind the bridge's back."""
    net = Net(1, 3, 8, 8)
    kernel = weights(4, 3, 3, 3)
    onnx.save(net.model(net.add("Conv", "x", kernel)), tmp_path / "net.onnx")
    made = to_tflite(Network(tmp_path / "net.onnx", "onnx"), tmp_path)
    whole = made.path.read_bytes()
    place = whole.index(kernel.transpose(0, 2, 3, 1).tobytes())
    changed = whole[:place] + np.float32(kernel[0, 0, 0, 0] + 0.1).tobytes() + whole[place + 4 :]
    graph = read(tmp_path / "net.onnx")
    layouts = {"x": (0, 2, 3, 1)}
    proving.compare(tmp_path / "net.onnx", whole, graph, layouts)
    with pytest.raises(ModelError, match="answers differently"):
        proving.compare(tmp_path / "net.onnx", changed, graph, layouts)
    with pytest.raises(ModelError, match="LiteRT does not take"):
        proving.compare(tmp_path / "net.onnx", whole[:200], graph, layouts)


def test_inputs_that_are_given_are_compared_on_too(tmp_path: Path) -> None:
    net = Net(1, 3, 8, 8)
    onnx.save(net.model(net.add("Conv", "x", weights(4, 3, 3, 3))), tmp_path / "net.onnx")
    given: list[dict[str, Array]] = [{"x": weights(1, 3, 8, 8) * 100}]
    made = to_tflite(Network(tmp_path / "net.onnx", "onnx"), tmp_path, given)
    assert "Against ONNX Runtime" in made.notes[-1]
    assert "Conv" in OPERATORS
