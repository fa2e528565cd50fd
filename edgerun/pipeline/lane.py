"""A lane: one (stream, model) pair on its way from capture to worker, and the buffers its frames live in."""

from __future__ import annotations

import logging
import threading

import msgspec

from edgerun.errors import FrameError
from edgerun.meter import StreamMeter
from edgerun.pipeline.demand import Demand, RateCap
from edgerun.ports import Decoder
from edgerun.slot import Slot
from edgerun.types import Frame, Image

_log = logging.getLogger(__name__)

_COMPLAIN_EVERY_NS = 10_000_000_000
_TELL_EXPIRED_EVERY_NS = 60_000_000_000
_SPARE_BUFFERS = 4  # one being written, one in the Slot, one with the worker, one with the sinks


class LanePlan(msgspec.Struct, frozen=True):
    """What the config says of one (stream, model)."""

    stream: str
    decoder: Decoder
    max_age_ms: float = 1000.0
    max_fps: float | None = None
    weight: float = 1.0
    depth: int = 1


class Lane:
    """The shared state of one (stream, model): the Slot between its two threads, its demand and its meters."""

    def __init__(self, plan: LanePlan, ready: threading.Condition) -> None:
        self.plan = plan
        self.slot: Slot[Frame] = Slot(plan.depth, ready)
        self.demand = Demand()
        self.meter = StreamMeter()
        self.rate_cap = RateCap(plan.max_fps) if plan.max_fps else None
        self.max_age_ns = round(plan.max_age_ms * 1e6)
        self._complained_ns: int | None = None
        self._told_expired_ns: int | None = None

    def fail(self, seq: int, error: FrameError, now_ns: int) -> None:
        """Count a frame that cannot be used. The first and then one every ten seconds is a warning: a camera may send
        thirty a second.
        """
        self.meter.account.end("failed", error.reason)
        quiet = self._complained_ns is not None and now_ns - self._complained_ns < _COMPLAIN_EVERY_NS
        if not quiet:
            self._complained_ns = now_ns
        level = logging.DEBUG if quiet else logging.WARNING
        _log.log(level, "stream %s: frame %d failed: %s", self.plan.stream, seq, error)

    def expire(self, age_ns: int, now_ns: int) -> None:
        """Count a frame or result that is too old; told once a minute, since nothing else would tell of it."""
        self.meter.account.end("expired")
        if self._told_expired_ns is None or now_ns - self._told_expired_ns >= _TELL_EXPIRED_EVERY_NS:
            self._told_expired_ns = now_ns
            _log.warning(
                "stream %s: %.0f ms old and not published: max_age_ms is %g (%d so far)",
                self.plan.stream,
                age_ns / 1e6,
                self.plan.max_age_ms,
                self.meter.account.view().fates["expired"],
            )


class BufferPool:
    """Picture buffers of one stream, used again and again; at most four lie idle. Thread-safe.

    A buffer of another shape than the one last taken back (the camera changed its resolution) is let go.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Image] = []

    def take(self) -> Image | None:
        """An idle buffer, or None when there is none yet."""
        with self._lock:
            return self._idle.pop() if self._idle else None

    def give(self, image: Image) -> None:
        """Take a buffer back."""
        with self._lock:
            if self._idle and self._idle[-1].shape != image.shape:
                self._idle.clear()
            if len(self._idle) < _SPARE_BUFFERS:
                self._idle.append(image)
