"""The worker: one thread per engine takes the newest frame of the stream whose turn it is and makes its result."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from edgerun.errors import Closed, FrameError
from edgerun.pipeline.demand import Estimate, min_period_ns, pick, plan_turns
from edgerun.pipeline.ending import Delivery, Ending, Job
from edgerun.pipeline.lane import Lane
from edgerun.slot import Outbox, take_any
from edgerun.types import Frame, ModelInfo, Tensor

if TYPE_CHECKING:
    from edgerun.clock import Clock
    from edgerun.ports import Engine, Preprocess


class Batching(msgspec.Struct, frozen=True):
    """At most `most` frames in one inference; the first waits at most `delay_ns` for the others."""

    most: int = 1
    delay_ns: int = 0


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
        batching: Batching | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self._busy_ns = 0
        self._preprocess = preprocess
        self._lanes = tuple(lanes)
        self._slots = [lane.slot for lane in self._lanes]
        self._live = [True] * len(self._lanes)
        self._ready = ready
        self._clock = clock
        self._batching = batching or Batching()
        now_ns = clock.mono_ns()
        self._served_ns = [now_ns] * len(self._lanes)
        self._weights = [lane.plan.weight for lane in self._lanes]
        self._periods_ns = [0] * len(self._lanes)
        self._promises = any(lane.plan.min_fps for lane in self._lanes)
        self._service = [Estimate() for _ in self._lanes]
        self._ending = Ending(model, outbox, clock, keep_pictures=keep_pictures)

    def read_busy_ns(self) -> int:
        """Time spent on frames so far, ns."""
        return self._busy_ns

    def run(self) -> None:
        """The thread's body: until every lane's Slot is closed and empty."""
        try:
            while True:
                jobs = self._gather()
                try:
                    if jobs:
                        self._serve(jobs)
                finally:
                    for job in jobs:
                        job.frame.lease.release()
        except Closed:
            return

    def drain(self, reason: str) -> None:
        """Count every frame still to come as failed, until the Slots are closed: what a dead worker owes."""
        while True:
            try:
                taken = take_any(self._slots, self._ready, lambda waiting: waiting[0], self._live)
            except Closed:
                return
            if taken is None or taken[1] is None:
                self._end(taken)
                continue
            self._lanes[taken[0]].meter.account.end("failed", reason)
            taken[1].lease.release()

    def _gather(self) -> list[Job]:
        """The frames of the next inference: one, or as many as come in time."""
        jobs: list[Job] = []
        deadline_ns = 0
        while len(jobs) < self._batching.most:
            left_s = max(0.0, (deadline_ns - self._clock.mono_ns()) / 1e9) if jobs else None
            try:
                taken = take_any(self._slots, self._ready, self._next, self._live, left_s)
            except Closed:
                if jobs:
                    return jobs
                raise
            if taken is None:
                break
            index, frame = taken
            if frame is None:
                self._end(taken)
                continue
            now_ns = self._clock.mono_ns()
            self._served_ns[index] = now_ns
            if self._is_too_old(index, frame, now_ns):
                frame.lease.release()
                continue
            if not jobs:
                deadline_ns = now_ns + self._batching.delay_ns
            jobs.append(Job(index, frame, now_ns))
        return jobs

    def _end(self, taken: tuple[int, Frame | None] | None) -> None:
        """A lane has come to its end, and with it the crops that it gave."""
        cascade = self._lanes[taken[0]].cascade if taken is not None else None
        if cascade is not None:
            cascade.slot.close()

    def _is_too_old(self, index: int, frame: Frame, now_ns: int) -> bool:
        lane = self._lanes[index]
        age_ns = now_ns - frame.stamp.captured_ns
        if lane.max_age_ns and frame.lossy and age_ns > lane.max_age_ns:
            lane.expire(age_ns, now_ns)
            return True
        return False

    def _next(self, waiting: Sequence[int]) -> int:
        return pick(waiting, self._weights, self._last_served(), self._clock.mono_ns(), self._periods_ns)

    def _serve(self, jobs: list[Job]) -> None:
        """All that happens to the frames of one inference. A frame whose answer is known takes no part in it."""
        began_ns = self._clock.mono_ns()
        self._announce(began_ns, jobs[0].index)
        rows: list[Job] = []
        try:
            for job in jobs:
                if job.frame.reuse is None and self._prepare(job, len(rows)):
                    rows.append(job)
            outputs = self._infer(rows) if rows else ()
            for job in jobs:
                if job.frame.reuse is not None:
                    self._ending.finish(self._lanes[job.index], job, job.frame.reuse.answer, {})
                elif not job.ended:
                    self._read(job, outputs if len(rows) == 1 else [one[job.row : job.row + 1] for one in outputs])
        except BaseException:
            for job in jobs:
                if not job.ended:
                    self._lanes[job.index].meter.account.end("failed", "engine")
            raise
        ended_ns = self._clock.mono_ns()
        self._busy_ns += ended_ns - began_ns
        if rows:
            self._service[jobs[0].index].add(ended_ns - began_ns)
        self._announce(ended_ns, None)

    def _prepare(self, job: Job, row: int) -> bool:
        """Whether the frame could be made into row `row` of the model's input; where not, it has failed."""
        try:
            job.tensor, job.placement = self._preprocess.prepare(job.frame.image, job.frame.region, row)
        except FrameError as error:
            self._fail(job, error)
            return False
        job.row = row
        job.prepared_ns = self._clock.mono_ns()
        return True

    def _infer(self, rows: Sequence[Job]) -> Sequence[Tensor]:
        tensor = rows[0].tensor if len(rows) == 1 else self._preprocess.batch(len(rows))
        outputs = self.engine.infer((tensor,))
        inferred_ns = self._clock.mono_ns()
        for job in rows:
            job.inferred_ns = inferred_ns
        return outputs

    def _read(self, job: Job, outputs: Sequence[Tensor]) -> None:
        """Decode a frame's own part of the outputs and make its result."""
        lane = self._lanes[job.index]
        try:
            answer = lane.plan.decoder.decode(outputs, job.placement)
        except FrameError as error:
            self._fail(job, error)
            return
        decoded_ns = self._clock.mono_ns()
        stages = {
            "preprocess": job.prepared_ns - job.began_ns,
            "infer": job.inferred_ns - job.prepared_ns,
            "decode": decoded_ns - job.inferred_ns,
        }
        frame = job.frame
        lane.last = (frame.stamp.captured_ns, answer)
        if lane.cache is not None and frame.key is not None:
            lane.cache.put(lane.plan.stream, frame.key, answer, frame.size)
        self._ending.finish(lane, job, answer, stages)

    def _fail(self, job: Job, error: FrameError) -> None:
        job.ended = True
        self._lanes[job.index].fail(job.frame.stamp.seq, error, self._clock.mono_ns())

    def _announce(self, now_ns: int, current: int | None) -> None:
        """Tell every lane's capture thread when its next turn is expected."""
        services_ns = [estimate.value_ns for estimate in self._service]
        if self._promises:
            longest_ns = max(services_ns)
            self._periods_ns = [min_period_ns(lane.plan.min_fps or 0.0, longest_ns) for lane in self._lanes]
        in_hand = [lane.demand.holding or bool(len(lane.slot)) for lane in self._lanes]
        served_ns = self._last_served()
        turns = plan_turns(now_ns, current, services_ns, in_hand, self._weights, served_ns, self._periods_ns)
        if self._batching.most > 1:  # the next turn takes a frame of everyone
            turns = [min(turns)] * len(turns)
        for lane, turn_ns, service in zip(self._lanes, turns, self._service, strict=True):
            lane.demand.tell(turn_ns, service.deviation_ns)

    def _last_served(self) -> list[int]:
        """When each lane had its last turn; a frame that the gate held back was one."""
        return [max(at_ns, lane.gated_ns) for at_ns, lane in zip(self._served_ns, self._lanes, strict=True)]
