"""Changes to a float model that leave its answers alone and make them easier to keep in int8."""

from __future__ import annotations

from collections.abc import Mapping

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
