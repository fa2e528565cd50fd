"""A lane: one (stream, model) pair on its way from capture to worker."""

from __future__ import annotations

import logging
import threading

import msgspec

from edgerun.errors import FrameError
from edgerun.meter import StreamMeter
from edgerun.pipeline.cache import ResultCache
from edgerun.pipeline.cascade import CropChooser
from edgerun.pipeline.demand import RateCap
from edgerun.ports import Decoder, Scene
from edgerun.slot import Slot
from edgerun.types import Answer, Box, Frame, Stamp
from edgerun.wake import Wake

_log = logging.getLogger(__name__)

_COMPLAIN_EVERY_NS = 10_000_000_000
_TELL_EXPIRED_EVERY_NS = 60_000_000_000
_JUDGE_EVERY = 16  # expired frames: reading a percentile costs more than counting them


class LanePlan(msgspec.Struct, frozen=True):
    """What the config says of one (stream, model)."""

    stream: str
    decoder: Decoder
    model: str = ""
    max_age_ms: float = 1000.0
    max_fps: float | None = None
    min_fps: float | None = None
    weight: float = 1.0
    depth: int = 1
    region: Box | None = None
    """The part of the frame that the model is to look at, in 0..1."""
    enough: tuple[int, int] | None = None
    """The model needs no picture larger than this (width, height); None: the whole frame is wanted."""
    scene: Scene | None = None
    ordered: bool = False
    """The model remembers, or listens to windows: its frames go to it in order, up to `depth` of them wait, none is
    left out on purpose, and after one that is missing it begins anew.
    """
    window: bool = False
    """Its frames are windows of samples, not pictures."""
    crops: bool = False
    """Its frames are what another lane cut out for it."""
    threshold: float = 0.5
    """What its decoder was opened with: whoever decodes elsewhere is told."""


class Demand:
    """When a lane's next turn starts, as the worker sees it; 0 = the worker is waiting for a frame.

    The worker writes, the capture thread reads. While that one holds a frame back (`holding`), it is woken as soon as
    the worker has nothing to do.
    """

    __slots__ = ("due_ns", "holding", "interval_ns", "uncertain_ns", "wake", "wanted_at_ns")

    def __init__(self) -> None:
        self.wanted_at_ns = 0
        self.uncertain_ns = 0
        """How far from `wanted_at_ns` the turn usually starts."""
        self.holding = False
        self.interval_ns = 0
        """The usual time between two frames of the source; 0 until it is known. Written by the capture thread."""
        self.due_ns = 0
        """By when the frame that is being decoded for this lane should be there; 0: none is."""
        self.wake: Wake | None = None

    def tell(self, wanted_at_ns: int, uncertain_ns: int) -> None:
        """The worker's side. `holding` is read after the write and written before the read: no wake is missed."""
        self.uncertain_ns = uncertain_ns
        self.wanted_at_ns = wanted_at_ns
        if not wanted_at_ns and self.holding and self.wake is not None:
            self.wake.set()


