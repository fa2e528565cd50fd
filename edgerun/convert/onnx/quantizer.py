"""Int8 ONNX by onnxruntime.quantization, from ranges that are collected once.

What is made is QDQ: unsigned 8-bit activations with a zero point, signed 8-bit weights with a scale per output channel.
Signed activations cost 1.7 to 2.3 times as long on x86 (VNNI multiplies unsigned by signed) and gain nothing on arm64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.onnx import graph as graphs
from edgerun.convert.onnx.calibration import feed, observe
from edgerun.convert.onnx.corrections import correct_biases, equalise, free_outputs, hold_floats
from edgerun.convert.onnx.ranges import Method
from edgerun.convert.onnx.sessions import open_session
from edgerun.convert.parts import Layer, Network, Progress, Samples
from edgerun.convert.search import rank
from edgerun.errors import ConfigError, ModelError

MOST_SQNR_DB = 120.0
"""What is said of outputs that agree to float32's own precision."""


class OnnxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`method`: how ranges follow from what was observed; `percentile`: for that method, in percent.

    `equalise`: scale channels between neighbours to one range before anything else. `bias_correction`: take the mean
    error that rounded weights make out of the biases. `reduce_range`: 7-bit weights, for x86 without VNNI, where pairs
    of products saturate 16 bits. `dynamic`: ranges at run time instead of calibration; refused. `input_ranges`: input
    name → real range that its 8-bit form must hold (of pixels: (0 − mean) / std … (255 − mean) / std), where the
    samples may not show it all.
    """

    method: Method = "mse"
    percentile: float = 99.99
    equalise: bool = False
    bias_correction: bool = True
    reduce_range: bool = False
    dynamic: bool = False
    input_ranges: Mapping[str, tuple[float, float]] = {}


class OnnxQuantizer:
    """`parts.Quantizer` over onnxruntime.quantization. Not thread-safe; construction runs the calibration samples.

    Raises `ModelError` for a network without anything to quantise, `ConfigError` for samples that do not fit,
    `MissingError` without the `onnx` package.
    """

    def __init__(self, network: Network, calibration: Samples, options: OnnxOptions, progress: Progress) -> None:
        onnx = graphs.tools()
        if not 50 < options.percentile <= 100:
            raise ConfigError("no such percentile", expected="more than 50, up to 100", got=options.percentile)
        self._options = options
        self._where = network.path
        self._model = onnx.load_model(str(network.path))
        self._layers = graphs.layers(self._model.graph)
        if not any(layer.op in graphs.WEIGHTED for layer in self._layers.values()):
            raise ModelError(
                "the model has nothing that 8 bits would help",
                where=network.path,
                expected="Conv, Gemm or MatMul with constant weights",
                got=", ".join(sorted({node.op_type for node in self._model.graph.node})) or "an empty graph",
                remedy="keep it as it is, or ask for fp16, which halves the file",
            )
        if options.dynamic:
            refuse_dynamic(self._model.graph, str(network.path))
        self.tools: Mapping[str, str] = {**network.tools, "onnxruntime": version("onnxruntime")}
        self.notes: list[str] = []
        self._observed = observe(self._model, calibration, self._tensors(), progress)
        if options.equalise and (made := equalise(self._model, self._observed)):
            self.notes.append(made)
            self._observed = observe(self._model, calibration, self._tensors(), progress)
        self._ranges = {name: seen.range(options.method, options.percentile) for name, seen in self._observed.items()}
        for name, (low, high) in options.input_ranges.items():
            if name in self._ranges:
                self._ranges[name] = min(low, 0.0), max(high, 0.0)

    @property
    def layers(self) -> Sequence[Layer]:
        return tuple(self._layers.values())

    def sensitivity(self, samples: Samples, progress: Progress) -> Mapping[str, float]:
        """The lowest SQNR among the float outputs, over all samples, at most `MOST_SQNR_DB`.

        Takes one build, one session and a run of every sample for each layer.
        """
        reference = _Outputs(self._model.SerializeToString(), samples, str(self._where))
        found = {}
        for index, name in enumerate(self._layers):
            progress("measure each layer", index, len(self._layers))
            alone = self._quantise(frozenset(self._layers) - {name}).SerializeToString()
            found[name] = reference.sqnr_db(alone, samples)
        progress("measure each layer", len(self._layers), len(self._layers))
        return found

    def ranked(self, sensitivity: Mapping[str, float]) -> Sequence[str]:
        """See `parts.Quantizer`: the most sensitive first."""
        return rank(self.layers, sensitivity)

    def precisions(self, kept: frozenset[str]) -> Mapping[str, str]:
        """See `parts.Quantizer`."""
        return {layer.name: "float32" if layer.name in kept else "int8" for layer in self.layers}

    def build(self, kept: frozenset[str]) -> bytes:
        """The .onnx file with the layers in `kept` in float32. Raises `ConfigError` for a name that is no layer."""
        unknown = kept - self._layers.keys()
        if unknown:
            raise ConfigError("no such layer", where=self._where, got=", ".join(sorted(unknown)))
        return bytes(self._quantise(kept).SerializeToString())

    def _tensors(self) -> list[str]:
        """Every float activation that may get a scale: what quantisable operators read and make."""
        shapes, held = graphs.float_shapes(self._model.graph), graphs.constants(self._model.graph)
        nodes = [node for node in self._model.graph.node if node.op_type in graphs.QUANTISABLE]
        names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
        return [name for name in names if name in shapes and name not in held]

    def _excluded(self, kept: Iterable[str]) -> list[str]:
        """The nodes that stay float: kept layers, those that cannot be layers, and the graph's tail."""
        arithmetic = (*graphs.WEIGHTED, *graphs.ARITHMETIC)
        nodes = self._model.graph.node
        loose = [one.name for one in nodes if one.op_type in arithmetic and one.name not in self._layers]
        return [*kept, *loose, *graphs.tail(self._model.graph)]

    def _quantise(self, kept: frozenset[str]) -> Any:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        model = graphs.tools().ModelProto()
        model.CopyFrom(self._model)
        ranges = {name: (np.float32(low), np.float32(high)) for name, (low, high) in self._ranges.items()}
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=self._options.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=self._excluded(kept),
            op_types_to_quantize=list(graphs.QUANTISABLE),
            extra_options={"ForceQuantizeNoInputCheck": False},
        )
        quantizer.quantize_model()
        made = quantizer.model.model
        if self._options.bias_correction:
            means = {name: seen.channel_mean for name, seen in self._observed.items()}
            correct_biases(made, self._model, means)
        free_outputs(made, self._model)
        hold_floats(made)
        return made


