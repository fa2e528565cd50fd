"""The capture stage: one thread per source takes hold of frames, counts them, and decodes only those worth it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from edgerun.clock import Clock
from edgerun.errors import Closed, FrameError, SourceError
from edgerun.pipeline.demand import Estimate, worth_decoding
from edgerun.pipeline.lane import BufferPool, Lane
from edgerun.pipeline.notice import NoticeBoard, StreamNotice
from edgerun.ports import Source
from edgerun.types import Frame, Grab, Lease, Stamp

_BACK_OFF_FIRST_S = 0.5
_BACK_OFF_MOST_S = 30.0
_CATCH_UP_NS = 5_000_000_000  # a source that is never waited for (its codec is slower than its camera) goes on then


class Capture:
    """One stream's way in: opens its source, reopens it with back-off when it is lost, feeds the stream's lanes."""

    def __init__(
        self,
        stream: str,
        open_source: Callable[[threading.Event], Source],
        lanes: Sequence[Lane],
        clock: Clock,
        notices: NoticeBoard,
        *,
        frames: int | None = None,
        stood_still: Callable[[int], bool] = lambda since_ns: False,
    ) -> None:
        self.stream = stream
        self.lanes = tuple(lanes)
        self.stop = threading.Event()
        self._open_source = open_source
        self._clock = clock
        self._notices = notices
        self._frames = frames
        self._stood_still = stood_still
        self._catch_up_until_ns = 0
        self._pool = BufferPool()
        self._seq = 0
        self._interval = Estimate()
        self._decode = Estimate()
        self._previous_ns: int | None = None
        self._state: str | None = None

    def run(self) -> None:
        """The thread's body: until the data ends, `stop` is set or the source is lost for good (`SourceError`)."""
        failures = 0
        while not self.stop.is_set():
            grabbed_before = self._seq
            try:
                if why_ended := self._drain_source():
                    self._tell("ended", why_ended)
                    return
            except SourceError as error:
                if error.final:
                    raise
                if self.stop.is_set():
                    return
                failures = 1 if self._seq > grabbed_before else failures + 1
                self._tell("stalled", str(error))
                self._clock.wait(self.stop, back_off_s(failures, random.random()))

    def close_lanes(self) -> None:
        """The end of this stream's data: what waits in the Slots is still taken."""
        for lane in self.lanes:
            lane.slot.close()

    def _drain_source(self) -> str | None:
        """Read one opened source to its end; returns why the data ended, None when `stop` was set instead."""
        source = self._open_source(self.stop)
        self._previous_ns = None  # the gap until now says nothing about the camera's interval
        asked_ns = self._clock.mono_ns()
        try:
            while not self.stop.is_set():
                if self._frames is not None and self._seq >= self._frames:
                    return f"the {self._frames} frames asked for were taken"
                before_ns, asked_ns = asked_ns, self._clock.mono_ns()
                grab = source.grab()
                if grab is None:
                    return None if self.stop.is_set() else "the source has no more frames"
                self._tell("running", "" if self._state is None else "frames come again")
                if source.lossless or not self._is_left_over(grab, asked_ns, before_ns):
                    self._take(source, grab)
            return None
        finally:
            source.close()

    def _is_left_over(self, grab: Grab, asked_ns: int, before_ns: int) -> bool:
        """Whether the frame lay in a socket or driver while this process stood still; then it is counted as expired.

        That is the first one after a standstill and those behind it that need not be waited for. `asked_ns` and
        `before_ns` are when this frame and the one before were asked for.
        """
        if self._stood_still(before_ns):
            self._catch_up_until_ns = grab.captured_ns + _CATCH_UP_NS
        elif grab.captured_ns - asked_ns >= self._interval.value_ns // 2 or asked_ns > self._catch_up_until_ns:
            self._catch_up_until_ns = 0
        if not self._catch_up_until_ns:
            return False
        self._previous_ns = None
        self._seq += 1
        for lane in self.lanes:
            lane.meter.account.grab()
            lane.meter.account.end("expired")
        return True

    def _take(self, source: Source, grab: Grab) -> None:
        stamp = Stamp(self.stream, self._seq, grab.captured_ns, self._captured_unix_s(grab), grab.item)
        if self._previous_ns is not None:
            self._interval.add(grab.captured_ns - self._previous_ns)
        self._previous_ns = grab.captured_ns
        self._seq += 1
        for lane in self.lanes:
            lane.meter.account.grab()
        takers = self.lanes if source.lossless else [lane for lane in self.lanes if self._wants(lane, grab)]
        if not takers:
            return
        began_ns = self._clock.mono_ns()
        try:
            image = source.retrieve(self._pool.take())
            if image.size == 0:
                raise FrameError("the frame has no pixels", where=self.stream, reason="empty")
        except FrameError as error:
            for lane in takers:
                lane.fail(stamp.seq, error, began_ns)
            return
        except BaseException:
            for lane in takers:
                lane.meter.account.end("failed", "source")
            raise
        ready_ns = self._clock.mono_ns()
        self._decode.add(ready_ns - began_ns)
        lease = Lease(image, self._pool.give)
        for lane in takers[1:]:
            self._hand_over(lane, Frame(stamp, lease.share(), ready_ns, not source.lossless))
        self._hand_over(takers[0], Frame(stamp, lease, ready_ns, not source.lossless))

    def _wants(self, lane: Lane, grab: Grab) -> bool:
        """Whether this lane will use the frame; counts it when not."""
        next_arrival_ns = grab.captured_ns + self._interval.value_ns
        if self._interval.value_ns and not worth_decoding(
            self._clock.mono_ns(), next_arrival_ns, lane.demand.wanted_at_ns, self._decode.value_ns
        ):
            lane.meter.account.end("skipped")
            return False
        # Last, because admitting costs credit that only a frame on its way to the worker may spend.
        if lane.rate_cap is not None and not lane.rate_cap.admits(grab.captured_ns):
            lane.meter.account.end("limited")
            return False
        return True

    def _hand_over(self, lane: Lane, frame: Frame) -> None:
        try:
            if not frame.lossy:
                lane.slot.put_wait(frame)
                return
            victim = lane.slot.put(frame)
        except Closed:  # only when this thread was given up as stuck and its slots were closed over its head
            lane.meter.account.end("failed", "stopped")
            frame.lease.release()
            return
        if victim is not None:
            lane.meter.account.end("superseded")
            victim.lease.release()

    def _captured_unix_s(self, grab: Grab) -> float:
        return self._clock.unix_s() - (self._clock.mono_ns() - grab.captured_ns) / 1e9

    def _tell(self, state: str, reason: str) -> None:
        if state == self._state:
            return
        self._state = state
        self._notices.put(StreamNotice(self.stream, state, reason))  # type: ignore[arg-type]


def back_off_s(failures: int, jitter: float) -> float:
    """How long to wait before the source is opened again: doubling from 0.5 s to 30 s.

    `jitter` (0..1) takes up to half of it away; `failures` counts attempts in a row that gave no frame, from 1.
    """
    longest = min(_BACK_OFF_MOST_S, _BACK_OFF_FIRST_S * 2.0 ** min(failures - 1, 16))
    return longest * (1.0 - 0.5 * jitter)
