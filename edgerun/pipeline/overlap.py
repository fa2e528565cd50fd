"""The worker of an engine that is not the CPU: it prepares the next frame while the accelerator works on this one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgerun.errors import Closed
from edgerun.pipeline.demand import Estimate, overlap_start
from edgerun.pipeline.ending import Ending, Job
from edgerun.pipeline.turns import Turns
from edgerun.pipeline.worker import Worker, give_up
from edgerun.progress import waiting
from edgerun.types import Tensor

if TYPE_CHECKING:
    from edgerun.clock import Clock
    from edgerun.ports import Engine, Preprocess


class _Flight:
    """Frames on the accelerator."""

    __slots__ = ("done", "error", "jobs", "launched_ns", "outputs", "rows")

    def __init__(self, jobs: Sequence[Job], rows: Sequence[Job], launched_ns: int) -> None:
        self.jobs, self.rows, self.launched_ns = jobs, rows, launched_ns
        self.done = False
        self.outputs: Sequence[Tensor] = ()
        self.error: BaseException | None = None


class OverlappedWorker(Worker):
    """Two inputs take turns: while the engine, on a thread of its own, infers from one, the other is filled.

    Filling begins as late as the inference under way still hides it: earlier it would only make the result older. A
    finished inference never waits for the next frame. `preprocess` needs twice as many rows as a batch.
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
        super().__init__(name, engine, preprocess, turns, ending, clock, forget)
        self._infer_time = Estimate()
        self._prepare_time = Estimate()
        self._kept: list[Tensor] = []
        self._flight: _Flight | None = None
        self._landed = True
        self._half = 0

    def run(self) -> None:
        """The thread's body: until every lane's Slot is closed and empty, or another worker is to follow, and what was
        taken is inferred.
        """
        thread = threading.Thread(target=self._infer_for_ever, name=f"infer:{self.name}", daemon=True)
        thread.start()
        flight: _Flight | None = None
        try:
            open_ = True
            while (open_ and not self._turns.retired) or flight is not None:
                jobs: list[Job] = []
                try:
                    jobs = self._next_jobs(flight) if open_ and not self._turns.retired else []
                except Closed:
                    open_ = False
                rows = self._prepare_next(jobs)
                landed, flight = flight, None
                try:
                    if landed is not None:
                        self._land(landed)
                    if rows and not self._all_too_old(rows):
                        flight = self._launch(jobs, rows)
                    if landed is not None:
                        self._finish(landed.jobs, self._kept)
                    self.idle = flight is None
                    if flight is None:
                        self._finish(jobs, ())
                finally:
                    give_up(self._turns, landed.jobs if landed is not None else ())
                    if flight is None:
                        give_up(self._turns, jobs)
        finally:
            if flight is not None:
                give_up(self._turns, flight.jobs)
            self._hand_to_engine(None)
            thread.join()
        self._turns.pass_ends_on()

    def inherit(self, before: Worker) -> None:
        """See `Worker.inherit`."""
        super().inherit(before)
        if isinstance(before, OverlappedWorker) and self.engine is before.engine:
            self._infer_time, self._prepare_time = before._infer_time, before._prepare_time

    def _next_jobs(self, flight: _Flight | None) -> list[Job]:
        """The next frames; none when the inference under way ends first."""
        now_ns = self._clock.mono_ns()
        if flight is None:
            self._turns.announce(now_ns, None)
            with waiting():  # not while an inference is under way, which is to end
                return self._turns.gather()
        margin_ns = self._infer_time.deviation_ns + self._prepare_time.deviation_ns
        ends_ns = flight.launched_ns + self._infer_time.value_ns
        start_ns = max(now_ns, overlap_start(ends_ns, self._prepare_time.value_ns, margin_ns))
        self._turns.announce(start_ns, None, idle=start_ns <= now_ns)
        with self._turns.ready:
            self._turns.ready.wait_for(lambda: flight.done, (start_ns - now_ns) / 1e9)
        return self._turns.gather(lambda: flight.done)

    def _prepare_next(self, jobs: Sequence[Job]) -> list[Job]:
        if not jobs:
            return []
        began_ns = self._clock.mono_ns()
        try:
            rows = self._prepare(jobs, self._half * self._turns.batching.most)
        except BaseException:
            give_up(self._turns, jobs)
            raise
        if rows:
            self._prepare_time.add((self._clock.mono_ns() - began_ns) // len(rows))
        return rows

    def _all_too_old(self, rows: Sequence[Job]) -> bool:
        """Whether none of these frames may be inferred any more: they waited for an inference that took too long."""
        now_ns = self._clock.mono_ns()
        if not all(self._turns.is_too_old(job.index, job.frame, now_ns) for job in rows):
            return False
        for job in rows:
            job.ended = self._turns.expires(job.index, job.frame, now_ns)
        return True

    def _launch(self, jobs: Sequence[Job], rows: Sequence[Job]) -> _Flight:
        self._half = 1 - self._half
        flight = _Flight(jobs, rows, self._clock.mono_ns())
        self._hand_to_engine(flight)
        return flight

    def _land(self, flight: _Flight) -> None:
        """Wait for the inference and keep its outputs, which are valid only until the next one begins."""
        with self._turns.ready:
            self._turns.ready.wait_for(lambda: flight.done)
        if flight.error is not None:
            raise flight.error
        if not flight.outputs:  # the engine could not infer these frames
            return
        if [kept.shape for kept in self._kept] != [output.shape for output in flight.outputs]:
            self._kept = [np.empty_like(output) for output in flight.outputs]
        for kept, output in zip(self._kept, flight.outputs, strict=True):
            np.copyto(kept, output)
        inferred_ns = flight.rows[0].inferred_ns
        self._infer_time.add(inferred_ns - flight.launched_ns)
        self._turns.served(flight.rows[0].index, inferred_ns - flight.launched_ns)
        self._busy_ns += inferred_ns - flight.launched_ns

    def _hand_to_engine(self, flight: _Flight | None) -> None:
        with self._turns.ready:
            self._flight, self._landed = flight, False
            self._turns.ready.notify_all()

    def _infer_for_ever(self) -> None:
        """The body of the engine's own thread: until it is handed None."""
        ready = self._turns.ready
        while True:
            with ready:
                ready.wait_for(lambda: not self._landed)
                flight, self._landed = self._flight, True
            if flight is None:
                return
            try:
                flight.outputs = self._infer(flight.rows)
            except BaseException as error:  # noqa: BLE001  a thread's body: raised again where the worker waits for it
                flight.error = error
            with ready:
                flight.done = True
                ready.notify_all()
