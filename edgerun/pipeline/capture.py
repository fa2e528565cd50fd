"""The capture stage: one thread per source takes hold of frames, counts them, and decodes only those worth it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence

from edgerun.clock import Clock
from edgerun.errors import SourceError
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane
from edgerun.pipeline.notice import NoticeBoard, StreamNotice
from edgerun.ports import Source
from edgerun.progress import waiting
from edgerun.types import NOT_YET, Grab, Stamp
from edgerun.wake import Wake

_BACK_OFF_FIRST_S = 0.5
_BACK_OFF_MOST_S = 30.0
_CATCH_UP_NS = 5_000_000_000  # a source that is never waited for (its codec is slower than its camera) goes on then

OpenSource = Callable[[threading.Event, Wake], Source]


class Capture:
    """One stream's way in: opens its source, reopens it with back-off when it is lost, feeds the stream's lanes."""

    def __init__(
        self,
        stream: str,
        open_source: OpenSource,
        intake: Intake,
        clock: Clock,
        notices: NoticeBoard,
        *,
        frames: int | None = None,
        stood_still: Callable[[int], bool] = lambda since_ns: False,
    ) -> None:
        self.stream = stream
        self._stop = threading.Event()
        self._halt = threading.Event()  # what the source sees: the stream stops, or pauses
        self._going = threading.Event()
        self._going.set()
        self._pausing = threading.Lock()
        self._paused_by: dict[str, str] = {}
        self._wake = Wake()
        self._open_source = open_source
        self._intake = intake
        self._clock = clock
        self._notices = notices
        self._frames = frames
        self._stood_still = stood_still
        self._catch_up_until_ns = 0
        self._seq = 0
        self._state: str | None = None
        for lane in self._all_lanes():
            lane.demand.wake = self._wake

    @property
    def lanes(self) -> Sequence[Lane]:
        """The stream's lanes, one per model."""
        return self._intake.lanes

    def follow(self, before: Capture) -> None:
        """Go on where `before`, of the same stream, was stopped: with its numbers, and paused by whom it was paused. To
        be called before the thread runs.
        """
        self._seq = before._seq
        with before._pausing:
            paused_by = dict(before._paused_by)
        for by, reason in paused_by.items():
            self.pause(reason, by)

    def run(self) -> None:
        """The thread's body: until the data ends, `stop` is called or the source is lost for good (`SourceError`)."""
        failures = 0
        while not self._stop.is_set():
            if self._halt.is_set():
                self._pause()
                continue
            grabbed_before = self._seq
            try:
                if why_ended := self._drain_source():
                    self._tell("ended", why_ended)
                    return
            except SourceError as error:
                if error.final:
                    raise
                if self._halt.is_set():
                    continue
                failures = 1 if self._seq > grabbed_before else failures + 1
                self._tell("stalled", str(error))
                with waiting():
                    self._clock.wait(self._halt, back_off_s(failures, random.random()))

    def stop(self) -> None:
        """Ask the thread to end; any thread may call it."""
        with self._pausing:
            self._stop.set()
            self._halt.set()
            self._going.set()
            self._wake.set()

    def pause(self, reason: str, by: str = "") -> None:
        """Close the source until whoever asks for it has called `resume`; any thread may call it. A file begins again
        then.
        """
        with self._pausing:
            if self._stop.is_set():
                return
            self._paused_by[by] = reason
            self._going.clear()
            self._halt.set()
            self._wake.set()

    def resume(self, by: str = "") -> None:
        """Open the source again unless somebody else wants it closed; any thread may call it."""
        with self._pausing:
            self._paused_by.pop(by, None)
            if not self._paused_by:
                self._going.set()

    def limit(self, fps: Mapping[str, float]) -> None:
        """Cap the rates of the lanes to these models, and no others. One thread calls it, any one."""
        for lane in self._all_lanes():
            lane.limit(fps.get(lane.plan.model))

    def stand_in(self, place: int) -> None:
        """Let each lane's `place`-th stand-in have its frames, its last where it has fewer; 0: the lane itself."""
        self._intake.stand_in(place)

    def sharpen(self, factor: float) -> None:
        """Let the gate open only when this many times its share of the pixels changes."""
        self._intake.sharpen(factor)

    def renew(self, *, keep_pictures: bool, keep_whole: bool) -> None:
        """The plans of its lanes, or what is done with its pictures, have changed; any thread may call it."""
        self._intake.renew(keep_pictures=keep_pictures, keep_whole=keep_whole)

    def want(self) -> None:
        """Have one frame inferred although nothing moves, where a gate is; any thread may call it."""
        self._intake.want()

    def _all_lanes(self) -> list[Lane]:
        return [one for lane in self.lanes for one in (lane, *lane.stand_ins)]

    def _pause(self) -> None:
        """Wait until nobody wants the source closed; that may be so already, when it was soon taken back."""
        if not self._going.is_set():
            with self._pausing:
                reason = next(iter(self._paused_by.values()), "")
            self._tell("paused", reason)
            with waiting():
                self._going.wait()
        with self._pausing:
            if self._going.is_set() and not self._stop.is_set():
                self._halt.clear()
                self._wake.clear()

    def close(self) -> None:
        """Give the means to wake this thread back: neither it nor a worker may run any more."""
        self._wake.close()

    def close_lanes(self) -> None:
        """The end of this stream's data: what waits in the Slots is still taken."""
        for lane in self._all_lanes():
            lane.slot.close()

    def _drain_source(self) -> str | None:
        """Read one opened source to its end; returns why the data ended, None when a stop or pause was asked for."""
        with waiting():  # for a camera, which may take its time to answer, and to let go
            source = self._open_source(self._halt, self._wake)
        self._intake.begin(source)
        asked_ns = self._clock.mono_ns()
        try:
            while not self._halt.is_set():
                if self._frames is not None and self._seq >= self._frames:
                    self._intake.finish()
                    return f"the {self._frames} frames asked for were taken"
                if source.lossless and self._hold_back():
                    continue
                before_ns, asked_ns = asked_ns, self._clock.mono_ns()
                grab = self._grab(source)
                if grab is None:
                    self._intake.finish()
                    return None if self._halt.is_set() else "the source has no more frames"
                self._tell("running", "" if self._state is None else "frames come again")
                stamp = self._stamp(grab)
                if not source.lossless and self._is_left_over(grab, asked_ns, before_ns):
                    self._intake.expire(stamp)
                else:
                    self._intake.take(grab, stamp)
            return None
        finally:
            self._intake.end()
            with waiting():
                source.close()

    def _hold_back(self) -> bool:
        """Keep the rate that the governor allows of a source that waits; whether the stream is to look again first."""
        wait_s = self._intake.slowed_for_s()
        if wait_s > 0:
            with waiting():
                self._clock.wait(self._halt, wait_s)
        return wait_s > 0

    def _grab(self, source: Source) -> Grab | None:
        """The source's next frame. While it is awaited, the one held back is used when its time has come."""
        while True:
            until_ns = self._intake.hold_until_ns()
            if until_ns is None:
                with waiting():
                    return source.grab()
            try:
                with waiting():
                    grab = source.grab(until_ns)
            finally:
                self._intake.awake()
                self._wake.clear()
            if grab is not NOT_YET:
                return grab
            if self._halt.is_set():
                return None
            self._intake.use_held()

    def _stamp(self, grab: Grab) -> Stamp:
        captured_unix_s = self._clock.unix_s() - (self._clock.mono_ns() - grab.captured_ns) / 1e9
        stamp = Stamp(
            self.stream, self._seq, grab.captured_ns, captured_unix_s, grab.item, grab.reply, grab.recorded_ns
        )
        self._seq += 1
        return stamp

    def _is_left_over(self, grab: Grab, asked_ns: int, before_ns: int) -> bool:
        """Whether the frame lay in a socket or driver while this process stood still; then it is counted as expired.

        That is the first one after a standstill and those behind it that need not be waited for. `asked_ns` and
        `before_ns` are when this frame and the one before were asked for.
        """
        if self._stood_still(before_ns):
            self._catch_up_until_ns = grab.captured_ns + _CATCH_UP_NS
        elif grab.captured_ns - asked_ns >= self._intake.interval_ns // 2 or asked_ns > self._catch_up_until_ns:
            self._catch_up_until_ns = 0
        return bool(self._catch_up_until_ns)

    def _tell(self, state: str, reason: str) -> None:
        if state == self._state or self._stop.is_set():  # a stream of that name may be somebody else's by now
            return
        self._state = state
        self._notices.put(StreamNotice(self.stream, state, reason))  # type: ignore[arg-type]


def back_off_s(failures: int, jitter: float) -> float:
    """How long to wait before the source is opened again: doubling from 0.5 s to 30 s.

    `jitter` (0..1) takes up to half of it away; `failures` counts attempts in a row that gave no frame, from 1.
    """
    longest = min(_BACK_OFF_MOST_S, _BACK_OFF_FIRST_S * 2.0 ** min(failures - 1, 16))
    return longest * (1.0 - 0.5 * jitter)
