"""The worker: one thread per engine takes the newest frame of the stream whose turn it is and makes its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgerun.errors import Closed, FrameError
from edgerun.pipeline.ending import Ending, Job
from edgerun.pipeline.turns import Turns
from edgerun.progress import waiting
from edgerun.types import Tensor

if TYPE_CHECKING:
    from edgerun.clock import Clock
    from edgerun.ports import Engine, Preprocess


_NEVER = -1
"""No frame's `seq`: whatever comes next does not follow."""


class Worker:
    """Preprocess, infer and decode of one engine, in sequence on one thread, for all lanes that share it.

    `forget` makes the engine forget what went into it, where it remembers anything: called with what the preprocessor
    remembers before the first frame after a gap.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        preprocess: Preprocess,
        turns: Turns,
        ending: Ending,
        clock: Clock,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.engine = engine
        self._preprocess = preprocess
        self._turns = turns
        self._lanes = turns.lanes
        self._ending = ending
        self._clock = clock
        self._forget = forget
        self._busy_ns = 0
        self.idle = True
        """Nothing is on the engine. Written by the worker's thread."""
        self._info = engine.info
        """That of what inferred last: another object is another engine, also where it is of the same kind."""

    def read_busy_ns(self) -> int:
        """Time spent on frames so far, ns."""
        return self._busy_ns

    def run(self) -> None:
        """The thread's body: until every lane's Slot is closed and empty, or another worker is to follow."""
        try:
            while not self._turns.retired:
                with waiting():
                    jobs = self._turns.gather()
                self._serve(jobs)
        except Closed:
            return
        self._turns.pass_ends_on()

    def retire(self) -> None:
        """End `run` when the frames in hand are done; those that wait are the next worker's. Any thread may call it."""
        self._turns.retire()

    def stay(self) -> None:
        """Nobody follows after all: `run` may be called again."""
        self._turns.stay()

    def inherit(self, before: Worker) -> None:
        """Go on where `before` has left: with its account of time, and what it knew of the lanes."""
        self._busy_ns = before._busy_ns
        self._turns.inherit(before._turns, same_engine=self.engine is before.engine)

    def drain(self, reason: str) -> None:
        """Count every frame still to come as failed, until the Slots are closed: what a dead worker owes."""
        self._turns.drain(reason)

    def _serve(self, jobs: Sequence[Job]) -> None:
        """All that happens to the frames of one inference."""
        if not jobs:
            return
        self.idle = False
        began_ns = self._clock.mono_ns()
        self._turns.announce(began_ns, jobs[0].index)
        try:
            rows = self._prepare(jobs)
            outputs = self._infer(rows) if rows else ()
            self._finish(jobs, outputs)
        finally:
            give_up(self._turns, jobs)
        ended_ns = self._clock.mono_ns()
        self._busy_ns += ended_ns - began_ns
        if rows:
            self._turns.served(jobs[0].index, ended_ns - began_ns)
        self.idle = True
        self._turns.announce(ended_ns, None)

    def _prepare(self, jobs: Sequence[Job], first: int = 0) -> list[Job]:
        """Make the frames into rows of the model's input, from row `first` on; returns those that could be.

        A frame whose answer is known needs none; one that cannot be used has failed.
        """
        rows: list[Job] = []
        for job in jobs:
            job.preparing_ns = self._clock.mono_ns()
            if job.frame.reuse is not None:  # a model that remembers is never spared one
                job.gap = self._is_missed_before(job)
                self._lanes[job.index].expects = job.frame.stamp.seq + 1
                continue
            if self._turns.expires(job.index, job.frame, job.preparing_ns):
                job.ended = True
                continue
            job.row = first + len(rows)
            try:
                self._follow(job)
                job.tensor, job.placement = self._preprocess.prepare(job.frame.image, job.frame.region, job.row)
            except FrameError as error:
                self._fail(job, error)
                continue
            job.prepared_ns = self._clock.mono_ns()
            self._lanes[job.index].expects = job.frame.stamp.seq + 1
            rows.append(job)
        return rows

    def _follow(self, job: Job) -> None:
        """Where something before this frame is missing, the model is to begin anew with it."""
        if self._is_missed_before(job):
            job.gap = True
            self._preprocess.reset()
            self._forget()
            self._info = self.engine.info

    def _is_missed_before(self, job: Job) -> bool:
        """Whether something before this frame is missing, of a lane whose frames follow each other."""
        lane, frame = self._lanes[job.index], job.frame
        return lane.plan.ordered and (frame.gap or lane.expects != frame.stamp.seq)

    def _infer(self, rows: Sequence[Job]) -> Sequence[Tensor]:
        """The outputs of these frames; none when the engine could not infer them, and they have failed."""
        launched_ns = self._clock.mono_ns()
        for job in rows:
            job.launched_ns = launched_ns
        try:
            outputs = self.engine.infer((self._tensor(rows),))
        except FrameError as error:
            for job in rows:
                self._lanes[job.index].expects = _NEVER
                self._fail(job, error)
            return ()
        now_ns, info = self._clock.mono_ns(), self.engine.info
        for job in rows:
            job.inferred_ns, job.accelerator = now_ns, info.accelerator
        if info is not self._info:  # another engine answered, and what the model remembers did not move with it
            self._info = info
            for job in rows:
                self._lanes[job.index].expects = _NEVER
                job.gap = job.gap or self._lanes[job.index].plan.ordered
        return outputs

    def _tensor(self, rows: Sequence[Job]) -> Tensor:
        return rows[0].tensor if len(rows) == 1 else self._preprocess.batch(len(rows), rows[0].row)

    def _finish(self, jobs: Sequence[Job], outputs: Sequence[Tensor]) -> None:
        """Make the results, in the order in which the frames were taken."""
        at = 0
        for job in jobs:
            if job.frame.reuse is not None:
                self._ending.finish(self._lanes[job.index], job, job.frame.reuse.answer, {})
            elif not job.ended:
                self._read(job, outputs if self._turns.batching.most == 1 else [one[at : at + 1] for one in outputs])
                at += 1

    def _read(self, job: Job, outputs: Sequence[Tensor]) -> None:
        """Decode a frame's own part of the outputs and make its result."""
        lane, frame = self._lanes[job.index], job.frame
        if lane.plan.decoder.wants_inputs:
            outputs = (*outputs, job.tensor)
        try:
            answer = lane.plan.decoder.decode(outputs, job.placement)
        except FrameError as error:
            self._fail(job, error)
            return
        decoded_ns = self._clock.mono_ns()
        stages = {
            "preprocess": job.prepared_ns - job.preparing_ns,
            "infer": job.inferred_ns - job.launched_ns,
            "decode": decoded_ns - job.inferred_ns,
        }
        lane.last = (frame.stamp.captured_ns, answer)
        if lane.cache is not None and frame.key is not None and frame.region == lane.plan.region:
            lane.cache.put(lane.plan.stream, frame.key, answer, frame.size)
        self._ending.finish(lane, job, answer, stages)

    def _fail(self, job: Job, error: FrameError) -> None:
        job.ended = True
        self._lanes[job.index].fail(job.frame.stamp, error, self._clock.mono_ns())


def give_up(turns: Turns, jobs: Sequence[Job]) -> None:
    """The worker is done with these frames: gives their pictures back and counts those that came to nothing."""
    for job in jobs:
        if not job.ended:
            turns.lanes[job.index].meter.account.end("failed", "engine", job.frame.stamp)
        job.frame.lease.release()