def refuse_dynamic(graph: Any, where: str) -> None:
    """Raises `ModelError` where ranges at run time would not serve: for convolutions always."""
    convolutions = sum(node.op_type in ("Conv", "ConvTranspose") for node in graph.node)
    raise ModelError(
        "quantisation with ranges found at run time is refused",
        where=where,
        expected="calibrated (static) quantisation",
        got=f"{convolutions} convolutions" if convolutions else "a network that calibration serves better",
        remedy="calibrate: ONNX Runtime runs dynamically quantised convolutions as ConvInteger, 4 to 13 times slower "
        "than the float model"
        if convolutions
        else "calibrate with samples of the model's inputs: the ranges are then constants and nothing is measured in "
        "each inference",
    )


class _Outputs:
    """The float network's outputs for a set of samples, to compare with."""

    def __init__(self, model: bytes, samples: Samples, where: str) -> None:
        self._where = where
        session = open_session(model, where)
        self._names = [one.name for one in session.get_outputs() if one.type == "tensor(float)"]
        self._wanted = [session.run(self._names, feed(session, samples[i])) for i in range(len(samples))]

    def sqnr_db(self, model: bytes, samples: Samples) -> float:
        session = open_session(model, self._where)
        signal, noise = np.zeros(len(self._names)), np.zeros(len(self._names))
        for index, wanted in enumerate(self._wanted):
            for at, got in enumerate(session.run(self._names, feed(session, samples[index]))):
                signal[at] += float(np.square(wanted[at], dtype=np.float64).sum())
                noise[at] += float(np.square(wanted[at].astype(np.float64) - got).sum())
        worst = MOST_SQNR_DB
        for power, error in zip(signal, noise, strict=True):
            if error > 0:
                worst = min(worst, 10 * math.log10(power / error) if power > 0 else 0.0)
        return worst
