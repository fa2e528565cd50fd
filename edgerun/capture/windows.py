"""A run of samples → overlapping windows, and when each sample was taken."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DRIFT = 5e-4
"""How much slower than it says a device's clock may run: crystals keep within 1e-4, RC oscillators are trimmed."""
_SPAN_NS = 2_000_000_000
"""Longer than programs gather samples before they hand them on."""


class Windows:
    """The last `size` samples of `channels` values in a ring; every `hop` samples they are a window. Pure, one thread.

    Sample i (from 0, counted from the last gap) lies in window k when `k·hop <= i < k·hop + size`, so it lies in
    several when `hop < size` and in none when `hop > size` jumps over it. A sample is copied once into the ring and
    once out of it for each window.
    """

    def __init__(self, size: int, hop: int, channels: int) -> None:
        if size < 1 or hop < 1 or channels < 1:
            raise ValueError(f"size, hop and channels are at least 1; got {size}, {hop}, {channels}")
        self.size, self.hop, self.channels = size, hop, channels
        self._ring = np.zeros((size, channels), np.float32)
        self._count = self._whole = 0
        self._end = size
        self._gap = False

    @property
    def missing(self) -> int:
        """How many samples the next window still lacks."""
        return self._end - self._count

    @property
    def count(self) -> int:
        """Samples added since the last gap."""
        return self._count

    @property
    def whole(self) -> int:
        """How many windows were taken so far."""
        return self._whole

    def add(self, samples: NDArray[Any]) -> None:
        """Append `samples` (n×channels, any number type). Raises `ValueError` for more than are `missing`."""
        if len(samples) > self.missing:
            raise ValueError(f"at most {self.missing} samples fit before the window is taken; got {len(samples)}")
        at = self._count + max(0, len(samples) - self.size)
        kept = samples[-self.size :]
        start = at % self.size
        until_end = min(len(kept), self.size - start)
        with np.errstate(over="ignore", invalid="ignore"):  # from float64: inf
            self._ring[start : start + until_end] = kept[:until_end]
            self._ring[: len(kept) - until_end] = kept[until_end:]
        self._count += len(samples)

    def gap(self) -> None:
        """Samples were lost here: what was gathered for the next window is dropped, and that window says `gap`."""
        self._count = 0
        self._end = self.size
        self._gap = True

    def pop(self) -> bool:
        """The window is whole: go on to the next; whether there was a gap before this one. `copy` it until `add`."""
        if self.missing:
            raise ValueError(f"the window lacks {self.missing} of its samples")
        self._end += self.hop
        self._whole += 1
        gap, self._gap = self._gap, False
        return gap

    def copy(self, out: NDArray[Any] | None) -> NDArray[np.float32]:
        """The `size` samples added last, oldest first, size×channels float32; in `out` where that fits."""
        shape = self._ring.shape
        fits = out is not None and out.shape == shape and out.dtype == np.float32 and out.flags.c_contiguous
        window = out if out is not None and fits else np.empty(shape, np.float32)
        start = self._count % self.size
        window[: self.size - start] = self._ring[start:]
        window[self.size - start :] = self._ring[:start]
        return window


class SampleClock:
    """When samples were taken, told from when they arrived.

    Samples lie in buffers before they are read, never the other way round. So sample n was taken at `start + n/rate`
    with the earliest `start` that no arrival contradicts; it may creep later as fast as a device's clock may be slow.
    Times are never later than the arrival, and after a stay in a full buffer they say how old the samples are.
    Where for two seconds all came later than `start` says, though the buffer ran empty meanwhile, fewer samples come
    than the rate promises, or their source stood still: `start` is then what the earliest of these seconds says.
    """

    def __init__(self, rate_hz: float) -> None:
        self._interval_ns = 1e9 / rate_hz
        self._samples = 0
        self._start_ns: float | None = None
        self._arrived_ns = 0
        self._span_ns = 0
        self._earliest_ns = math.inf
        self._ran_empty = False

    def arrive(self, samples: int, now_ns: int, *, waited: bool = False) -> int:
        """`samples` more have come by `now_ns`; returns when the last of them was taken (monotonic ns).

        `waited`: none was there when they were asked for.
        """
        self._samples += samples
        latest_ns = now_ns - self._samples * self._interval_ns
        if self._start_ns is None:
            self._start_ns = latest_ns
            self._begin_span(now_ns)
        elif now_ns - self._span_ns >= _SPAN_NS:
            if self._ran_empty:
                self._start_ns = max(self._start_ns, self._earliest_ns)
            self._begin_span(now_ns)
        self._start_ns = min(latest_ns, self._start_ns + _DRIFT * (now_ns - self._arrived_ns))
        self._earliest_ns = min(self._earliest_ns, latest_ns)
        self._ran_empty |= waited
        self._arrived_ns = now_ns
        return min(now_ns, round(self._start_ns + self._samples * self._interval_ns))

    def restart(self) -> None:
        """Samples were lost, nobody knows how many: begin anew."""
        self._samples = 0
        self._start_ns = None

    def _begin_span(self, now_ns: int) -> None:
        self._span_ns, self._earliest_ns, self._ran_empty = now_ns, math.inf, False
