"""What YOLO heads measure their boxes in: pixels of the model's input, or 0..1 of it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgerun.decode.tensors import dequantise, not_numbers
from edgerun.errors import ModelError
from edgerun.ports import DecoderContext
from edgerun.types import Tensor, TensorSpec

Units = Literal["auto", "pixels", "normalised"]

_BORDER = 2
"""Between the largest coordinate of boxes in 0..1, which lies near 1, and that of boxes in pixels."""


def input_size(context: DecoderContext) -> tuple[int, int]:
    """Width and height of the picture input: as the context states it, else by the input's shape (NHWC or NCHW)."""
    if min(context.input_size) > 0:
        return context.input_size
    for spec in context.inputs:
        if len(spec.shape) == 4 and spec.shape[3] in (1, 3) and min(spec.shape[1:3]) > 0:
            return spec.shape[2], spec.shape[1]
        if len(spec.shape) == 4 and spec.shape[1] in (1, 3) and min(spec.shape[2:]) > 0:
            return spec.shape[3], spec.shape[2]
    return 0, 0


def known_units(units: Units, spec: TensorSpec, size: tuple[int, int], where: str) -> Units:
    """The units where they can be known before the first frame; raises `ModelError` where pixels cannot be read."""
    if units == "auto" and spec.scale and spec.dtype in ("int8", "uint8"):
        top = np.array(np.iinfo(spec.dtype).max)
        units = "normalised" if dequantise(top, spec) <= _BORDER else "pixels"
    if units != "normalised" and min(size) <= 0:
        raise ModelError(
            "boxes may be in pixels and the size of the model's input is not known",
            where=where,
            expected="the size of the picture input, or boxes in 0..1",
            got=f"input size {size[0]}×{size[1]}",
            remedy='state the input\'s size in the manifest, or set box_units = "normalised"',
        )
    return units


def in_pixels(units: Units, x: Tensor, y: Tensor, spec: TensorSpec, where: str) -> bool:
    """Whether boxes are in pixels; with "auto" by the largest of all coordinates `x` and `y`.

    Raises `FrameError` when those are not numbers.
    """
    if units != "auto":
        return units == "pixels"
    top = np.maximum(x.max(), y.max())  # of each alone: together NumPy would gather them
    largest = float(dequantise(np.asarray(top), spec))
    if not np.isfinite(largest):
        raise not_numbers("boxes", spec, where)
    return largest > _BORDER
