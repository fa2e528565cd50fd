"""Changes to a float model that leave its answers alone and make them easier to keep in int8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerun.convert.tflite.graph import FloatArray, Graph
from edgerun.convert.tflite.ranges import Range, Seen

_BIAS_ROOM = 2.0**28
"""Largest bias that is let into int32, of 2³¹: the sums of products that are added to it need room too."""


def rows_of(weights: FloatArray, axis: int) -> FloatArray:
    """Weights as [output channels, the rest], a copy."""
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).copy()


def back_from_rows(rows: FloatArray, like: FloatArray, axis: int) -> FloatArray:
    """The inverse of `rows_of`."""
    moved = np.moveaxis(like, axis, 0)
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved.shape), 0, axis))


def keep_dead_biases(graph: Graph, ranges: Mapping[str, Range]) -> int:
    """Lift one weight of each channel whose bias int32 could not hold otherwise; how many channels were lifted.

    A channel whose weights are all (nearly) zero is a constant, its bias. int8 keeps a bias in units of input scale ×
    weight scale; with weights of zero that unit is so small that the bias does not fit and is lost, and all that reads
    the channel is off. The lifted weight times the largest input stays below bias · 127 · 255 / 2²⁸ = 1.2e-4 of it.
    """
    lifted = 0
    for op, axis in graph.weighted():
        bias, weights = graph.constant(graph.bias_of(op)), graph.constant(int(op.inputs[1]))
        data = int(op.inputs[2 if graph.kind(op) == "TRANSPOSE_CONV" else 0])
        span = ranges.get(graph.name(data))
        if bias is None or weights is None or span is None:
            continue
        scale = max(max(span[1], 0.0) - min(span[0], 0.0), 1e-9) / 255
        rows = rows_of(weights, axis)
        least = np.maximum(127 * np.abs(bias) / (scale * _BIAS_ROOM), 1e-9)
        dead = np.nonzero(np.abs(rows).max(axis=1) < least)[0]
        for channel in dead:
            rows[channel, np.abs(rows[channel]).argmax()] = least[channel]
        if len(dead):
            graph.set_constant(int(op.inputs[1]), back_from_rows(rows, weights, axis))
            lifted += len(dead)
    return lifted


def rounded(weights: FloatArray, axis: int) -> FloatArray:
    """Weights as int8 per channel keeps them: symmetric, scale = greatest |w| / 127 (TFLite 8-bit specification)."""
    rows = rows_of(weights, axis)
    scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-9) / 127
    return back_from_rows((np.rint(rows / scale) * scale).astype(np.float32), weights, axis)


def correct_biases(graph: Graph, seen: Mapping[str, Seen], names: frozenset[str]) -> int:
    """Take out of each bias the mean that rounding the weights adds to the layer's output; how many were changed.

    E[(Ŵ − W)·x] with the calibration data's mean x per input channel (Nagel et al., "Data-free quantization through
    weight equalization and bias correction", ICCV 2019, section 4.2); the zeros around a padded picture are taken for
    inputs like the others. `names`: the layers whose weights will be int8.
    """
    changed = 0
    for op, axis in graph.weighted():
        bias, weights = graph.constant(graph.bias_of(op)), graph.constant(int(op.inputs[1]))
        data = int(op.inputs[2 if graph.kind(op) == "TRANSPOSE_CONV" else 0])
        stats = seen.get(graph.name(data))
        if bias is None or weights is None or stats is None or graph.layer(op) not in names:
            continue
        shift = _mean_shift(rounded(weights, axis) - weights, stats.mean, graph.kind(op))
        if shift is not None:
            graph.set_constant(graph.bias_of(op), (bias - shift).astype(np.float32))
            changed += 1
    return changed


def _mean_shift(error: FloatArray, mean: FloatArray, kind: str) -> NDArray[np.float64] | None:
    """The mean of `error`·x per output channel; None where the weights do not go with the input channel by channel."""
    if kind == "DEPTHWISE_CONV_2D":  # weights [1, h, w, channels · multiplier]
        times = error.shape[-1] // max(len(mean), 1)
        return (error.sum(axis=(0, 1, 2)) * np.repeat(mean, times)) if times * len(mean) == error.shape[-1] else None
    if error.shape[-1] != len(mean):  # grouped convolutions, inputs that are flattened on the way
        return None
    return np.asarray(error.reshape(error.shape[0], -1, len(mean)).sum(axis=1) @ mean, np.float64)


def equalise(graph: Graph, seen: Mapping[str, Seen]) -> int:
    """Scale the channels between two layers so that none is crowded by its neighbours; how many pairs were scaled.

    Channel i is divided by s = √(r₁ / r₂), r₁ its greatest |activation|, r₂ the greatest weight that reads it, which
    the second layer takes back: cross-layer equalisation (Nagel et al., ICCV 2019, section 4.1) with the activation's
    range for the first layer's, whose weights have a scale per channel anyway. Exact only where nothing but a ReLU
    lies in between and nobody else reads it; a ReLU6 saturates at another value then, and such pairs are left alone.
    `seen` holds no longer for what lies between the pairs.
    """
    consumers, outputs = graph.consumers(), {int(i) for i in graph.main.outputs}
    scaled = 0
    for op, axis in list(graph.weighted()):
        between = int(op.outputs[0])
        readers = consumers.get(between, [])
        fused = getattr(op.builtinOptions, "fusedActivationFunction", 0)
        if len(readers) != 1 or between in outputs or fused not in _SCALES_WITH or graph.name(between) not in seen:
            continue
        reader = graph.main.operators[readers[0]]
        stats = seen[graph.name(between)]
        first, second = graph.constant(int(op.inputs[1])), _weights_by_input(graph, reader, between, len(stats.mean))
        bias = graph.constant(graph.bias_of(op))
        if first is None or second is None or bias is None or graph.kind(op) == "TRANSPOSE_CONV":
            continue
        sides = [1] * second.ndim
        sides[-1] = -1
        scale = _scales(stats, np.abs(second).reshape(-1, second.shape[-1]).max(axis=0))
        graph.set_constant(int(op.inputs[1]), back_from_rows(rows_of(first, axis) / scale[:, None], first, axis))
        graph.set_constant(graph.bias_of(op), (bias / scale).astype(np.float32))
        graph.set_constant(int(reader.inputs[1]), (second * scale.reshape(sides)).astype(np.float32))
        scaled += 1
    return scaled


_SCALES_WITH = (0, 1)
"""ActivationFunctionType NONE and RELU: f(s·x) = s·f(x) for s > 0."""


def _weights_by_input(graph: Graph, reader: Any, between: int, channels: int) -> FloatArray | None:
    """The weights of what reads `between`, where their last axis counts its channels; else None."""
    kind = graph.kind(reader)
    if kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") or int(reader.inputs[0]) != between:
        return None
    weights = graph.constant(int(reader.inputs[1]))
    fits = weights is not None and weights.dtype == np.float32 and weights.shape[-1] == channels
    return weights if fits else None


def _scales(stats: Seen, second: FloatArray) -> FloatArray:
    first = np.maximum(np.abs(stats.channel_low), np.abs(stats.channel_high))
    live = (first > 1e-6) & (second > 1e-6)
    if not live.any():
        return np.ones_like(first)
    scale = np.where(live, np.sqrt(first / np.maximum(second, 1e-6)), 1.0)
    middle = np.exp(np.log(scale[live]).mean())
    return np.asarray(np.where(live, np.clip(scale / middle, 0.1, 10.0), 1.0), np.float32)
