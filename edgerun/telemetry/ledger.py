"""Two views of the same meters: the interval for telemetry and the whole run for the summary.

The histograms of a `StreamMeter` collect since they were last taken. The ledger is the one who takes them: `interval`
moves them into the totals it keeps, `run` adds what has not been taken yet. Counters are never moved.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from edgerun.clock import Clock
from edgerun.meter import AccountView, Histogram, StreamMeter
from edgerun.telemetry.payload import stream_summary


class StreamTotals(msgspec.Struct, frozen=True):
    """What one stream's meter has measured since the ledger was made. The histograms are the caller's own."""

    account: AccountView
    age: Histogram
    stages: Mapping[str, Histogram]


class Ledger:
    """Keeps the totals of every stream's meter since the ledger was made. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started_ns = self._interval_ns = clock.mono_ns()
        self._entries: dict[str, _Entry] = {}

    def add(self, stream: str, meter: StreamMeter) -> None:
        """Follow `meter` under the name `stream`; the same meter again (after a reload) changes nothing."""
        with self._lock:
            known = self._entries.get(stream)
            if known is None or known.meter is not meter:
                self._entries[stream] = _Entry(meter)

    def remove(self, stream: str) -> None:
        """Forget a stream that is no longer there."""
        with self._lock:
            self._entries.pop(stream, None)

    def interval(self) -> tuple[float, dict[str, dict[str, Any]]]:
        """Seconds since the last call (or the beginning) and each stream's summary over them; a new one begins."""
        with self._lock:
            now_ns = self._clock.mono_ns()
            seconds = (now_ns - self._interval_ns) / 1e9
            self._interval_ns = now_ns
            return seconds, {stream: entry.interval(seconds) for stream, entry in self._entries.items()}

    def run(self) -> tuple[float, dict[str, dict[str, Any]]]:
        """Seconds since the beginning and each stream's summary over them; nothing is reset."""
        with self._lock:
            seconds = (self._clock.mono_ns() - self._started_ns) / 1e9
            return seconds, {stream: entry.run(seconds) for stream, entry in self._entries.items()}

    def totals(self) -> dict[str, StreamTotals]:
        """Each stream's counters and histograms since the beginning; nothing is reset."""
        with self._lock:
            return {stream: entry.totals() for stream, entry in self._entries.items()}

    def engine_time(self) -> dict[str, tuple[int, int]]:
        """Each stream's time in its engine (ns) and its inferences since the beginning, to share out energy by."""
        with self._lock:
            return {stream: entry.engine_time() for stream, entry in self._entries.items()}


class _Entry:
    def __init__(self, meter: StreamMeter) -> None:
        self.meter = meter
        self._total = _sharing_account(meter)
        view = meter.account.view()
        self._published, self._grabbed = view.fates["published"], view.grabbed

    def interval(self, seconds: float) -> dict[str, Any]:
        taken = _sharing_account(self.meter)
        taken.age = _move(self.meter.age, self._total.age)
        taken.stages = {stage: _move(now, self._total.stages[stage]) for stage, now in self.meter.stages.items()}
        out = stream_summary(taken, seconds, published_before=self._published, grabbed_before=self._grabbed)
        self._published, self._grabbed = out["published"], out["grabbed"]
        return out

    def run(self, seconds: float) -> dict[str, Any]:
        return stream_summary(self._whole(), seconds)

    def totals(self) -> StreamTotals:
        whole = self._whole()
        return StreamTotals(whole.account.view(), whole.age, whole.stages)

    def engine_time(self) -> tuple[int, int]:
        halves = self.meter.stages["infer"], self._total.stages["infer"]
        return round(sum(half.sum_ms for half in halves) * 1e6), sum(half.count for half in halves)

    def _whole(self) -> StreamMeter:
        whole = _sharing_account(self.meter)
        whole.age = _sum(self._total.age, self.meter.age)
        whole.stages = {stage: _sum(self._total.stages[stage], now) for stage, now in self.meter.stages.items()}
        return whole


def _sharing_account(meter: StreamMeter) -> StreamMeter:
    """An empty meter with the same account."""
    other = StreamMeter()
    other.account = meter.account
    return other


def _move(source: Histogram, total: Histogram) -> Histogram:
    taken = source.take()
    total.merge(taken)
    return taken


def _sum(first: Histogram, second: Histogram) -> Histogram:
    both = Histogram()
    both.merge(first)
    both.merge(second)
    return both
