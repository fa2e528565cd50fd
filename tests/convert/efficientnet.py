"""EfficientNet-Lite0 as a float ONNX file, built from its published PyTorch weights with numpy and onnx alone.

Architecture: Tan & Le, "EfficientNet: Rethinking Model Scaling for CNNs" (2019), Table 1, in the Lite0 variant of
tensorflow/tpu (models/official/efficientnet/lite): no squeeze-and-excite, ReLU6, stem and head not scaled. The weights
were trained in TensorFlow, hence "SAME" padding (more below and right) and batch normalisation with epsilon 1e-3.
"""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.real_models import CACHE, model_file

NAME = "efficientnet_lite0_float.onnx"
WEIGHTS = "efficientnet-lite0-57934424.pth"
SIZE = 224
CLASSES = 1000
EPSILON = 1e-3
# Of each stage: how many blocks, kernel, stride of its first block.
STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))

Weights = dict[str, NDArray[np.float32]]


def float_onnx() -> Path:
    """The float model: `input` 1×3×224×224 float32, (px−127)/128, RGB → `scores` 1×1000, probabilities; opset 13."""
    path = CACHE / NAME
    if not path.exists():
        model = build(read_weights(model_file(WEIGHTS)))
        part = path.with_name(f"{NAME}.{os.getpid()}.part")
        part.write_bytes(model.SerializeToString(deterministic=True))
        part.replace(path)
    return path


class _Reader(pickle.Unpickler):
    """Reads a state dict without PyTorch, and nothing else: every other class is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *rest: (storage, offset, shape, strides)
        if (module, name) in {("torch", "FloatStorage"), ("torch", "LongStorage")}:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state dict")

    def persistent_load(self, reference: Any) -> Any:
        _, kind, key, _, _, _ = reference
        return kind, key


def read_weights(path: Path) -> Weights:
    """A state dict in PyTorch's format of before 1.6: pickles of magic number, protocol, sizes, dict and storage keys,
    then of each storage its length (int64) and values."""
    with path.open("rb") as file:
        for _ in range(3):
            _Reader(file).load()
        state = _Reader(file).load()
        keys = _Reader(file).load()
        kinds = {key: kind for (kind, key), *_ in state.values()}
        storages = {key: _storage(file, kinds[key]) for key in keys}
    weights = {}
    for name, ((kind, key), offset, shape, strides) in state.items():
        if kind == "FloatStorage":
            values = storages[key][offset:]
            steps = [4 * stride for stride in strides]
            weights[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, shape, steps))
    return weights


def _storage(file: BinaryIO, kind: str) -> NDArray[Any]:
    (length,) = np.frombuffer(file.read(8), "<i8")
    dtype = np.dtype("<f4" if kind == "FloatStorage" else "<i8")
    return np.frombuffer(file.read(int(length) * dtype.itemsize), dtype)


class _Writer:
    """Nodes and weights as they accumulate; each method appends one layer and returns its output's name."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        for name, limit in (("zero", 0.0), ("six", 6.0)):
            self.constant(name, np.array(limit, np.float32))

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{name}_output"
        self.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def conv(self, x: str, conv: str, norm: str, size: int, stride: int = 1, relu: bool = True) -> str:
        """Convolution with its batch normalisation folded in, as exporters write it, and ReLU6. `size`: its input's."""
        kernel = self.weights[f"{conv}.weight"]
        mean, variance = self.weights[f"{norm}.running_mean"], self.weights[f"{norm}.running_var"]
        scale = self.weights[f"{norm}.weight"] / np.sqrt(variance + EPSILON)
        bias = self.weights[f"{norm}.bias"] - mean * scale
        layer = "/" + conv.lstrip("_").replace("._", "/").replace("blocks.", "blocks/")
        width = kernel.shape[2]
        total = max((-(-size // stride) - 1) * stride + width - size, 0)
        before, after = total // 2, total - total // 2
        inputs = [x, self.constant(f"{layer}.weight", kernel * scale[:, None, None, None])]
        inputs.append(self.constant(f"{layer}.bias", bias))
        x = self.node(
            "Conv",
            inputs,
            f"{layer}/Conv",
            kernel_shape=[width, width],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=kernel.shape[0] if kernel.shape[1] == 1 and "depthwise" in conv else 1,
        )
        return self.node("Clip", [x, "zero", "six"], f"{layer}/Clip") if relu else x


def build(weights: Weights) -> onnx.ModelProto:
    """The network with its batch normalisations folded into the convolutions."""
    net = _Writer(weights)
    size = SIZE
    x = net.conv("input", "_conv_stem", "_bn0", size, stride=2)
    size //= 2
    block = 0
    for repeats, _, first_stride in STAGES:
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            at, begin = f"_blocks.{block}", x
            if f"{at}._expand_conv.weight" in weights:
                x = net.conv(x, f"{at}._expand_conv", f"{at}._bn0", size)
            x = net.conv(x, f"{at}._depthwise_conv", f"{at}._bn1", size, stride)
            size = -(-size // stride)
            x = net.conv(x, f"{at}._project_conv", f"{at}._bn2", size, relu=False)
            if index:
                x = net.node("Add", [x, begin], f"/blocks/{block}/Add")
            block += 1
    x = net.conv(x, "_conv_head", "_bn1", size)
    x = net.node("GlobalAveragePool", [x], "/avg_pooling/GlobalAveragePool")
    x = net.node("Flatten", [x], "/Flatten", axis=1)
    parts = [x, net.constant("/fc.weight", weights["_fc.weight"]), net.constant("/fc.bias", weights["_fc.bias"])]
    x = net.node("Gemm", parts, "/fc/Gemm", transB=1)
    net.node("Softmax", [x], "/Softmax", output="scores", axis=1)
    graph = helper.make_graph(
        net.nodes,
        "efficientnet_lite0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        net.constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="edgerun-tests"
    )
    onnx.checker.check_model(model, full_check=True)
    return model
