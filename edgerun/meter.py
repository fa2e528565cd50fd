"""Counters that add up and latency histograms that merge, in constant memory.

`Account` keeps the promise "every grabbed frame ends in exactly one counter"; `Histogram` is log-linear as in
HdrHistogram (G. Tene, hdrhistogram.org): 32 buckets per power of two, so a reported percentile is at most `1/32`
(3.2 %) above the true one, and 1 µs. A histogram takes 8 KiB, however many values it holds.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

FATES = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed")
STAGES = ("capture", "wait", "preprocess", "infer", "decode")

_SUB_BITS = 5
_SUB = 1 << _SUB_BITS
_OCTAVES = 31
_SIZE = _SUB * _OCTAVES


class Stamped(Protocol):
    """What tells one frame from another: a `types.Stamp`."""

    @property
    def seq(self) -> int: ...

    @property
    def captured_ns(self) -> int: ...


Watch = Callable[[str, str | None, Stamped | None], None]
"""Told of the end of a frame: its fate, the reason where it failed, and its stamp where whoever counted it gave one.
Called by the thread that counts: it must be quick and raise nothing."""


class AccountView(msgspec.Struct, frozen=True):
    """One consistent look at an account: `grabbed = Σ fates + in_flight` by construction of a correct pipeline."""

    grabbed: int
    fates: Mapping[str, int]
    failed_reasons: Mapping[str, int]

    @property
    def in_flight(self) -> int:
        return self.grabbed - sum(self.fates.values())


class Account:
    """Counts the frames of one (stream, model). Thread-safe. `watch`, where set, is told of every end."""

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self._lock = threading.Lock()
        self._grabbed = 0
        self._fates = dict.fromkeys(FATES, 0)
        self._reasons: Counter[str] = Counter()

    def grab(self) -> None:
        with self._lock:
            self._grabbed += 1

    def end(self, fate: str, reason: str | None = None, stamp: Stamped | None = None) -> None:
        """A frame met its `fate` (one of FATES); `failed` needs a `reason`. `stamp` is for `watch`."""
        if fate == "failed" and reason is None:
            raise ValueError("a failed frame is counted with its reason")
        with self._lock:
            self._fates[fate] += 1
            if fate == "failed" and reason is not None:
                self._reasons[reason] += 1
        if self.watch is not None:
            self.watch(fate, reason, stamp)

    def dropped(self) -> tuple[int, int]:
        """Frames skipped and superseded so far."""
        return self._fates["skipped"], self._fates["superseded"]

    @property
    def in_flight(self) -> int:
        """Frames on their way."""
        with self._lock:
            return self._grabbed - sum(self._fates.values())

    def view(self) -> AccountView:
        with self._lock:
            return AccountView(self._grabbed, dict(self._fates), dict(self._reasons))


class Histogram:
    """Latencies in milliseconds, 1 µs to 9.5 hours; beyond that they count in the outermost bucket. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets = array("Q", bytes(8 * _SIZE))
        self._count = 0
        self._sum_ms = 0.0
        self._max_ms = 0.0

    def record(self, value_ms: float) -> None:
        index = _index(value_ms)
        with self._lock:
            self._buckets[index] += 1
            self._count += 1
            self._sum_ms += value_ms
            if value_ms > self._max_ms:
                self._max_ms = value_ms

    def merge(self, other: Histogram) -> None:
        with other._lock:
            buckets, count, sum_ms, max_ms = other._buckets[:], other._count, other._sum_ms, other._max_ms
        if not count:
            return
        with self._lock:
            for i, n in enumerate(buckets):
                if n:
                    self._buckets[i] += n
            self._count += count
            self._sum_ms += sum_ms
            self._max_ms = max(self._max_ms, max_ms)

    def take(self) -> Histogram:
        """The values so far as a histogram of their own; this one starts again at nothing."""
        taken = Histogram()
        with self._lock:
            taken._buckets, self._buckets = self._buckets, taken._buckets
            taken._count, self._count = self._count, 0
            taken._sum_ms, self._sum_ms = self._sum_ms, 0.0
            taken._max_ms, self._max_ms = self._max_ms, 0.0
        return taken

    def since(self, earlier: Histogram | None) -> Histogram:
        """The values that came after `earlier` was the state of this; its maximum is the edge of a bucket."""
        later = Histogram()
        later.merge(self)
        if earlier is None or not later._count:
            return later
        for i, n in enumerate(earlier._buckets):
            if n:
                later._buckets[i] = max(0, later._buckets[i] - n)
        later._count = sum(later._buckets)
        later._sum_ms = max(0.0, later._sum_ms - earlier._sum_ms)
        top = next((i for i in range(_SIZE - 1, -1, -1) if later._buckets[i]), None)
        later._max_ms = 0.0 if top is None else min(later._max_ms, _upper_edge_ms(top))
        return later

    @property
    def count(self) -> int:
        return self._count

    @property
    def sum_ms(self) -> float:
        """All values added up, exactly."""
        return self._sum_ms

    @property
    def max_ms(self) -> float:
        return self._max_ms

    def percentile(self, percent: float) -> float | None:
        """The upper edge (ms) of the bucket that holds this percentile, at most the maximum; None when empty."""
        return next(iter(self.percentiles((percent,))), None)

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """Those percentiles (ms), `percents` ascending, all of one look; empty when nothing was recorded."""
        with self._lock:
            buckets, count, max_ms = self._buckets[:], self._count, self._max_ms
        out: list[float] = []
        if not count:
            return out
        ranks = [max(1, math.ceil(count * percent / 100.0)) for percent in percents]
        seen = 0
        for i, n in enumerate(buckets):
            if not n:
                continue
            seen += n
            while len(out) < len(ranks) and seen >= ranks[len(out)]:
                out.append(min(_upper_edge_ms(i), max_ms))
            if len(out) == len(ranks):
                break
        return out

    def cumulative(self, octaves: Sequence[int]) -> list[int]:
        """How many values were below 2^o µs for each o of `octaves`, ascending, from 5 on: there a bucket ends, so that
        the counts are exact, to the whole µs that a value is cut to.
        """
        with self._lock:
            buckets = self._buckets[:]
        out: list[int] = []
        seen = at = 0
        for octave in octaves:
            end = min(_index((1 << octave) / 1000.0), _SIZE)
            seen += sum(buckets[at:end])
            at = max(at, end)
            out.append(seen)
        return out

    def summary(self, percents: tuple[float, ...] = (50, 95, 99), with_max: bool = True) -> dict[str, float]:
        """{"p50": …, …, "max": …} in ms, rounded to 1 µs; empty when nothing was recorded."""
        values = self.percentiles(percents)
        out = {f"p{percent:g}": round(value, 3) for percent, value in zip(percents, values, strict=False)}
        if with_max and out:
            out["max"] = round(self._max_ms, 3)
        return out


class StreamMeter:
    """Everything measured of one (stream, model): its account, the age of its results, each stage's latency."""

    def __init__(self) -> None:
        self.account = Account()
        self.age = Histogram()
        self.stages = {stage: Histogram() for stage in STAGES}


def _index(value_ms: float) -> int:
    micros = int(value_ms * 1000.0)
    if micros < _SUB:
        return max(0, micros)
    octave = micros.bit_length() - _SUB_BITS - 1
    index = (octave << _SUB_BITS) + (micros >> octave)
    return min(index, _SIZE - 1)


def _upper_edge_ms(index: int) -> float:
    if index < _SUB:
        return (index + 1) / 1000.0
    octave = (index >> _SUB_BITS) - 1
    return ((index - (octave << _SUB_BITS) + 1) << octave) / 1000.0
