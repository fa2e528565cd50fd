"""Raw outputs and what their numbers stand for.

A quantised value stands for real = scale · (q − zero_point) (TensorFlow Lite 8-bit quantisation specification). Scores
are compared as they come out of the model: a threshold is turned into a raw value once, so that only what reaches it is
ever made into floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import copysign, inf, log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgerun.errors import FrameError
from edgerun.types import Tensor, TensorSpec

Activation = Literal["none", "sigmoid"]


def describe(specs: Sequence[TensorSpec]) -> str:
    """The outputs in one line, for messages: `scores 1×1917×24 int8, boxes 1×1917×4 int8`."""
    return ", ".join(f"{spec.name} {shape_text(spec.shape)} {spec.dtype}" for spec in specs) or "no outputs"


def shape_text(shape: Sequence[int]) -> str:
    """`1×?×4`: `?` where the model leaves the dimension open."""
    return "×".join("?" if side < 0 else str(side) for side in shape) if shape else "unspecified"


class Buffer:
    """An array kept from call to call, made again only when another shape or type is asked for. For one thread."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array: NDArray[Any] = np.empty(0)

    def of(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """The array; what it holds is left from before."""
        if self._array.shape != shape or self._array.dtype != dtype:
            self._array = np.empty(shape, dtype)
        return self._array


def dequantise(raw: Tensor, spec: TensorSpec, out: Buffer | None = None) -> NDArray[np.float32]:
    """`raw` (any part of the tensor when quantised per tensor, else all of it) as real values, float32.

    Written into `out` where there is one. Tensors without quantisation keep their values; float32 is
    returned as it is, not copied.
    """
    if raw.dtype == np.float32:
        return raw
    real: NDArray[np.float32] = np.empty(raw.shape, np.float32) if out is None else out.of(raw.shape, np.float32)
    np.copyto(real, raw, casting="unsafe")
    if not spec.scale or raw.dtype.kind == "f":
        return real
    zero_points = spec.zero_point or (0,) * len(spec.scale)
    if len(spec.scale) == 1:
        np.subtract(real, np.float32(zero_points[0]), out=real)
        return np.multiply(np.float32(spec.scale[0]), real, out=real)
    along = [1] * raw.ndim
    along[spec.quantized_axis] = -1
    np.subtract(real, np.asarray(zero_points, np.float32).reshape(along), out=real)
    return np.multiply(np.asarray(spec.scale, np.float32).reshape(along), real, out=real)


def sigmoid(real: NDArray[Any], out: NDArray[np.float32] | None = None, wide: Buffer | None = None) -> NDArray[Any]:
    """1 / (1 + e^−x), float32, written as ½(1 + tanh(x/2)), which cannot overflow.

    Written into `out` where there is one, which may be `real` itself, and worked out in `wide`, kept in float64.
    """
    work = np.empty(real.shape, np.float64) if wide is None else wide.of(real.shape, np.float64)
    np.copyto(work, real)
    np.multiply(work, 0.5, out=work)
    np.tanh(work, out=work)
    np.add(work, 1.0, out=work)
    np.multiply(work, 0.5, out=work)
    if out is None:
        return work.astype(np.float32)
    np.copyto(out, work, casting="same_kind")
    return out


def softmax(real: NDArray[Any], axis: int = -1, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """e^x / Σ e^x along `axis`, float32, shifted by the largest x, which cannot overflow; infinite x become NaN.

    Written into `out` where there is one, which may be `real` itself.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        shifted: NDArray[np.float32] = np.subtract(real, real.max(axis=axis, keepdims=True), out=out)
        np.exp(shifted, out=shifted)
        np.divide(shifted, shifted.sum(axis=axis, keepdims=True), out=shifted)
    return shifted


def not_numbers(what: str, spec: TensorSpec, where: str) -> FrameError:
    """The error for NaN or infinity in an output."""
    return FrameError(
        f"{what} are not numbers",
        where=where,
        reason="decode",
        expected=f"finite values in output {spec.name}",
        got="NaN or infinity",
        remedy="if every frame fails, the model's weights or its quantisation are broken: prepare it again",
    )


def wrong_size(raw: Tensor, spec: TensorSpec, expected: str, where: str) -> FrameError:
    """The error for an output whose real shape is not the one the model stated."""
    return FrameError(
        f"output {spec.name} has another shape than the model states",
        where=where,
        reason="decode",
        expected=expected,
        got=shape_text(raw.shape),
    )


class ScoreMap:
    """Raw scores ↔ scores in 0..1, and the threshold on the raw side.

    `below` is a raw value: whatever does not exceed it cannot reach the threshold. For 8- and 16-bit tensors with one
    scale the scores are a table over all raw values, which is monotonic, and `comparable` passes the raw tensor
    through; every other tensor is compared as float32.
    """

    def __init__(self, spec: TensorSpec, threshold: float, activation: Activation, where: str) -> None:
        self._spec, self._where, self._activation = spec, where, activation
        self.threshold = np.float32(threshold)
        self._table: NDArray[np.float32] | None = None
        self._real, self._gathered, self._passing = Buffer(), Buffer(), Buffer()
        self._lowest = 0
        self.below: Any
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        if spec.dtype in ("int8", "uint8", "int16", "uint16") and len(spec.scale) == 1:
            limits = np.iinfo(spec.dtype)
            self._lowest = int(limits.min)
            real = dequantise(np.arange(limits.min, limits.max + 1), spec)
            self._table = sigmoid(real) if activation == "sigmoid" else real
            first = int(np.searchsorted(self._table, self.threshold, side="left"))
            self.below = self._lowest + first - 1
            # Below the lowest raw value (everything passes) lies outside the tensor's own type.
            self.dtype = np.dtype(spec.dtype if first else np.int32)
        elif activation == "sigmoid":
            # A margin for rounding on both sides; `reaching` looks again at the scores themselves.
            share = float(self.threshold)
            logit = log(share / (1 - share)) if 0 < share < 1 else copysign(inf, share - 0.5)
            self.below = min(logit, 12.0) - 0.01
        else:
            self.below = float(np.nextafter(self.threshold, np.float32(-inf)))
        # Of the tensor's own type: NumPy would take 32 KiB for each comparison that converts.
        self.below = self.dtype.type(self.below)

    def comparable(self, raw: Tensor) -> Tensor:
        """The tensor in the domain of `below`: `raw` itself, or its real values, valid until the next call.

        Raises `FrameError` on NaN.
        """
        if self._table is not None:
            return raw
        real = dequantise(raw, self._spec, self._real)
        if real.size and np.isnan(real.max()):
            raise not_numbers("scores", self._spec, self._where)
        return real

    def scores(self, values: Tensor) -> NDArray[np.float32]:
        """`values` (of `comparable`) as scores. Raises `FrameError` when they lie outside 0..1."""
        if self._table is not None:
            scores = self._table[values.astype(np.intp) - self._lowest]
        else:
            scores = sigmoid(values) if self._activation == "sigmoid" else values
        # Quantisation may round a probability of 1 up by part of a quantum.
        if scores.size and float(scores.max()) > 1.02:
            raise FrameError(
                f"scores of output {self._spec.name} are not probabilities",
                where=self._where,
                reason="decode",
                expected="0..1",
                got=f"{float(scores.max()):g}",
                remedy='these look like logits: set score = "sigmoid" in the decoder\'s options',
            )
        return np.minimum(scores, np.float32(1.0))

    def reaching(self, values: Tensor, below: Tensor | int | float) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Flat indices and scores of the `values` (of `comparable`) that reach the threshold.

        `below` is `self.below` or an array of it, shaped as `values`, with the dtype's maximum (infinity) where nothing
        may pass.
        """
        if not values.flags.c_contiguous:
            # Compared in the order of its dimensions it would be gathered in pieces, more slowly.
            gathered = self._gathered.of(values.shape, values.dtype)
            np.copyto(gathered, values)
            values = gathered
        found = np.flatnonzero(np.greater(values, below, out=self._passing.of(values.shape, np.bool_)))
        scores = self.scores(values.reshape(-1)[found])
        enough = scores >= self.threshold
        return (found, scores) if enough.all() else (found[enough], scores[enough])


def match(
    specs: Sequence[TensorSpec], fits: Callable[[TensorSpec], bool], words: Sequence[str], name: str
) -> list[int]:
    """Indices of the outputs that can play a role: all that fit, or the one of them that is meant.

    With a `name` it is the one called so; else `words`, parts of the names that exports give the role, decide between
    several outputs that fit.
    """
    fitting = [index for index, spec in enumerate(specs) if fits(spec) and name in ("", spec.name)]
    if len(fitting) > 1:
        named = [index for index in fitting if any(word in specs[index].name.lower() for word in words)]
        return named if len(named) == 1 else fitting
    return fitting
