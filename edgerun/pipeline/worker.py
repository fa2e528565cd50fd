"""The worker: one thread per engine takes the newest frame of the stream whose turn it is and makes its result."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgerun.errors import Closed, FrameError
from edgerun.pipeline.demand import Estimate, next_turns, pick
from edgerun.pipeline.lane import Lane
from edgerun.slot import Outbox, take_any
from edgerun.types import Frame, ModelInfo, Result

if TYPE_CHECKING:
    from edgerun.clock import Clock
    from edgerun.ports import Engine, Preprocess

Delivery = tuple[Lane, Result]


def count_failed(delivery: Delivery, reason: str) -> None:
    """End a result that will not be published: counted with its reason, its picture given back."""
    lane, result = delivery
    lane.meter.account.end("failed", reason)
    if result.lease is not None:
        result.lease.release()


class Worker:
    """Preprocess, infer and decode of one engine, in sequence on one thread, for all lanes that share it."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        preprocess: Preprocess,
        model: ModelInfo,
        lanes: Sequence[Lane],
        ready: threading.Condition,
        outbox: Outbox[Delivery],
        clock: Clock,
        *,
        keep_pictures: bool = False,
    ) -> None:
        self.name = name
        self.engine = engine
        self._busy_ns = 0
        self._preprocess = preprocess
        self._model = model
        self._lanes = tuple(lanes)
        self._ready = ready
        self._outbox = outbox
        self._clock = clock
        self._keep_pictures = keep_pictures
        now_ns = clock.mono_ns()
        self._served_ns = [now_ns] * len(self._lanes)
        self._weights = [lane.plan.weight for lane in self._lanes]
        self._service = [Estimate() for _ in self._lanes]
        self._told = [(0, 0)] * len(self._lanes)

    def read_busy_ns(self) -> int:
        """Time spent on frames so far, ns."""
        return self._busy_ns

    def run(self) -> None:
        """The thread's body: until every lane's Slot is closed and empty."""
        slots = [lane.slot for lane in self._lanes]
        while True:
            try:
                index, frame = take_any(slots, self._ready, self._next)
            except Closed:
                return
            try:
                self._serve(index, frame)
            finally:
                frame.lease.release()

    def drain(self, reason: str) -> None:
        """Count every frame still to come as failed, until the Slots are closed: what a dead worker owes."""
        slots = [lane.slot for lane in self._lanes]
        while True:
            try:
                index, frame = take_any(slots, self._ready, lambda waiting: waiting[0])
            except Closed:
                return
            self._lanes[index].meter.account.end("failed", reason)
            frame.lease.release()

    def _next(self, waiting: Sequence[int]) -> int:
        return pick(waiting, self._weights, self._served_ns, self._clock.mono_ns())

    def _serve(self, index: int, frame: Frame) -> None:
        lane = self._lanes[index]
        began_ns = self._clock.mono_ns()
        self._served_ns[index] = began_ns
        age_ns = began_ns - frame.stamp.captured_ns
        if lane.max_age_ns and frame.lossy and age_ns > lane.max_age_ns:
            lane.expire(age_ns, began_ns)
            return
        self._announce(began_ns, index)
        try:
            result = self._infer(lane, index, frame, began_ns)
        except FrameError as error:
            lane.fail(frame.stamp.seq, error, began_ns)
        except BaseException:
            lane.meter.account.end("failed", "engine")
            raise
        else:
            self._hand_over(lane, result, frame)
        finally:
            ended_ns = self._clock.mono_ns()
            self._busy_ns += ended_ns - began_ns
            self._service[index].add(ended_ns - began_ns)
            self._announce(ended_ns, None)

    def _infer(self, lane: Lane, index: int, frame: Frame, began_ns: int) -> Result:
        tensor, placement = self._preprocess.prepare(frame.image)
        prepared_ns = self._clock.mono_ns()
        outputs = self.engine.infer((tensor,))
        inferred_ns = self._clock.mono_ns()
        answer = lane.plan.decoder.decode(outputs, placement)
        decoded_ns = self._clock.mono_ns()
        latency_ns = {
            "capture": frame.ready_ns - frame.stamp.captured_ns,
            "wait": began_ns - frame.ready_ns,
            "preprocess": prepared_ns - began_ns,
            "infer": inferred_ns - prepared_ns,
            "decode": decoded_ns - inferred_ns,
        }
        for stage, spent_ns in latency_ns.items():
            lane.meter.stages[stage].record(spent_ns / 1e6)
        fates = lane.meter.account.view().fates
        dropped = (fates["skipped"], fates["superseded"])
        before, self._told[index] = self._told[index], dropped
        height, width = frame.image.shape[:2]
        return Result(
            stamp=frame.stamp,
            answer=answer,
            model=self._model,
            frame_size=(width, height),
            latency_ns=latency_ns,
            dropped={"skipped": dropped[0] - before[0], "superseded": dropped[1] - before[1]},
            max_age_ns=lane.max_age_ns if frame.lossy else 0,
            lease=frame.lease.share() if self._keep_pictures else None,
        )

    def _hand_over(self, lane: Lane, result: Result, frame: Frame) -> None:
        victim: Delivery | None = None
        reason = "outbox"
        try:
            if frame.lossy:
                victim = self._outbox.put((lane, result))
            else:
                self._outbox.put_wait((lane, result))
        except Closed:  # only when this thread was given up as hung and comes back after all
            victim, reason = (lane, result), "stopped"
        if victim is not None:
            count_failed(victim, reason)

    def _announce(self, now_ns: int, current: int | None) -> None:
        """Tell every lane's capture thread when its next turn is expected."""
        waiting = [lane.slot.stats().waiting > 0 for lane in self._lanes]
        services_ns = [estimate.value_ns for estimate in self._service]
        for lane, turn_ns in zip(self._lanes, next_turns(now_ns, current, services_ns, waiting), strict=True):
            lane.demand.wanted_at_ns = turn_ns
