"""Windows of samples → the signal input of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgerun.errors import FrameError, ModelError
from edgerun.preprocess.features import Features
from edgerun.preprocess.resample import Method, Resample
from edgerun.types import Box, Placement, Tensor, TensorSpec

Layout = Literal["TC", "CT"]
"""Time before channel, or channel before time; sides of 1 may stand anywhere."""


class SignalPreprocess:
    """Resamples, turns into features, normalises and quantises windows into the rows of the input's tensor.

    `channels` and `samples` are the model's; what its shape states need not be given. With `features` the shape is
    frames×bins, time before channel, and the window has one channel. `rates` (of the source, of the model; Hz) when
    they differ. `mean` and `std` act on the values as they come from the source, or on the features; one number per
    channel or bin, or one for all. Quantised inputs get value/scale, rounded half away from zero, + zero point,
    saturated (TensorFlow Lite 8-bit quantisation specification). All buffers are allocated here. Used by one thread at
    a time. Raises `ModelError` when the input does not take such windows.

    `size` is (channels, samples) of the windows that `prepare` takes: what the source has to deliver. `stateful`: its
    features remember, so it is one stream's, whose windows follow each other without overlap; `reset` after a gap.
    """

    def __init__(
        self,
        spec: TensorSpec,
        *,
        samples: int | None = None,
        channels: int = 1,
        layout: Layout | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        rates: tuple[float, float] | None = None,
        method: Method = "sinc",
        features: Features | None = None,
        rows: int = 1,
    ) -> None:
        if features is not None:
            samples, channels = features.shape
            layout = layout or "TC"
        length, order = _fit(spec, samples, channels, layout)
        self._check_type(spec, rows)
        self._features = features
        self.stateful = features is not None and features.stateful
        model_samples = length if features is None else features.window_samples
        source_channels = channels if features is None else 1
        self._resample: Resample | None = None
        if rates is not None and rates[0] != rates[1]:
            self._resample = Resample(*rates, model_samples, source_channels, method)
        window_samples = model_samples if self._resample is None else self._resample.window_samples
        self.size = (source_channels, window_samples)
        self.rate_hz = rates[0] if self._resample is not None and rates is not None else None
        """At what rate samples come; None: at the model's own."""
        stretch = rates[0] / rates[1] if self._resample is not None and rates is not None else 1.0
        self.hop_samples = max(1, round(model_samples * stretch))
        """From one window to the next where none overlaps another: a window resampled differs by some samples."""
        self._taken = (window_samples, source_channels)
        self._resampled = np.zeros((model_samples, source_channels), np.float32)
        self._finite = np.zeros(self._taken, np.bool_)
        scale = spec.scale[0] if spec.scale else 1.0
        self._shift = -_per_channel("mean", mean, channels, spec)
        self._factor = (1 / (_per_channel("std", std, channels, spec) * scale)).astype(np.float32)
        self._zero_point = float(spec.zero_point[0]) if spec.zero_point else 0.0
        self._values = np.zeros((length, channels), np.float32)
        self._rounded = np.zeros((length, channels), np.float32)
        batched = len(spec.shape) > 1
        sides = (length, channels) if order == "TC" else (channels, length)
        shape = _filled(spec.shape[1:] if batched else spec.shape, sides)
        self._tensor: Tensor = np.zeros((rows, *shape) if batched else shape, spec.dtype)
        rows_of = self._tensor if batched else self._tensor[None]
        self._rows = [self._tensor[i : i + 1] if batched else self._tensor for i in range(rows)]
        self._targets = [row.reshape(sides) if order == "TC" else row.reshape(sides).T for row in rows_of]

    def prepare(self, image: NDArray[Any], region: Box | None = None, row: int = 0) -> tuple[Tensor, Placement]:
        """See `ports.Preprocess`. `image` is no picture but a window, samples×channels float32 as `size` says.

        Raises `FrameError` for a window of another shape or with values that are no numbers, or a region.
        """
        if image.shape != self._taken or image.dtype.kind != "f" or region is not None:
            raise FrameError(
                "this window cannot be used",
                reason="preprocess",
                expected=f"{self._taken[0]} samples×{self._taken[1]} channels float32, all of it",
                got=f"{'×'.join(map(str, image.shape))} {image.dtype}{'' if region is None else f', {region} of it'}",
            )
        np.isfinite(image, out=self._finite)
        if not self._finite.all():
            raise FrameError("the window holds values that are no numbers", reason="preprocess")
        window = image
        if self._resample is not None:
            self._resample.convert(image, self._resampled)
            window = self._resampled
        if self._features is not None:
            window = self._features.extract(window[:, 0])
        self._write(window, self._targets[row])
        return self._rows[row], Placement()

    def batch(self, rows: int, first: int = 0) -> Tensor:
        """See `ports.Preprocess`."""
        return self._tensor[first : first + rows] if self._tensor.ndim > 1 else self._tensor

    def reset(self) -> None:
        """Forget what went before: the next window does not follow the last one."""
        if self._features is not None:
            self._features.reset()

    def _write(self, window: NDArray[Any], target: Tensor) -> None:
        values = self._values
        np.add(window, self._shift, out=values)
        np.multiply(values, self._factor, out=values)
        if target.dtype.kind != "f":
            rounded = self._rounded
            np.abs(values, out=rounded)
            np.add(rounded, 0.5, out=rounded)
            np.floor(rounded, out=rounded)
            np.copysign(rounded, values, out=values)
            np.add(values, self._zero_point, out=values)
            limits = np.iinfo(target.dtype)
            np.clip(values, limits.min, limits.max, out=values)
        np.copyto(target, values, casting="unsafe")

    @staticmethod
    def _check_type(spec: TensorSpec, rows: int) -> None:
        dtype = np.dtype(spec.dtype)
        if dtype.kind not in "fiu" or (dtype.kind != "f" and dtype.itemsize > 2):
            raise ModelError(
                "this input cannot hold a signal",
                where=spec.name,
                expected="a float, or an integer of 8 or 16 bits",
                got=spec.dtype,
            )
        if len(spec.scale) > 1:
            raise ModelError("a signal input is quantised per channel", where=spec.name, expected="one scale")
        if len(spec.shape) < 2 and rows > 1:
            raise ModelError("this input has no batch dimension", where=spec.name, expected="rows 1", got=rows)


