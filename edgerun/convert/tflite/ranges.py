"""What the activations of a float model hold on calibration data, and which part of it int8 should cover.

A range is (least, greatest) real value that the 256 levels of a tensor are spread over; values outside saturate.

    minmax      everything seen
    average     the mean of each sample's least and greatest value: one odd picture does not cost all the others
    percentile  all but the given share of the values at each end
    entropy     the threshold whose clipped and quantised histogram is nearest the original's in Kullback-Leibler
                divergence (Migacz, "8-bit inference with TensorRT", GTC 2017), both ends alike
    mse         the range of least mean squared error, rounding and clipping together (Banner et al., "Post training
                4-bit quantization of convolutional networks", NeurIPS 2019, found by search instead of by a model)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgerun.convert.parts import Sample, Samples
from edgerun.convert.tflite.graph import FloatArray, Graph
from edgerun.errors import ModelError

Method = Literal["minmax", "average", "percentile", "entropy", "mse"]
Range = tuple[float, float]
Histogram = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Counts [n] and edges [n + 1]."""

BINS = 2048
"""Of a histogram: as TensorRT's calibrator has, eight per level of int8."""
LEVELS = 256


class Seen(msgspec.Struct, frozen=True):
    """What one float32 tensor held: its ends, its mean per channel (last axis), and its histogram where one was made.

    `channel_low` and `channel_high` are the ends per channel.
    """

    low: float
    high: float
    average: Range
    mean: FloatArray
    channel_low: FloatArray
    channel_high: FloatArray
    histogram: Histogram | None = None


class Runner:
    """A model's interpreter fed with Samples; every tensor stays readable with `keep_all`."""

    def __init__(self, content: bytes, threads: int = 2, keep_all: bool = False) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with warnings.catch_warnings():
            # It warns that keeping all tensors costs memory: that is the price of looking at them.
            warnings.simplefilter("ignore")
            self._interpreter: Any = Interpreter(
                model_content=content, num_threads=threads, experimental_preserve_all_tensors=keep_all
            )
            self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()

    def run(self, sample: Sample) -> None:
        """Infer `sample`, quantised where the model's own input is. Raises `ModelError` for one that does not fit."""
        for detail in self._inputs:
            value = _input_of(sample, detail, len(self._inputs))
            scale, zero = detail["quantization"]
            if scale and value.dtype.kind == "f":
                held = np.iinfo(detail["dtype"])
                value = np.clip(np.rint(value / scale + zero), held.min, held.max)
            try:
                self._interpreter.set_tensor(detail["index"], value.astype(detail["dtype"], copy=False))
            except ValueError as error:
                raise ModelError("a sample does not fit the model", where=sample.origin, got=error) from error
        self._interpreter.invoke()

    def outputs(self, sample: Sample) -> list[FloatArray]:
        """Every output for `sample` as real values, in the order of the file."""
        self.run(sample)
        return [self._real(detail) for detail in self._outputs]

    def tensor(self, number: int) -> FloatArray:
        """A computed float32 tensor of the last run; needs `keep_all`."""
        return np.asarray(self._interpreter.get_tensor(number), np.float32)

    def _real(self, detail: dict[str, Any]) -> FloatArray:
        value = self._interpreter.get_tensor(detail["index"])
        scale, zero = detail["quantization"]
        values: FloatArray = value.astype(np.float32)
        return np.asarray((values - zero) * np.float32(scale), np.float32) if scale else values


def _input_of(sample: Sample, detail: dict[str, Any], inputs: int) -> NDArray[Any]:
    name = str(detail["name"])
    if name in sample.inputs:
        return np.asarray(sample.inputs[name])
    if inputs == 1 and len(sample.inputs) == 1:
        return np.asarray(next(iter(sample.inputs.values())))
    raise ModelError(
        "a sample lacks one of the model's inputs", where=sample.origin, expected=name, got=sorted(sample.inputs)
    )


def observe(graph: Graph, samples: Samples, histograms: bool, progress: Callable[[int, int], None]) -> dict[str, Seen]:
    """What every float activation of `graph` holds over `samples`, by tensor name.

    With `histograms` the samples are run a second time. Raises `ModelError` where a tensor holds no finite numbers, or
    when there are no samples.
    """
    if not len(samples):
        raise ModelError("there is nothing to calibrate on", where=graph.where, expected="samples", got=0)
    content, tensors = graph.to_bytes(), list(dict.fromkeys(graph.float_activations()))
    runs = 2 if histograms else 1
    ends: dict[int, list[_Ends]] = {tensor: [] for tensor in tensors}
    for done, values in enumerate(_trace(content, samples, tensors), 1):
        for tensor, value in values:
            ends[tensor].append(_ends_of(graph, tensor, value))
        progress(done, runs * len(samples))
    seen = {graph.name(tensor): _joined(found) for tensor, found in ends.items()}
    if not histograms:
        return seen
    counts = {tensor: np.zeros(BINS) for tensor in tensors}
    for done, values in enumerate(_trace(content, samples, tensors), len(samples) + 1):
        for tensor, value in values:
            stats = seen[graph.name(tensor)]
            counts[tensor] += np.histogram(value, BINS, _spread(stats.low, stats.high))[0]
        progress(done, runs * len(samples))
    for tensor in tensors:
        stats = seen[graph.name(tensor)]
        edges = np.linspace(*_spread(stats.low, stats.high), BINS + 1)
        seen[graph.name(tensor)] = msgspec.structs.replace(stats, histogram=(counts[tensor], edges))
    return seen


