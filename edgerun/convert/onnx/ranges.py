"""What is kept of a tensor's values over the calibration samples, and the range that 8 bits are spread over.

One pass over the samples serves every method: the histogram's reach doubles when a value lies beyond it, so no values
are held back (onnxruntime.quantization keeps every tensor of every sample for its percentile and entropy methods:
3.5 GB for 50 pictures of an EfficientNet-Lite0).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Method = Literal["minmax", "average", "percentile", "entropy", "mse"]
BINS = 4096
MOST_VALUES = 1 << 16
"""Values of a tensor that go into its histogram for one sample, evenly spaced; extremes and means see all of them."""
_LEVELS = 256
_LEAST = 2.0**-100
"""Magnitudes below it fall into the two bins beside 0, so that one over the bins' width is a float32."""
_UNSEEN = 1e-6
"""Probability given to a bin that rounding leaves empty, where the divergence would be infinite."""
_Floats = npt.NDArray[np.float64]


class Histogram:
    """Counts over [-reach, reach), `reach` a power of two that grows with the values."""

    def __init__(self) -> None:
        self.reach = 0.0
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Counts `values` (one dimension, finite)."""
        top = float(np.abs(values).max(initial=0.0))
        if top == 0 and self.reach == 0:
            return
        while self.reach <= top:
            self._grow(top)
        at = (values * np.float32(BINS / 2 / self.reach) + np.float32(BINS / 2)).astype(np.int32)
        self.counts += np.bincount(np.clip(at, 0, BINS - 1), minlength=BINS)

    def _grow(self, top: float) -> None:
        if self.reach == 0:
            self.reach = 2.0 ** math.floor(math.log2(max(top, _LEAST)) + 1)
            return
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts[:] = 0
        self.counts[BINS // 4 : BINS * 3 // 4] = pairs
        self.reach *= 2

    def filled(self) -> tuple[_Floats, _Floats]:
        """The middles of the bins that hold something, and their counts."""
        width = 2 * self.reach / BINS
        at = np.flatnonzero(self.counts)
        middles = (at.astype(np.float64) + 0.5) * width - self.reach
        return middles, self.counts[at].astype(np.float64)


class Observed:
    """One tensor over all samples. `channel_*`: by dimension 1, for tensors of two or more dimensions."""

    def __init__(self) -> None:
        self.lows: list[float] = []
        self.highs: list[float] = []
        self.histogram = Histogram()
        self.channel_low: npt.NDArray[np.float32] | None = None
        self.channel_high: npt.NDArray[np.float32] | None = None
        self._sum: _Floats | None = None

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Takes in one sample's values, of any shape; all finite."""
        if not values.size:
            return
        if values.ndim > 1:
            self._add_channels(values)
        self.lows.append(float(values.min()))
        self.highs.append(float(values.max()))
        flat = values.reshape(-1)
        self.histogram.add(flat[:: -(-flat.size // MOST_VALUES)])

    def _add_channels(self, values: npt.NDArray[np.float32]) -> None:
        by_channel = values.reshape(values.shape[0], values.shape[1], -1)
        low, high = by_channel.min(axis=(0, 2)), by_channel.max(axis=(0, 2))
        mean = by_channel.mean(axis=(0, 2), dtype=np.float64)
        if self._sum is None or self.channel_low is None or self.channel_high is None:
            self._sum, self.channel_low, self.channel_high = mean, low, high
        else:
            self._sum += mean
            self.channel_low, self.channel_high = np.minimum(self.channel_low, low), np.maximum(self.channel_high, high)

    @property
    def channel_mean(self) -> _Floats | None:
        """Mean of each channel over all samples."""
        return None if self._sum is None else self._sum / max(len(self.lows), 1)

    def range(self, method: Method, percentile: float) -> tuple[float, float]:
        """(lowest, highest) that 8 bits should cover; 0 lies in it, as the standard's zero point asks for.

        `minmax` the extremes; `average` the mean of the samples' extremes; `percentile` what that share of the values
        lies in, cut evenly at both ends; `entropy` the symmetric cut of least Kullback-Leibler divergence, which
        suits bells and is drawn towards a peak away from 0, such as an even background; `mse` the cut of least squared
        error.
        """
        if not self.lows:
            return 0.0, 0.0
        low, high = min(*self.lows, 0.0), max(*self.highs, 0.0)
        centres, counts = self.histogram.filled()
        if method == "average":
            low, high = min(float(np.mean(self.lows)), 0.0), max(float(np.mean(self.highs)), 0.0)
        elif method == "percentile" and centres.size:
            low, high = _percentile(centres, counts, percentile, low, high)
        elif method == "entropy" and centres.size:
            cut = _entropy_cut(self.histogram, max(-low, high))
            low, high = max(low, -cut), min(high, cut)
        elif method == "mse" and centres.size:
            low, high = _least_error(centres, counts, low, high)
        return low, high


def _percentile(centres: _Floats, counts: _Floats, percentile: float, low: float, high: float) -> tuple[float, float]:
    share = np.cumsum(counts) / counts.sum()
    outside = (1 - percentile / 100) / 2
    below = float(centres[int(np.searchsorted(share, outside))])
    above = float(centres[min(int(np.searchsorted(share, 1 - outside)), centres.size - 1)])
    return max(low, min(below, 0.0)), min(high, max(above, 0.0))


def _least_error(centres: _Floats, counts: _Floats, low: float, high: float) -> tuple[float, float]:
    """Move one end, then the other, each to the share of its extreme that costs least (Banner et al., 2019, measure the
    same trade between clipping and rounding in closed form for given distributions)."""
    shares = np.linspace(0.1, 1.0, 91)
    for _ in range(2):
        if high > 0:
            errors = [_squared_error(centres, counts, low, high * share) for share in shares]
            high *= float(shares[np.argmin(errors)])
        if low < 0:
            errors = [_squared_error(centres, counts, low * share, high) for share in shares]
            low *= float(shares[np.argmin(errors)])
    return low, high


def _squared_error(centres: _Floats, counts: _Floats, low: float, high: float) -> float:
    step = (high - low) / (_LEVELS - 1)
    if step <= 0:
        return float((counts * centres**2).sum())
    taken = np.clip(np.round((centres - low) / step), 0, _LEVELS - 1) * step + low
    return float((counts * (taken - centres) ** 2).sum())


def _entropy_cut(histogram: Histogram, reach: float) -> float:
    """The |value| at which cutting and then rounding to 128 levels diverges least from what was seen.

    Migacz, "8-bit Inference with TensorRT" (GTC 2017), on the magnitudes. The bin next to 0 is left out, as there: what
    a Relu set to 0 is exact at every range, and its peak would outweigh everything else.
    """
    bins, levels = BINS // 2, _LEVELS // 2
    sizes = (histogram.counts[bins:] + histogram.counts[bins - 1 :: -1]).astype(np.float64)
    sizes[0] = 0
    filled = np.flatnonzero(sizes)
    if not filled.size:
        return reach
    last = int(filled[-1]) + 1
    best, best_cut = math.inf, reach
    for end in range(min(levels, last), last + 1, max(1, levels // 16)):
        found = _divergence(sizes[:end], float(sizes[end:].sum()), levels)
        if found <= best:
            best, best_cut = found, end * histogram.reach / bins
    return best_cut


def _divergence(sizes: _Floats, beyond: float, levels: int) -> float:
    """Kullback-Leibler divergence of `sizes`, with what lies beyond in the last bin, from itself at `levels` levels."""
    groups = np.arange(sizes.size) * levels // max(sizes.size, levels)
    held = np.bincount(groups, weights=sizes, minlength=levels)
    used = np.bincount(groups, weights=sizes > 0, minlength=levels)
    spread = np.where(sizes > 0, (held / np.maximum(used, 1))[groups], 0.0)
    p = sizes.copy()
    p[-1] += beyond
    p, q = p / p.sum(), spread / max(spread.sum(), 1e-12)
    q = np.maximum(q, _UNSEEN)
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / q[filled])).sum())
