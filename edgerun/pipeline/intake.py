"""What becomes of a frame that the source has taken hold of: who gets it, when it is decoded, what is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgerun.clock import Clock
from edgerun.errors import FrameError
from edgerun.pipeline.demand import Estimate, Gaps, decode_at, due_in_ns, worth_retrieving
from edgerun.pipeline.gating import GatePlan, Watch
from edgerun.pipeline.handover import put
from edgerun.pipeline.lane import Lane
from edgerun.pipeline.pool import BufferPool
from edgerun.ports import Source
from edgerun.types import Frame, Grab, Image, Lease, Motion, Reuse, Stamp, View

Known = tuple[Reuse, tuple[int, int]]
"""An answer that needs no inference, and width and height of the frame it is for."""

_LOOK_AGAIN_S = 0.005
_NO_PIXELS: Image = np.empty((0, 0, 3), np.uint8)


_Held = tuple[Grab, Stamp]
"""The frame in hand."""


class Intake:
    """One stream's decisions. Used by its capture thread.

    A source that holds is asked for newer frames until a lane's turn is near, and what is newest then is decoded: one
    decode per result. Any other source's frame is decoded when it comes, unless the next one will be there in time. A
    lane whose frames are `ordered` is given every one of them.
    `spare_core`: another core decodes while the engine works.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        clock: Clock,
        *,
        gate: GatePlan | None = None,
        keep_whole: bool = False,
        keep_pictures: bool = False,
        looked_at: Callable[[], bool] = lambda: False,
        spare_core: bool = True,
    ) -> None:
        self.lanes = tuple(lanes)
        self._offered = self.lanes
        """Those that get frames now, each itself or a stand-in."""
        self._place = 0
        self._stale = False
        self._wanted = False
        self._taken_ns = 0
        self._keep_whole = keep_whole
        self._clock = clock
        self._watch = Watch(gate or GatePlan())
        self._keep_pictures = keep_pictures
        self._looked_at = looked_at
        self._view = self._view_for(self._offered)
        self._spare_core = spare_core
        self._ordered = any(lane.plan.ordered for lane in lanes)
        self._reopened = False
        self._begun = False
        self._pool = BufferPool()
        self._gaps = Gaps()
        self._decode = Estimate()
        self._held: _Held | None = None
        self._source: Source

    @property
    def interval_ns(self) -> int:
        """The usual time between two frames; 0 until it is known."""
        return self._gaps.mean_ns

    def begin(self, source: Source) -> None:
        """From now on frames come from `source`."""
        self._source = source
        self._watch.live = not source.lossless
        self._reopened, self._begun = self._begun, True
        self._gaps.pause()  # the time until its first frame says nothing about the camera's interval
        self._held = None

    def take(self, grab: Grab, stamp: Stamp) -> None:
        """A new frame is in hand."""
        self._let_go()
        self._taken_ns = self._clock.mono_ns()
        if self._stale:
            self._stale = False  # before the look, behind which the plans may change once more
            self._view = self._view_for(self._offered)
        self._change_over()
        self._gaps.add(grab.captured_ns)
        for lane in self.lanes:
            lane.meter.account.grab()
            if not any(lane.meter is one.meter for one in self._offered):  # between two models
                lane.meter.account.end("skipped", None, stamp)
        for lane in self._offered:
            lane.demand.interval_ns = self._gaps.mean_ns
        if not self._offered:
            return
        if self._source.lossless:
            self._deliver(grab, stamp, self._offered)
        elif self._source.holds and not self._ordered:
            self._held = (grab, stamp)
            self.use_held()
        else:
            self._deliver(grab, stamp, [lane for lane in self._offered if self._is_worth_it(lane, stamp)])

    def expire(self, stamp: Stamp) -> None:
        """A new frame is in hand, and too old to be looked at."""
        self._let_go()
        self._gaps.pause()
        for lane in self.lanes:
            lane.meter.account.grab()
            lane.meter.account.end("expired", None, stamp)

    def hold_until_ns(self) -> int | None:
        """Until when (monotonic) to wait for a newer frame; None when the frame in hand is of no more use."""
        if self._held is None:
            return None
        for lane in self._offered:
            lane.demand.holding = True
        now_ns = self._clock.mono_ns()
        return min(self._decode_at_ns(lane, now_ns) for lane in self._offered)

    def awake(self) -> None:
        """The wait for a newer frame is over."""
        for lane in self._offered:
            lane.demand.holding = False

    def use_held(self) -> None:
        """Decode the frame in hand when a lane's turn is near."""
        held = self._held
        if held is None:
            return
        now_ns = self._clock.mono_ns()
        if all(self._decode_at_ns(lane, now_ns) > now_ns for lane in self._offered):
            return
        # Lanes whose turn is later take the picture too, rather than having it decoded a second time.
        self._held = None
        self._deliver(*held, self._offered)

    def finish(self) -> None:
        """No frame will follow: the one in hand is used."""
        held, self._held = self._held, None
        if held is not None:
            self._deliver(*held, self._offered)

    def end(self) -> None:
        """The source is about to be closed."""
        self._let_go()

    def stand_in(self, place: int) -> None:
        """See `Capture.stand_in`; any thread may call it. It happens with the next frame."""
        self._place = place

    def sharpen(self, factor: float) -> None:
        """See `Capture.sharpen`; any thread may call it."""
        self._watch.factor = factor

    def want(self) -> None:
        """See `Capture.want`; any thread may call it."""
        self._wanted = True

    def renew(self, *, keep_pictures: bool, keep_whole: bool) -> None:
        """See `Capture.renew`; any thread may call it. It happens with the next frame."""
        self._keep_pictures, self._keep_whole = keep_pictures, keep_whole
        self._stale = True

    def slowed_for_s(self) -> float:
        """How long the next frame of a source that waits for its consumer is to be left alone."""
        now_ns = self._clock.mono_ns()
        if any(_chosen(lane, self._place) not in self._offered for lane in self.lanes):
            self._change_over()
            if len(self._offered) < len(self.lanes):
                return _LOOK_AGAIN_S
        caps = [lane.slowed_to_fps for lane in self._offered if lane.slowed_to_fps]
        return max(0.0, 1.0 / min(caps) - (now_ns - self._taken_ns) / 1e9) if caps else 0.0

    def _change_over(self) -> None:
        """Offer frames to the lanes asked for. One takes another's place when none of its frames is on the way: so
        results keep their order, and one thread at a time uses what the scene remembers.
        """
        wanted = [_chosen(lane, self._place) for lane in self.lanes]
        if all(lane in self._offered for lane in wanted):
            return
        offered = tuple([lane for lane in wanted if lane in self._offered or not lane.meter.account.in_flight])
        if offered != self._offered:
            self._offered, self._view = offered, self._view_for(offered)

    def _view_for(self, lanes: Sequence[Lane]) -> View:
        return View(None if self._keep_whole or not lanes else _enough_for(lanes))

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            for lane in self._offered:
                lane.meter.account.end("skipped", None, held[1])

    def _decode_at_ns(self, lane: Lane, now_ns: int) -> int:
        demand = lane.demand
        return decode_at(
            now_ns,
            demand.wanted_at_ns,
            self._decode.value_ns,
            demand.uncertain_ns,
            spare_core=self._spare_core,
            in_slot=len(lane.slot) > 0,
        )

    def _is_worth_it(self, lane: Lane, stamp: Stamp) -> bool:
        """Whether this lane will use a frame that cannot be held; counts it when not."""
        if lane.plan.ordered:
            return True
        waiting = lane.slot.newest()
        if worth_retrieving(
            self._clock.mono_ns(),
            stamp.captured_ns,
            lane.demand.wanted_at_ns,
            self._decode.value_ns,
            self._gaps,
            None if waiting is None else waiting.stamp.captured_ns,
        ):
            return True
        lane.meter.account.end("skipped", None, stamp)
        return False

    def _deliver(self, grab: Grab, stamp: Stamp, lanes: Sequence[Lane]) -> None:
        """Hand the frame to `lanes`, each of which may turn out not to want it; every one of them counts it."""
        offers = self._offers(grab, stamp, lanes)
        if not offers:
            return
        began_ns = self._clock.mono_ns()
        for lane in offers:
            lane.demand.due_ns = began_ns + due_in_ns(self._decode)
        self._decode_for(offers, grab, stamp, began_ns)
        for lane in offers:
            lane.demand.due_ns = 0

    def _decode_for(self, offers: dict[Lane, Known | None], grab: Grab, stamp: Stamp, began_ns: int) -> None:
        """See `_deliver`."""
        image: Image | None = None
        try:
            motion = self._watch.look(self._source, grab)
            offers = self._through_gate(offers, motion, stamp)
            if offers and (self._keep_pictures or not all(offers.values()) or self._looked_at()):
                image = self._retrieve()
                if motion is None:
                    motion = self._watch.judge(image, grab)
                    offers = self._through_gate(offers, motion, stamp)
                else:
                    self._watch.mask(image)
        except FrameError as error:
            for lane in offers:
                lane.pass_on(self._clock.mono_ns())
                lane.fail(stamp, error, began_ns)
            return
        except BaseException:
            for lane in offers:
                lane.meter.account.end("failed", "source", stamp)
            raise
        ready_ns = self._clock.mono_ns()
        if image is not None:
            self._decode.add(ready_ns - began_ns)
        self._hand_out(offers, grab, stamp, image, motion, ready_ns)

    def _offers(self, grab: Grab, stamp: Stamp, lanes: Sequence[Lane]) -> dict[Lane, Known | None]:
        """The lanes whose fps cap lets the frame pass, each with what is known of it already."""
        offers: dict[Lane, Known | None] = {}
        for lane in lanes:
            # Last of all that can be told without a look, because admitting costs credit.
            capped = lane.rate_cap is not None and not self._source.lossless
            if capped and lane.rate_cap is not None and not lane.rate_cap.admits(grab.captured_ns):
                lane.pass_on(self._clock.mono_ns())
                lane.meter.account.end("limited", None, stamp)
                continue
            found = lane.cache.get(lane.plan.stream, grab.key) if lane.cache is not None and grab.key else None
            offers[lane] = (Reuse("cache", found[0]), found[1]) if found else None
        return offers

    def _through_gate(
        self, offers: dict[Lane, Known | None], motion: Motion | None, stamp: Stamp
    ) -> dict[Lane, Known | None]:
        """The offers that pass the gate: of a still scene those whose last answer may stand for this frame too."""
        if motion is None or motion.moving:
            return offers
        if self._wanted:
            self._wanted = False
            return offers
        passed: dict[Lane, Known | None] = {}
        for lane, known in offers.items():
            last, still_ns = lane.last, self._watch.plan.still_ns
            if known is not None:
                passed[lane] = known
            elif not still_ns or (last is not None and lane.meter.account.in_flight > 1):
                lane.meter.account.end("gated", None, stamp)
                lane.pass_on(self._clock.mono_ns())
            elif last is not None and stamp.captured_ns - last[0] <= still_ns:
                passed[lane] = (Reuse("still", last[1]), self._source.frame_size)
            else:
                passed[lane] = None  # too long ago: the model looks for itself
        return passed

    def _retrieve(self) -> Image:
        buffer = self._pool.take()
        try:
            image = self._source.retrieve(buffer, self._view)
        except FrameError:
            if buffer is not None:
                self._pool.give(buffer)
            raise
        if image.size == 0:
            raise FrameError("the frame has no pixels", reason="empty")
        return image

    def _hand_out(
        self,
        offers: dict[Lane, Known | None],
        grab: Grab,
        stamp: Stamp,
        image: Image | None,
        motion: Motion | None,
        ready_ns: int,
    ) -> None:
        lease = Lease(_NO_PIXELS) if image is None else Lease(image, self._pool.give)
        gap, self._reopened = grab.gap or self._reopened, False
        for lane, known in offers.items():
            frame = Frame(
                stamp,
                lease.share(),
                ready_ns,
                known[1] if image is None and known is not None else self._source.frame_size,
                lossy=not self._source.lossless,
                region=self._watch.region(motion, lane.plan.region),
                reuse=known[0] if known is not None else None,
                key=grab.key,
                gap=gap,
            )
            put(lane, frame)
        lease.release()


def _chosen(lane: Lane, place: int) -> Lane:
    """The lane, or which of its stand-ins is asked for."""
    return lane if place <= 0 or not lane.stand_ins else lane.stand_ins[min(place, len(lane.stand_ins)) - 1]


def _enough_for(lanes: Sequence[Lane]) -> tuple[int, int] | None:
    """A picture large enough for every lane's model; None when one of them wants the whole frame."""
    sizes = [lane.plan.enough for lane in lanes]
    known = [size for size in sizes if size is not None]
    return (max(w for w, _ in known), max(h for _, h in known)) if len(known) == len(sizes) else None
