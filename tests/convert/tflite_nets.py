"""Small float TensorFlow Lite files, written operator by operator, so that tests need no converter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from edgerun.convert.parts import Network, Sample

_TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9}
INPUT = "picture"


class Writer:
    """Tensors and operators of one subgraph; `bytes()` is the file."""

    def __init__(self) -> None:
        self.model: Any = schema.ModelT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes, self.model.signatureDefs, self.model.metadata = [], None, None
        self.graph: Any = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.model.subgraphs = [self.graph]

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "float32", open_shape: Any = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), list(shape), _TYPES[dtype], 0
        tensor.shapeSignature = open_shape
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, values: NDArray[Any], scale: Any = None, axis: int = 0) -> int:
        number = self.tensor(name, values.shape, str(values.dtype))
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[number].buffer = len(self.model.buffers) - 1
        if scale is not None:
            stated = schema.QuantizationParametersT()
            stated.scale, stated.zeroPoint = list(scale), [0] * len(scale)
            stated.quantizedDimension = axis
            self.graph.tensors[number].quantization = stated
        return number

    def op(self, kind: str, inputs: list[int], outputs: list[int], options: str = "", **fields: Any) -> None:
        number = getattr(schema.BuiltinOperator, kind)
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        self.model.operatorCodes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(self.model.operatorCodes) - 1, inputs, outputs
        if options:
            op.builtinOptions = getattr(schema, options + "T")()
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            for name, value in fields.items():
                setattr(op.builtinOptions, name, value)
        self.graph.operators.append(op)

    def bytes(self) -> bytes:
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))


def small_net(seed: int = 0, dead: int = 0, open_batch: bool = False) -> Writer:
    """picture 1×16×16×3 → conv 8 → depthwise → 1×1 to 16 → add → mean → dense 5 → softmax, random weights.

    The first `dead` channels of the first convolution have weights of zero and a bias of 1.
    """
    random = np.random.default_rng(seed)
    w = Writer()

    def weights(name: str, shape: tuple[int, ...], fan: int) -> int:
        values = (random.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
        if name == "conv/weights" and dead:
            values[:dead] = 0
        return w.constant(name, values)

    def bias(name: str, count: int) -> int:
        values = (random.standard_normal(count) * 0.1).astype(np.float32)
        if name == "conv/bias" and dead:
            values[:dead] = 1
        return w.constant(name, values)

    picture = w.tensor(INPUT, (1, 16, 16, 3), open_shape=[-1, 16, 16, 3] if open_batch else None)
    conv = w.tensor("conv;conv/relu;and/more/names", (1, 8, 8, 8))
    options = {"padding": 0, "strideH": 2, "strideW": 2, "fusedActivationFunction": 3}
    w.op(
        "CONV_2D",
        [picture, weights("conv/weights", (8, 3, 3, 3), 27), bias("conv/bias", 8)],
        [conv],
        "Conv2DOptions",
        **options,
        dilationWFactor=1,
        dilationHFactor=1,
    )
    depth = w.tensor("depth", (1, 8, 8, 8))
    w.op(
        "DEPTHWISE_CONV_2D",
        [conv, weights("depth/weights", (1, 3, 3, 8), 9), bias("depth/bias", 8)],
        [depth],
        "DepthwiseConv2DOptions",
        padding=0,
        strideH=1,
        strideW=1,
        depthMultiplier=1,
        dilationWFactor=1,
        dilationHFactor=1,
        fusedActivationFunction=3,
    )
    points = []
    for name, source in (("left", depth), ("right", conv)):
        point = w.tensor(name, (1, 8, 8, 16))
        w.op(
            "CONV_2D",
            [source, weights(f"{name}/weights", (16, 1, 1, 8), 8), bias(f"{name}/bias", 16)],
            [point],
            "Conv2DOptions",
            padding=0,
            strideH=1,
            strideW=1,
            dilationWFactor=1,
            dilationHFactor=1,
        )
        points.append(point)
    both, mean = w.tensor("both", (1, 8, 8, 16)), w.tensor("mean", (1, 16))
    w.op("ADD", points, [both], "AddOptions")
    w.op("MEAN", [both, w.constant("axes", np.array([1, 2], np.int32))], [mean], "ReducerOptions")
    dense, scores = w.tensor("dense", (1, 5)), w.tensor("scores", (1, 5))
    w.op(
        "FULLY_CONNECTED",
        [mean, weights("dense/weights", (5, 16), 2), bias("dense/bias", 5)],
        [dense],
        "FullyConnectedOptions",
    )
    w.op("SOFTMAX", [dense], [scores], "SoftmaxOptions", beta=1.0)
    w.graph.inputs, w.graph.outputs = [picture], [scores]
    return w


class Pictures(list[Sample]):
    """Samples in memory."""

    source = "memory"


def pictures(count: int, seed: int = 1) -> Pictures:
    """Smooth random pictures in −1..1, as the net's input."""
    random = np.random.default_rng(seed)
    found = Pictures()
    for number in range(count):
        coarse = random.uniform(-1, 1, (4, 4, 3))
        value = np.kron(coarse, np.ones((4, 4, 1))) * 0.8 + random.uniform(-0.2, 0.2, (16, 16, 3))
        found.append(Sample(str(number), {INPUT: value[None].astype(np.float32)}))
    return found


def run(content: bytes, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """The last output for each sample, real values."""
    from edgerun.convert.tflite.ranges import Runner

    runner = Runner(content, threads=1)
    return np.stack([runner.outputs(sample)[-1][0] for sample in samples])


def saved(writer: Writer, folder: Path) -> Network:
    """The net read by the importer."""
    from edgerun.convert.tflite.importing import read

    path = folder / "net.tflite"
    path.write_bytes(writer.bytes())
    return read(path, folder)
