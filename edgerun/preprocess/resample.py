"""A window of samples at one rate → the same stretch of time at another."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgerun.errors import ModelError

Method = Literal["sinc", "linear"]

_ZEROS = 16
_BETA = 9.0
_CUTOFF = 0.92
_MOST_DENSE = 1_000_000  # a matrix of 4 MB: multiplying by it takes a tenth of the time of picking what is not 0


class Resample:
    """`samples` at `to_hz` out of a window at `from_hz` that lasts as long; the first samples fall together.

    `sinc`: Kaiser-windowed (β 9, 16 zero crossings to each side, cut off at 0.92 of the lower Nyquist frequency): in
    the inner part of the window within 0.1 dB up to 0.80 of it, and what would alias from 1.09 on is 80 dB down; nearer
    to an end than 17 samples of the lower rate the first or last value stands for what lies outside. `linear`: between
    neighbours, with no regard to aliasing: for rates that differ little and slow signals. Both are a weighted sum of
    inputs whose weights are computed here, once; `einsum` sums them, because a BLAS starts threads for it.
    """

    def __init__(self, from_hz: float, to_hz: float, samples: int, channels: int = 1, method: Method = "sinc") -> None:
        if not (0 < from_hz < math.inf and 0 < to_hz < math.inf):
            raise ModelError("not a sample rate", expected="two numbers of Hz above 0", got=f"{from_hz}, {to_hz}")
        self.window_samples = max(1, math.ceil((samples - 1) * from_hz / to_hz - 1e-9) + 1)
        at = np.arange(samples) * (from_hz / to_hz)
        centres = np.floor(at + 1e-9).astype(np.int64)
        if method == "linear":
            offsets = np.arange(2)
            near = np.clip(1 - np.abs(offsets - (at - centres)[:, None]), 0, None)
        else:
            cutoff = _CUTOFF * min(1.0, to_hz / from_hz)
            reach = math.ceil(_ZEROS / cutoff)
            offsets = np.arange(1 - reach, reach + 1)
            distance = (offsets - (at - centres)[:, None]) * cutoff
            inside = np.clip(1 - (distance / _ZEROS) ** 2, 0, None)
            near = np.sinc(distance) * np.i0(_BETA * np.sqrt(inside)) * (inside > 0)
        self._weights = (near / near.sum(1, keepdims=True)).astype(np.float32)
        self._indices = np.clip(centres[:, None] + offsets, 0, self.window_samples - 1)
        self._columns = np.zeros((channels, self.window_samples), np.float32)
        self._matrix: NDArray[np.float32] | None = None
        if samples * self.window_samples <= _MOST_DENSE:
            self._matrix = np.zeros((samples, self.window_samples), np.float32)
            np.add.at(self._matrix, (np.arange(samples)[:, None], self._indices), self._weights)

    def convert(self, window: NDArray[Any], out: NDArray[np.float32]) -> None:
        """`window` (`window_samples`×channels) → `out` (samples×channels)."""
        np.copyto(self._columns, window.T)
        if self._matrix is not None:
            np.einsum("ns,cs->nc", self._matrix, self._columns, out=out)
        else:
            np.einsum("cnk,nk->nc", self._columns[:, self._indices], self._weights, out=out)
