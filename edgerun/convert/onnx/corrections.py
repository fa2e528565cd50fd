"""What is put right around the quantiser: moved biases, unequal channels, 8-bit outputs, layers that are to stay float.

Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction"
(ICCV 2019), sections 4.1 and 4.2, with the calibration samples in place of statistics guessed from batch normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerun.convert.onnx import graph as graphs
from edgerun.convert.onnx.ranges import Observed

_MOST_GAIN = 16.0
"""How far one channel is scaled up at most: beyond it the consumer's weights for it drown in their own rounding."""
_HEADROOM = 1.25
"""Room above the largest value observed, for samples that are not among those of calibration."""
_Means = Mapping[str, npt.NDArray[np.float64] | None]


def correct_biases(made: Any, original: Any, means: _Means) -> None:
    """Change the 32-bit biases of the quantised model `made` so that each channel's mean output is the float one's.

    A channel's mean error is its weights' rounding error times the mean input of each input channel (section 4.2); the
    borders, where padding lowers that mean, are left out of account. Layers without a bias are left as they are.
    """
    held, floats = graphs.constants(made.graph), graphs.constants(original.graph)
    for node in original.graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        weight, bias, mean = node.input[1], node.input[2], means.get(node.input[0])
        rounded, scale = held.get(f"{weight}_quantized"), held.get(f"{weight}_scale")
        target, bias_scale = held.get(f"{bias}_quantized"), held.get(f"{bias}_quantized_scale")
        if rounded is None or scale is None or target is None or bias_scale is None or mean is None:
            continue
        wanted = graphs.array(floats[weight])
        axis = graphs.weight_axis(node)
        if node.op_type == "Gemm" and graphs.attribute(node, "transA", 0):
            continue
        shape = [-1 if one == axis else 1 for one in range(wanted.ndim)]
        error = graphs.array(rounded) * graphs.array(scale).reshape(shape) - wanted
        shift = _mean_shift(error, mean, axis, graphs.attribute(node, "group", 1))
        values = graphs.array(target).astype(np.int64)
        moved = values - np.round(shift / graphs.array(bias_scale)).astype(np.int64).reshape(values.shape)
        limits = np.iinfo(np.int32)
        fresh = np.clip(moved, limits.min, limits.max).astype(np.int32)
        target.CopyFrom(graphs.tools().numpy_helper.from_array(fresh, target.name))


def free_outputs(made: Any, original: Any) -> None:
    """Let a Gemm or MatMul that only float operators read give its 32-bit sum as float, without a detour over 8 bits.

    ONNX Runtime has kernels for that (com.microsoft.QGemm without output scale, MatMulIntegerToFloat); a convolution
    has none and would run in float, so its output stays 8-bit.
    """
    behind, readers = graphs.tail(original.graph), graphs.consumers(original.graph)
    last = {
        node.name
        for node in original.graph.node
        if node.op_type in ("Gemm", "MatMul") and all(one.name in behind for one in readers.get(node.output[0], []))
    }
    read_by, gone = graphs.consumers(made.graph), []
    for node in made.graph.node:
        reads = read_by.get(node.output[0], []) if node.name in last else []
        if len(reads) == 1 and reads[0].op_type == "QuantizeLinear":
            (back,) = read_by[reads[0].output[0]]
            node.output[0] = back.output[0]
            gone += [reads[0], back]
    for node in gone:
        made.graph.node.remove(node)
    _drop_unread(made.graph)


def hold_floats(made: Any) -> None:
    """See to it that layers left in float stay so: put a LeakyRelu of slope 1, which changes nothing, behind each.

    ONNX Runtime (microsoft/onnxruntime#22969; seen in 1.31) quantises the constants of a float Conv, ConvTranspose or
    Gemm that stands between DequantizeLinear and QuantizeLinear, looking through Relu and Clip: with one scale for all
    channels, so worse than what was to be avoided. It does not look through LeakyRelu, which it joins to the
    convolution later, so this costs no pass over the values. Measured on a network for Fashion-MNIST with two of seven
    layers in float: 42.0 dB with, 38.3 dB without, 38.7 dB all int8.
    """
    helper = graphs.tools().helper
    readers, makers = graphs.consumers(made.graph), graphs.producers(made.graph)
    placed = []
    for node in made.graph.node:
        placed.append(node)
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        before = [getattr(makers.get(name), "op_type", "") for name in node.input[:2]]
        if before == ["DequantizeLinear", ""] and _ends_in_quantize(node, readers):
            name = node.output[0]
            node.output[0] = f"{name}_float"
            placed.append(helper.make_node("LeakyRelu", [node.output[0]], [name], f"{node.name}_float", alpha=1.0))
    del made.graph.node[:]
    made.graph.node.extend(placed)