class Lane:
    """The shared state of one (stream, model): the Slot between its two threads, its demand and its meters."""

    def __init__(self, plan: LanePlan, ready: threading.Condition, cache: ResultCache | None = None) -> None:
        self.plan = plan
        self.slot: Slot[Frame] = Slot(plan.depth, ready)
        self.demand = Demand()
        self.meter = StreamMeter()
        self.cache = cache
        self.cascade: Lane | None = None
        """Where crops of this lane's detections go."""
        self.chooser: CropChooser | None = None
        """Which they are; shared with the lane that the crops go to."""
        self.stand_ins: tuple[Lane, ...] = ()
        """The same stream's lanes to smaller models, one of which may be given its frames in this one's place."""
        self.told = [0, 0]
        """Frames skipped and superseded as of the last result. Written by the worker."""
        self.feeders = 1
        """How many lanes give it crops."""
        self._feeding = threading.Lock()
        self.slowed_to_fps: float | None = None
        """The governor's cap."""
        self.rate_cap = RateCap(plan.max_fps) if plan.max_fps else None
        self.max_age_ns = round(plan.max_age_ms * 1e6)
        self.gated_ns = 0
        """When a frame was last held back because nothing moved: that counts as served."""
        self.last: tuple[int, Answer] | None = None
        """When the frame inferred last was captured, and what its decoder answered. Written by the worker."""
        self.passed = False
        """Its turn came and its frame did not: the worker is to plan anew. Set by the capture thread."""
        self.expects = 0
        """The `seq` that follows the last frame the model was given. Written by the worker."""
        self.ended = False
        """Its Slot is closed and empty, and the worker knows. Written by the worker."""
        self._complained_ns: int | None = None
        self._told_expired_ns: int | None = None
        self._told_hopeless = False
        self._expired = 0

    def limit(self, max_fps: float | None) -> None:
        """Cap its rate besides what its plan says, from now on; None: no more. One thread calls it, any one.

        A model that wants every frame has no cap: only a source that waits for it can be slowed down.
        """
        if max_fps == self.slowed_to_fps:
            return
        self.slowed_to_fps = max_fps
        self._cap()

    def _cap(self) -> None:
        if not self.plan.ordered:
            caps = [fps for fps in (self.plan.max_fps, self.slowed_to_fps) if fps is not None]
            self.rate_cap = RateCap(min(caps)) if caps else None

    def replan(self, plan: LanePlan, cache: ResultCache | None = None) -> None:
        """Another plan from the next frame on, for the same stream and a model of the same name that asks for frames in
        the same way (`ordered`, `depth`, `window`). The worker's thread calls it between two turns. What the model
        answered before stands for no later frame, and one that remembers begins anew.
        """
        capped = plan.max_fps != self.plan.max_fps
        self.plan, self.cache, self.last, self.expects = plan, cache, None, -1
        self.max_age_ns = round(plan.max_age_ms * 1e6)
        self._told_hopeless = False
        if capped:
            self._cap()

    def add_stand_in(self, other: Lane) -> None:
        """Let `other` take this lane's place when asked to: with its meter, where its crops go, and its memory of what
        was told. Its plan's scene must be this one's.
        """
        other.meter, other.told = self.meter, self.told
        other.cascade, other.chooser = self.cascade, self.chooser
        if self.cascade is not None:
            self.cascade.feeders += 1
        self.stand_ins = (*self.stand_ins, other)

    def follow(self, before: Lane) -> None:
        """Count on where `before`, which has ended, left off. To be called before any frame comes."""
        for one in (self, *self.stand_ins):
            one.meter, one.told = before.meter, before.told

    def feeder_ended(self) -> None:
        """One of those that give it crops has come to its end; behind the last one comes nothing more."""
        with self._feeding:
            self.feeders -= 1
            if self.feeders <= 0:
                self.slot.close()

    def pass_on(self, now_ns: int) -> None:
        """The lane's frame came to nothing before the worker saw it: its turn is the others'."""
        self.gated_ns = now_ns
        if not self.demand.wanted_at_ns:
            self.passed = True
            self.slot.nudge()

    def has_frame(self, now_ns: int) -> bool:
        """Whether a frame waits in the Slot, is held back for the lane's turn, or is just being decoded."""
        return self.demand.holding or bool(len(self.slot)) or self.demand.due_ns > now_ns

    def fail(self, stamp: Stamp, error: FrameError, now_ns: int) -> None:
        """Count a frame that cannot be used. The first and then one every ten seconds is a warning: a camera may send
        thirty a second.
        """
        self.meter.account.end("failed", error.reason, stamp)
        quiet = self._complained_ns is not None and now_ns - self._complained_ns < _COMPLAIN_EVERY_NS
        if not quiet:
            self._complained_ns = now_ns
        level = logging.DEBUG if quiet else logging.WARNING
        _log.log(level, "stream %s: frame %d failed: %s", self.plan.stream, stamp.seq, error)

    def expire(self, stamp: Stamp, now_ns: int) -> None:
        """Count a frame or result that is too old; told once a minute, since nothing else would tell of it, and once
        more when it turns out that the model can never be in time.
        """
        self.meter.account.end("expired", None, stamp)
        self._expired += 1
        due = self._told_expired_ns is None or now_ns - self._told_expired_ns >= _TELL_EXPIRED_EVERY_NS
        if not due and (self._told_hopeless or self._expired % _JUDGE_EVERY):
            return
        service_ms = self.meter.stages["infer"].percentile(50)
        hopeless = service_ms is not None and service_ms >= self.plan.max_age_ms
        if not due and not hopeless:
            return
        self._told_expired_ns, self._told_hopeless = now_ns, hopeless
        _log.warning(
            "stream %s: %.0f ms old and not published: max_age_ms is %g%s (%d so far)",
            self.plan.stream,
            (now_ns - stamp.captured_ns) / 1e6,
            self.plan.max_age_ms,
            f", and inference alone takes {service_ms:.0f} ms: raise max_age_ms, or take a faster model"
            if hopeless
            else "",
            self.meter.account.view().fates["expired"],
        )
