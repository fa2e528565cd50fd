"""Pixel values → tensor values, written straight into the tensor by the cheapest means that gives the same numbers.

A tensor value is (pixel − mean) / std, and where the tensor is quantised that number divided by `scale`, rounded half
away from zero, plus `zero_point`, saturated (TensorFlow Lite 8-bit quantisation specification; `QuantizeLinear` of ONNX
rounds half to even, which differs only on exact halves).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerun.errors import ModelError
from edgerun.types import Tensor, TensorSpec

Image8 = NDArray[np.uint8]
Writer = Callable[[], object]
"""Writes the pixels of the buffer it was made for into the tensor it was made for."""

_BITS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.float64}
"""Element size in bytes → a type of that size that OpenCV knows."""

_ROW = 4096
"""Values that a constant row has at least: long enough for the loop over rows to cost nothing, short enough for L1."""


def value_table(spec: TensorSpec, mean: Sequence[float], std: Sequence[float]) -> NDArray[Any]:
    """channels×256 of the tensor's dtype: what each 8-bit pixel becomes. Raises `ModelError` for other than numbers."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind not in "fiu":
        raise ModelError(
            "this input cannot hold a picture", where=spec.name, expected="a float or integer type", got=spec.dtype
        )
    pixels = np.arange(256, dtype=np.float64)
    real = (pixels - np.asarray(mean, np.float64)[:, None]) / np.asarray(std, np.float64)[:, None]
    if dtype.kind == "f":
        return real.astype(dtype)
    if len(spec.scale) > 1:
        raise ModelError("a picture input is quantised per channel", where=spec.name, expected="one scale")
    if spec.scale:
        real = real / spec.scale[0]
    zero_point = spec.zero_point[0] if spec.zero_point else 0
    limits = np.iinfo(dtype)
    rounded = np.copysign(np.floor(np.abs(real) + 0.5), real) + zero_point
    return rounded.clip(limits.min, limits.max).astype(dtype)


def is_identity(table: NDArray[Any]) -> bool:
    """Whether pixels are the tensor's values as they are: then nothing needs to be written after the conversion."""
    return table.dtype == np.uint8 and bool((table == np.arange(256)).all())


def make_writer(
    pixels: Image8,
    tensor: Tensor,
    table: NDArray[Any],
    mean: Sequence[float],
    std: Sequence[float],
    spec: TensorSpec,
) -> Writer:
    """A writer from `pixels` (H×W or H×W×C, contiguous) to `tensor` (same shape, contiguous), without temporaries.

    `table` has one row per channel of `pixels`. Float32 is computed, not looked up, and lies within 2 ulp of the
    table's largest magnitude; every other type is exactly the table's.
    """
    import cv2

    uniform = bool((table == table[0]).all())
    if tensor.dtype == np.float32:
        return _float_writer(pixels, tensor, mean, std)
    if uniform and table.dtype.itemsize == 1:
        alpha = 1 / (std[0] * (spec.scale[0] if spec.scale else 1))
        affine = (alpha, (spec.zero_point[0] if spec.zero_point else 0) - mean[0] * alpha)
        writer = _byte_writer(pixels, tensor.view(np.uint8), table[0].view(np.uint8), table.dtype == np.int8, affine)
        if writer is not None:
            return writer
    # cv2.LUT moves entries of 1, 2, 4 and 8 bytes whatever they mean, several times faster than numpy.take.
    bits = _BITS[table.dtype.itemsize]
    lookup = np.ascontiguousarray((table[:1] if uniform else table).view(bits).T)[None]
    target = tensor.view(bits)
    return lambda: cv2.LUT(pixels, lookup, target)


def _byte_writer(
    pixels: Image8, target: Image8, table: Image8, signed: bool, affine: tuple[float, float]
) -> Writer | None:
    """The fastest writer whose values are the table's, tried over all 256 pixels; None when only a lookup is.

    `affine`: the factor and offset that the table rounds.
    """
    import cv2

    every = np.arange(256, dtype=np.uint8)
    if (table == every).all():
        return lambda: np.copyto(target, pixels)
    if (table == every ^ 128).all():
        return lambda: np.bitwise_xor(pixels, 128, out=target)
    # Quantising is affine up to rounding: OpenCV's vectorised |pixel·alpha + beta| does it where the rounding agrees.
    wanted = table ^ 128 if signed else table
    alpha, beta = affine[0], affine[1] + 128 * signed
    # A row long enough for the vector path and its remainder, which round on their own.
    row = np.tile(every, 3)[:-5]
    if (cv2.convertScaleAbs(row, alpha=alpha, beta=beta).ravel() != np.tile(wanted, 3)[:-5]).any():
        return None
    if not signed:
        return lambda: cv2.convertScaleAbs(pixels, target, alpha, beta)

    def write() -> None:
        cv2.convertScaleAbs(pixels, target, alpha, beta)
        np.bitwise_xor(target, 128, out=target)

    return write


def _float_writer(pixels: Image8, tensor: Tensor, mean: Sequence[float], std: Sequence[float]) -> Writer:
    """pixel·alpha + beta. One fused pass where alpha is the same for all channels, else three."""
    import cv2

    alphas = [1 / value for value in std]
    betas = [-m / s for m, s in zip(mean, std, strict=True)]
    rows = _rows(tensor.size, len(alphas) * tensor.shape[1])
    lines, source = tensor.reshape(rows, -1), pixels.reshape(rows, -1)
    repeat = lines.shape[1] // len(alphas)
    alpha = alphas[0]
    if all(value == alpha for value in alphas) and abs(1 - alpha) > 0.01:
        # accumulateWeighted is tensor·(1 − alpha) + pixel·alpha: a tensor filled with beta/(1 − alpha) makes it affine.
        start = np.tile(np.array(betas, np.float64) / (1 - alpha), repeat).astype(np.float32)

        def fused() -> None:
            np.copyto(lines, start)
            cv2.accumulateWeighted(source, lines, alpha)

        return fused
    factor = np.tile(np.array(alphas, np.float32), repeat)
    offset = np.tile(np.array(betas, np.float32), repeat)

    def separate() -> None:
        np.copyto(lines, source)
        np.multiply(lines, factor, out=lines)
        np.add(lines, offset, out=lines)

    return separate


def _rows(size: int, width: int) -> int:
    """How many equal parts to cut `size` values into: whole picture rows (`width` values), at least `_ROW` each."""
    height = size // width
    for rows in range(max(1, size // _ROW), 1, -1):
        if height % rows == 0:
            return rows
    return 1