def _fit(spec: TensorSpec, samples: int | None, channels: int, layout: Layout | None) -> tuple[int, Layout]:
    """How many samples the input takes, and in which order. Raises `ModelError`."""
    shape = spec.shape[1:] if len(spec.shape) > 1 else spec.shape
    found: dict[Layout, int] = {}
    for order in ("TC", "CT") if layout is None else (layout,):
        length = _length(shape, channels, order)
        if length == -1:
            length = samples
        if length is not None and samples in (None, length) and length > 0:
            found[order] = length
    if len(found) == 1 or (len(found) == 2 and _same_memory(found, channels)):
        order = next(iter(found))
        return found[order], order
    raise ModelError(
        "the input does not say clearly which way samples go into it" if found else "the input takes no such windows",
        where=spec.name,
        expected=f"a batch, {samples or 'some'} samples and {channels} channels, {layout or 'TC or CT'}",
        got="×".join("?" if side < 0 else str(side) for side in spec.shape) or "a scalar",
        remedy="state samples, channels and layout (TC: time before channel, CT: channel before time) in the manifest",
    )


def _same_memory(found: dict[Layout, int], channels: int) -> bool:
    lengths = set(found.values())
    return len(lengths) == 1 and (channels == 1 or lengths == {1})


def _length(shape: tuple[int, ...], channels: int, layout: Layout) -> int | None:
    """The side of time in `shape`, -1 where open; None when `shape` is not one of (channels, time) and ones."""
    sides = [side for side in shape if side != 1]
    if channels == 1 and len(sides) <= 1:
        return sides[0] if sides else 1
    if len(sides) == 1:  # one sample of many channels
        return 1 if sides[0] in (channels, -1) else None
    if len(sides) != 2:
        return None
    time, channel = sides if layout == "TC" else reversed(sides)
    return time if channel in (channels, -1) else None


def _filled(shape: tuple[int, ...], sides: tuple[int, int]) -> tuple[int, ...]:
    """`shape` with its open sides filled in, in order, by those of `sides` that are not stated elsewhere."""
    left = list(sides)
    for side in shape:
        if side in left:
            left.remove(side)
    while len(left) > shape.count(-1):
        left.remove(1)
    filling = iter(left)
    return tuple(next(filling, 1) if side == -1 else side for side in shape)


def _per_channel(key: str, values: Sequence[float], channels: int, spec: TensorSpec) -> NDArray[np.float32]:
    numbers = np.array(values, np.float64)
    if len(numbers) not in (1, channels) or not np.isfinite(numbers).all() or (key == "std" and numbers.min() <= 0):
        raise ModelError(
            f"{key} does not fit the input",
            where=spec.name,
            expected=f"{channels} finite numbers{', each above 0' if key == 'std' else ''}, or one for all",
            got=list(values),
        )
    return numbers.astype(np.float32)