def _ends_in_quantize(node: Any, readers: Mapping[str, list[Any]]) -> bool:
    reads = readers.get(node.output[0], [])
    while len(reads) == 1 and reads[0].op_type in graphs.ACTIVATIONS:
        reads = readers.get(reads[0].output[0], [])
    return len(reads) == 1 and bool(reads[0].op_type == "QuantizeLinear")


def _drop_unread(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    for tensor in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(tensor)


def equalise(model: Any, observed: Mapping[str, Observed]) -> str | None:
    """Scale up, in place, the channels of an activation that use little of its range; the next layer scales back.

    Between a convolution and the depthwise convolution that alone reads it, both with a scale for each channel, this
    costs no precision of weights, so each channel may fill the tensor's range. A Relu lets any positive factor through;
    a Clip at 0 and 6 does so only while the scaled channel stays below 6, so the factor is bounded by what was
    observed, with `_HEADROOM` to spare. Returns what was done as a sentence, None where the graph has no such pair.
    """
    pairs = channels = 0
    held = graphs.constants(model.graph)
    for before, name, after in _pairs(model.graph, held):
        seen = observed.get(name)
        if seen is None or seen.channel_high is None or seen.channel_low is None:
            continue
        peak = np.maximum(np.abs(seen.channel_low), np.abs(seen.channel_high)).astype(np.float64)
        gain = np.clip(peak.max() / np.maximum(peak * _HEADROOM, 1e-9), 1.0, _MOST_GAIN)
        for constant in before.input[1:3]:
            _scale(held[constant], gain)
        _scale(held[after.input[1]], 1 / gain)
        pairs, channels = pairs + 1, channels + int((gain > 1).sum())
    return f"{channels} channels of {pairs} layers were scaled to the range of their neighbours." if pairs else None


def _pairs(graph: Any, held: Mapping[str, Any]) -> Iterator[tuple[Any, str, Any]]:
    """Convolution, the activation that leaves it, and the depthwise convolution that alone reads it."""
    readers, makers = graphs.consumers(graph), graphs.producers(graph)
    outputs = {one.name for one in graph.output}
    for after in graph.node:
        if after.op_type != "Conv" or after.input[1] not in held:
            continue
        weight = held[after.input[1]]
        if graphs.attribute(after, "group", 1) != weight.dims[0] or weight.dims[1] != 1:
            continue
        chain = [makers.get(after.input[0])]
        if chain[0] is not None and _lets_factors_through(chain[0], held):
            chain.append(makers.get(chain[0].input[0]))
        before = chain[-1]
        if before is None or before.op_type != "Conv":
            continue
        made = [one.output[0] for one in chain if one is not None]
        constants = [*before.input[1:3], after.input[1]]
        alone = all(len(readers[one]) == 1 for one in (*made, *constants)) and not outputs & set(made)
        if alone and all(one in held for one in constants):
            yield before, after.input[0], after


def _lets_factors_through(node: Any, held: Mapping[str, Any]) -> bool:
    if node.op_type != "Clip":
        return bool(node.op_type == "Relu")
    low = held.get(node.input[1]) if len(node.input) > 1 else None
    return low is not None and float(graphs.array(low).reshape(-1)[0]) == 0.0


def _scale(tensor: Any, factors: npt.NDArray[np.float64]) -> None:
    values = graphs.array(tensor)
    scaled = values * factors.reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
    tensor.CopyFrom(graphs.tools().numpy_helper.from_array(scaled.astype(np.float32), tensor.name))


def _mean_shift(
    error: npt.NDArray[np.float64], mean: npt.NDArray[np.float64], axis: int, group: int
) -> npt.NDArray[np.float64]:
    """By output channel: the sum over input channels of the weights' error × the channel's mean input.

    `error`: the layer's weights' rounding error in the layer's own layout, `axis` counting output channels.
    """
    by_output = np.moveaxis(error, axis, 0)
    by_output = by_output.reshape(by_output.shape[0], by_output.shape[1], -1).sum(axis=2)  # out × in/group
    outputs, inputs = by_output.shape
    of_group = mean.reshape(group, inputs)[np.arange(outputs) * group // outputs]
    return np.asarray((by_output * of_group).sum(axis=1))