def _trace(content: bytes, samples: Samples, tensors: list[int]) -> Iterator[Iterator[tuple[int, FloatArray]]]:
    runner = Runner(content, keep_all=True)
    for index in range(len(samples)):
        runner.run(samples[index])
        yield ((tensor, runner.tensor(tensor)) for tensor in tensors)


class _Ends(msgspec.Struct, frozen=True):
    low: FloatArray
    high: FloatArray
    mean: FloatArray


def _ends_of(graph: Graph, tensor: int, value: FloatArray) -> _Ends:
    rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
    found = _Ends(rows.min(axis=0), rows.max(axis=0), rows.mean(axis=0))
    if not (np.isfinite(found.low).all() and np.isfinite(found.high).all()):
        raise ModelError(
            "a layer gives no finite numbers on the calibration data",
            where=f"{graph.where}, {graph.name(tensor)}",
            expected="finite values",
            got=f"{found.low.min()} … {found.high.max()}",
            remedy="check the normalisation (--mean, --std) and the model itself: float does not work either",
        )
    return found


def _joined(found: list[_Ends]) -> Seen:
    low, high = np.min([f.low for f in found], axis=0), np.max([f.high for f in found], axis=0)
    lows, highs = [float(f.low.min()) for f in found], [float(f.high.max()) for f in found]
    mean = np.asarray(np.mean([f.mean for f in found], axis=0), np.float32)
    return Seen(float(low.min()), float(high.max()), (float(np.mean(lows)), float(np.mean(highs))), mean, low, high)


def _spread(low: float, high: float) -> Range:
    """The ends, a little apart where they are one: a histogram needs a width."""
    return (low, high) if high > low else (low - 1e-6, low + 1e-6)


def choose(seen: Mapping[str, Seen], method: Method, percentile: float = 99.99) -> dict[str, Range]:
    """The range of each tensor by `method`; `percentile` (50..100) is the share of values kept below the upper end."""
    return {name: _chosen(stats, method, percentile) for name, stats in seen.items()}


def needs_histograms(method: Method) -> bool:
    """Whether `choose` by this method wants `observe` to have counted histograms."""
    return method in ("percentile", "entropy", "mse")


def _chosen(stats: Seen, method: Method, percentile: float) -> Range:
    if method == "average":
        return stats.average
    if method == "minmax" or stats.histogram is None or not stats.high > stats.low:
        return stats.low, stats.high
    if method == "percentile":
        return by_percentile(stats.histogram, percentile)
    return by_entropy(stats.histogram) if method == "entropy" else by_error(stats.histogram)


def by_percentile(histogram: Histogram, percentile: float) -> Range:
    """The ends that leave out 100 − `percentile` % of the values at either."""
    counts, edges = histogram
    share = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    outside = 1 - percentile / 100
    low = edges[np.searchsorted(share, outside, "right") - 1]
    high = edges[np.searchsorted(share, 1 - outside, "left")]
    return float(min(low, 0.0)), float(max(high, 0.0))


def by_error(histogram: Histogram, steps: int = 48) -> Range:
    """The range of least mean squared error: each end in turn is drawn towards zero in `steps`, twice."""
    counts, edges = histogram
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)
    shrink = np.linspace(1.0, 0.05, steps)
    for _ in range(2):
        high = min((high * s for s in shrink), key=lambda end: _error(centres, counts, low, end)) if high > 0 else high
        low = min((low * s for s in shrink), key=lambda end: _error(centres, counts, end, high)) if low < 0 else low
    return low, high


def _error(centres: NDArray[np.float64], counts: NDArray[np.float64], low: float, high: float) -> float:
    """Sum of squared errors: rounding as its expectation inside (step²/12), clipping as it is outside."""
    step = max(high - low, 1e-12) / (LEVELS - 1)
    beyond = np.maximum(centres - high, 0) + np.maximum(low - centres, 0)
    return float((counts * np.where(beyond > 0, beyond**2, step**2 / 12)).sum())


def by_entropy(histogram: Histogram) -> Range:
    """The threshold on |x| of least Kullback-Leibler divergence, cut to what was seen at each end."""
    counts, edges = histogram
    most = max(abs(edges[0]), abs(edges[-1]))
    folded = np.histogram(np.abs((edges[:-1] + edges[1:]) / 2), BINS, (0, most), weights=counts)[0]
    folded[0] = folded[1]  # zeros are exact at any threshold; a rectifier's would drown everything else
    levels = LEVELS // 2 if edges[0] < 0 else LEVELS
    ends = range(levels, BINS + 1, levels // 8)
    best = min(ends, key=lambda end: _divergence(folded, end, levels))
    limit = best / BINS * most
    return max(float(edges[0]), -limit), min(float(edges[-1]), limit)


def _divergence(folded: NDArray[np.float64], end: int, levels: int) -> float:
    wanted = folded[:end].copy()
    wanted[-1] += folded[end:].sum()
    filled = folded[:end] > 0
    level = np.arange(end) * levels // end
    mass, wide = np.bincount(level, folded[:end], levels), np.bincount(level, filled, levels)
    got = np.where(filled, (mass / np.maximum(wide, 1))[level], 0)
    if not got.sum():
        return float("inf")
    p, q = wanted / wanted.sum(), np.maximum(got / got.sum(), 1e-12)
    held = p > 0
    return float((p[held] * np.log(p[held] / q[held])).sum())
