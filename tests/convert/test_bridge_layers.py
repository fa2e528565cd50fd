"""Each operator that the bridge writes, against ONNX Runtime (which the bridge itself asks), on random geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.convert.bridge_nets import Net, attempted, converted, weights

few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
small = st.integers(1, 3)


@st.composite
def windows(draw: Any, dilated: bool = True) -> dict[str, Any]:
    """Kernel, strides, pads and dilations of a layer on a picture of 9 to 12 by 9 to 12.

    ONNX Runtime refuses automatic padding with dilation, and with steps larger than the kernel.
    """
    kernel = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    told: dict[str, Any] = {"kernel_shape": kernel, "strides": [draw(small), draw(small)]}
    if dilated:
        told["dilations"] = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    how = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if how == "pads":
        told["pads"] = [draw(st.integers(0, kernel[axis % 2] - 1)) for axis in range(4)]
    else:
        told["auto_pad"] = how
        told["dilations"] = [1, 1]
        told["strides"] = [min(step, size) for step, size in zip(told["strides"], kernel, strict=True)]
    if not dilated:
        told.pop("dilations", None)
    return told


@few
@given(
    told=windows(),
    height=st.integers(9, 12),
    width=st.integers(9, 12),
    kind=st.sampled_from(["plain", "groups", "depth"]),
)
def test_conv(told: dict[str, Any], height: int, width: int, kind: str) -> None:
    net = Net("n", 4, height, width)
    groups, depth = {"plain": (1, 4), "groups": (2, 2), "depth": (4, 1)}[kind]
    filters = weights(8, depth, *told["kernel_shape"])
    y = net.add("Conv", "x", filters, weights(8, seed=1), group=groups, **told)
    made = converted(net, net.add("Clip", y, np.float32(0), np.float32(6)))
    assert made.input_shape == (1, height, width, 4)
    kernels = [op for op in made.ops if op != "PAD"]
    assert kernels == ["DEPTHWISE_CONV_2D" if kind == "depth" else "CONV_2D", "TRANSPOSE"]
    assert "/Conv_0" in made.names


@few
@given(
    told=windows(),
    extra=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    groups=st.sampled_from([1, 2, 6]),
)
def test_conv_transpose(told: dict[str, Any], extra: tuple[int, int], groups: int) -> None:
    net = Net(1, 6, 5, 6)
    told["output_padding"] = [min(one, step - 1) for one, step in zip(extra, told["strides"], strict=True)]
    pads = told.get("pads", [0] * 4)
    told["pads"] = [min(one, told["kernel_shape"][axis % 2] // 2) for axis, one in enumerate(pads)]
    told.pop("auto_pad", None)
    y = net.add("ConvTranspose", "x", weights(6, 2, *told["kernel_shape"]), weights(2 * groups), group=groups, **told)
    made, refusal = attempted(net, y)
    assert "output_padding that reaches beyond" in refusal if made is None else "TRANSPOSE_CONV" in made.ops


@pytest.mark.parametrize("opset", [11, 18])
def test_conv_of_a_signal_is_one_row_high(opset: int) -> None:
    net = Net(1, 3, 20, opset=opset)
    y = net.add("Relu", net.add("Conv", "x", weights(4, 3, 5), pads=[2, 2], strides=[2]))
    y = net.add("Conv", y, weights(5, 4, 3))
    y = net.add("ConvTranspose", y, weights(5, 2, 4), strides=[2], pads=[1, 1])
    made = converted(net, net.add("MaxPool", y, kernel_shape=[2], strides=[2]))
    assert made.input_shape == (1, 3, 20)
    assert made.ops.count("TRANSPOSE") == 2  # in and out: signals keep their layout
    assert made.ops.count("RESHAPE") == 2  # to a picture and back, once


@few
@given(
    told=windows(dilated=False), op=st.sampled_from(["MaxPool", "AveragePool"]), ceil=st.booleans(), count=st.booleans()
)
def test_pooling(told: dict[str, Any], op: str, ceil: bool, count: bool) -> None:
    net = Net(1, 3, 11, 9)
    told["pads"] = [min(one, told["kernel_shape"][axis % 2] // 2) for axis, one in enumerate(told.get("pads", [0] * 4))]
    if "auto_pad" in told:
        del told["pads"]
    else:
        told["ceil_mode"] = int(ceil)
        told["strides"] = [min(step, size) for step, size in zip(told["strides"], told["kernel_shape"], strict=True)]
    if op == "AveragePool":
        told["count_include_pad"] = int(count)
    made, refusal = attempted(net, net.add(op, "x", **told))
    if made is None:
        assert ceil
        assert "a last window that lies outside" in refusal
    else:
        assert ("MAX_POOL_2D" if op == "MaxPool" else "AVERAGE_POOL_2D") in made.ops


def test_depth_to_space_in_another_order_where_no_convolution_can_give_it() -> None:
    net = Net(1, 8, 4, 6)
    made = converted(net, net.add("DepthToSpace", "x", blocksize=2, mode="CRD"))
    assert made.ops == ["GATHER", "DEPTH_TO_SPACE", "TRANSPOSE"]


def test_max_pool_after_relu_is_padded_with_zeros_and_elsewhere_with_its_own_edge() -> None:
    pooling: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    net = Net(1, 3, 8, 8)
    plain = converted(net, net.add("MaxPool", "x", **pooling))
    assert plain.ops[0] == "MIRROR_PAD"
    net = Net(1, 3, 8, 8)
    assert converted(net, net.add("MaxPool", net.add("Relu", "x"), **pooling)).ops[:2] == ["RELU", "PAD"]
    pooling["pads"] = [2, 2, 2, 2]  # a window in the corner sees one element, the mirrored edge would be four
    net = Net(1, 3, 8, 8)
    assert converted(net, net.add("MaxPool", "x", **pooling)).ops[0] == "PADV2"


UNARY: list[tuple[str, dict[str, Any], str]] = [
    ("LeakyRelu", {"alpha": 0.1}, "LEAKY_RELU"),
    ("Sigmoid", {}, "LOGISTIC"),
    ("Tanh", {}, "TANH"),
    ("HardSwish", {}, "HARD_SWISH"),
    ("HardSigmoid", {}, "RELU_0_TO_1"),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, "ADD"),
    ("Elu", {}, "ELU"),
    ("Gelu", {}, "GELU"),
    ("Gelu", {"approximate": "tanh"}, "GELU"),
    ("Softplus", {}, "LOG"),
    ("Mish", {}, "TANH"),
    ("Exp", {}, "EXP"),
    ("Abs", {}, "ABS"),
    ("Neg", {}, "NEG"),
    ("Floor", {}, "FLOOR"),
    ("Reciprocal", {}, "DIV"),
    ("GlobalAveragePool", {}, "MEAN"),
    ("GlobalMaxPool", {}, "REDUCE_MAX"),
    ("Softmax", {"axis": 1}, "SOFTMAX"),
    ("Softmax", {"axis": 3}, "SOFTMAX"),
    ("LogSoftmax", {"axis": 2}, "LOG_SOFTMAX"),
    ("DepthToSpace", {"blocksize": 2}, "DEPTH_TO_SPACE"),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, "DEPTH_TO_SPACE"),
    ("SpaceToDepth", {"blocksize": 2}, "SPACE_TO_DEPTH"),
    ("ReduceMean", {"axes": [2, 3]}, "MEAN"),
]


@pytest.mark.parametrize(("op", "told", "written"), UNARY)
def test_of_one_value(op: str, told: dict[str, Any], written: str) -> None:
    net = Net(1, 8, 4, 6, opset=20 if op != "ReduceMean" else 13)
    bend = net.add("Conv", "x", weights(8, 8, 1, 1), weights(8))  # puts it channels last
    made = converted(net, net.add(op, bend, **told))
    assert written in made.ops
    assert made.input_shape == (1, 4, 6, 8)


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_bounds_of_a_clip(opset: int) -> None:
    net = Net(1, 3, 4, 5, opset=opset)
    y = "x"
    for low, high in ((-0.5, 0.4), (0.0, 1.0), (-1.0, 1.0)):
        if opset < 11:
            y = net.add("Clip", y, min=low, max=high)
        else:
            y = net.add("Clip", y, np.float32(low), np.float32(high))
    assert converted(net, y).ops == ["MAXIMUM", "MINIMUM", "RELU_0_TO_1", "RELU_N1_TO_1"]


@pytest.mark.parametrize("slope", [(3, 1, 1), (1,), (1, 3, 1, 1)])
def test_prelu(slope: tuple[int, ...]) -> None:
    net = Net(1, 3, 4, 5)
    y = net.add("Conv", "x", weights(3, 3, 1, 1))
    assert "PRELU" in converted(net, net.add("PRelu", y, weights(*slope))).ops


@few
@given(
    op=st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]),
    kept=st.lists(st.booleans(), min_size=1, max_size=4),
    first=st.booleans(),
    constant=st.booleans(),
)
def test_broadcasting(op: str, kept: list[bool], first: bool, constant: bool) -> None:
    sizes = (1, 4, 3, 5)[-len(kept) :]
    shape = tuple(size if keep else 1 for size, keep in zip(sizes, kept, strict=True))
    net = Net(1, 4, 3, 5)
    y = net.add("Conv", "x", weights(4, 4, 1, 1))
    other: Any = np.abs(weights(*shape)) + 0.5
    if not constant:
        other = net.add("Add", net.add("ReduceMax", net.add("Exp", "x"), keepdims=1), other)
        other = net.add(
            "Reshape",
            other,
            [*(max(a, b) for a, b in zip(np.ones(4, int), (1,) * (4 - len(shape)) + shape, strict=True))],
        )
        other = net.add("Squeeze", other, list(range(4 - len(shape)))) if len(shape) < 4 else other
    made = converted(net, net.add(op, *((other, y) if first else (y, other))))
    assert made.ops.count("TRANSPOSE") == 1  # the output's


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"])
def test_reductions(op: str, keep: int, opset: int) -> None:
    for axes in ([1], [2, 3], [-1], [0, 2]):
        net = Net(1, 4, 3, 5, opset=opset)
        y = net.add("Conv", "x", weights(4, 4, 1, 1))
        told = {"axes": axes} if opset < 13 else {}
        converted(net, net.add(op, *([y] if told else [y, axes]), keepdims=keep, **told))


@few
@given(
    mode=st.sampled_from(["nearest", "linear"]),
    coordinates=st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    out=st.tuples(st.integers(1, 12), st.integers(2, 12)),
)
def test_resize_to_sizes(mode: str, coordinates: str, rounding: str, out: tuple[int, int]) -> None:
    net = Net(1, 3, 5, 6)
    told = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    y = net.add("Conv", "x", weights(3, 3, 1, 1))
    y = net.add("Resize", y, "", "", [1, 3, *out], **told)
    made, refusal = attempted(net, y)
    if made is None:
        assert mode == "linear"
        assert out[0] == 1
        assert "interpolates with coordinates" in refusal


def test_resize_by_two_is_the_kernel_that_necks_use() -> None:
    net = Net(1, 3, 5, 6)
    told = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    y = net.add("Resize", net.add("Relu", "x"), "", np.array([1, 1, 2, 2], np.float32), **told)
    assert "RESIZE_NEAREST_NEIGHBOR" in converted(net, y).ops


@few
@given(data=st.data())
def test_slices(data: Any) -> None:
    shape = (1, 5, 6, 7)
    axes = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3, unique=True))
    steps = [data.draw(st.sampled_from([1, 2, 3, -1, -2])) for _ in axes]
    ends = [data.draw(st.tuples(st.integers(-8, 8), st.integers(-8, 8))) for _ in axes]
    for axis, step, (begin, end) in zip(axes, steps, ends, strict=True):
        if not len(range(*slice(begin, end, step).indices(shape[axis]))):
            return
    net = Net(*shape)
    y = net.add("Conv", "x", weights(5, 5, 1, 1))
    converted(net, net.add("Slice", y, [begin for begin, _ in ends], [end for _, end in ends], axes, steps))


def test_a_slice_may_run_backwards_to_the_first_element() -> None:
    net = Net(1, 3, 5, 6)
    y = net.add("Slice", "x", [-1, 4], [-100, -100], [3, 2], [-1, -2])
    assert converted(net, y).ops == ["STRIDED_SLICE"]


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_pads(mode: str, value: float) -> None:
    net = Net(1, 3, 5, 6)
    y = net.add("Pad", net.add("Relu", "x"), [0, 0, 1, 2, 0, 0, 3, 0], np.float32(value), mode=mode)
    wanted = "MIRROR_PAD" if mode == "reflect" else "PAD" if value == 0 else "PADV2"
    assert wanted in converted(net, y).ops


@pytest.mark.parametrize("indices", [[0, 2, -1], [1]])
def test_gather(indices: list[int]) -> None:
    net = Net(1, 4, 5, 6)
    y = net.add("Conv", "x", weights(4, 4, 1, 1))
    converted(net, net.add("Gather", y, indices, axis=1))
    net = Net(1, 4, 5, 6)
    converted(net, net.add("Gather", "x", np.int64(-2), axis=2))


def test_split_in_equal_and_unequal_parts() -> None:
    net = Net(1, 6, 5, 4)
    y = net.add("Conv", "x", weights(6, 6, 1, 1))
    a, b = net.add("Split", y, [3, 3], axis=1, outputs=2)
    c, d = net.add("Split", net.add("Add", a, b), [1, 2], axis=1, outputs=2)
    made = converted(net, net.add("Concat", d, c, net.constant(weights(1, 2, 5, 4)), axis=1))
    assert made.ops == ["CONV_2D", "SPLIT", "ADD", "SPLIT_V", "CONCATENATION", "TRANSPOSE"]


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(transposed: tuple[int, int]) -> None:
    a, b = transposed
    net = Net(*((6, 1) if a else (1, 6)))
    inner = weights(4, 6) if b else weights(6, 4)
    y = net.add("Gemm", "x", inner, weights(4), transA=a, transB=b, alpha=0.5, beta=2.0)
    made = converted(net, net.add("Relu", y))
    assert made.ops[-1] == "FULLY_CONNECTED"


@pytest.mark.parametrize("transposed", [False, True])
def test_matmul_of_two_layers(transposed: bool) -> None:
    net = Net(1, 2, 5, 6)
    y = net.add("Exp", "x")
    y = net.add("Transpose", y, perm=[0, 1, 3, 2]) if transposed else net.add("Reshape", y, [1, 2, 6, 5])
    made = converted(net, net.add("MatMul", "x", y))
    assert made.ops.count("TRANSPOSE") == 0
    assert "BATCH_MATMUL" in made.ops


def test_matmul_with_weights_and_its_bias() -> None:
    net = Net(1, 5, 6)
    y = net.add("Add", net.add("MatMul", "x", weights(6, 4)), weights(4))
    assert converted(net, y).ops == ["FULLY_CONNECTED"]


@pytest.mark.parametrize("op", ["LayerNormalization", "InstanceNormalization"])
def test_normalisations_that_depend_on_the_input(op: str) -> None:
    net = Net(1, 4, 5, 6)
    size = 6 if op == "LayerNormalization" else 4
    y = net.add("Conv", "x", weights(4, 4, 1, 1))
    made = converted(net, net.add(op, y, weights(size), weights(size, seed=1)))
    assert made.ops.count("MEAN") == 2
