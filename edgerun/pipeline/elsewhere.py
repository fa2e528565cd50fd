"""The worker of a model that other machines can run too: several frames on the way there, one on the engine here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from edgerun.errors import Closed, FrameError
from edgerun.pipeline.ending import Ending, Job
from edgerun.pipeline.others import Landed, Others
from edgerun.pipeline.turns import Turns
from edgerun.pipeline.worker import Worker, give_up
from edgerun.progress import waiting
from edgerun.types import Answer, Tensor

if TYPE_CHECKING:
    from edgerun.clock import Clock
    from edgerun.ports import Engine, Preprocess

_HERE, _THERE = 0, 1  # rows of the input: what is sent is copied at once, what the engine here works on stays

_LOOK_S, _REST_S = 0.02, 0.25
_LOSSLESS_NS = 10_000_000_000
"""How long a frame without a deadline waits for its answer."""
_GRACE_NS = 1_000_000_000
"""How long the answers that are awaited at the end may take."""
_SHORT_GRACE_NS = 300_000_000
"""The same, where the engine here can have those frames instead."""
_END_NS = 1_400_000_000
"""So long after the end of the data it may still begin with them: whoever asked for the end does not wait for ever."""

Where = Literal["here", "there"]


class _Local:
    """One frame on the engine here, which has a thread of its own."""

    __slots__ = ("done", "error", "job", "outputs")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = False
        self.outputs: Sequence[Tensor] = ()
        self.error: BaseException | None = None


class ElsewhereWorker(Worker):
    """Frames go to `others`, as many at a time as those take; what does not, waits in its Slot, where newer ones win.

    `engine` stands for all of it, `here` for what infers in this process. `first` there: that, if any, works only while
    nobody answers there. `first` here: what comes while it
    is busy goes there. Results of a lane that remembers its scene keep their order: an answer waits for those before
    it, but no longer than answers usually take; what is overtaken so is `superseded`. `preprocess` needs two rows.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        preprocess: Preprocess,
        turns: Turns,
        ending: Ending,
        clock: Clock,
        others: Others,
        here: Engine | None,
        first: Where = "there",
    ) -> None:
        super().__init__(name, engine, preprocess, turns, ending, clock)
        self._others, self._engine_here, self._first = others, here, first
        self._has_engine = here is not None
        self._away: dict[int, Job] = {}
        self._here: _Local | None = None
        self._taken = True
        self._quit = False
        self._again: deque[Job] = deque()
        """Frames whose answers did not come and that are young enough for the engine here."""
        self._ended_ns = 0
        self._queues: dict[int, dict[int, Job]] = {}
        self._held: dict[int, tuple[Answer, dict[str, int]]] = {}

    def run(self) -> None:
        """The thread's body: until every lane's Slot is closed and empty, or another worker is to follow, and what was
        taken has landed.
        """
        thread = threading.Thread(target=self._infer_for_ever, name=f"infer:{self.name}", daemon=True)
        self._quit = False
        thread.start()
        self._others.open(self._turns.lanes[0].slot.nudge if self._turns.lanes else lambda: None)
        try:
            open_ = True
            while open_ or self._busy:
                if self._turns.retired:
                    open_ = False
                try:
                    jobs = self._gather(open_)
                except Closed:
                    open_, jobs = False, []
                if not open_ or self._at_end:
                    self._hurry()
                for job in jobs:
                    self._start(job)
                self._land()
                self.idle = not self._busy
        finally:
            self._abandon()
            thread.join()
            self._others.close()
        self._turns.pass_ends_on()

    def inherit(self, before: Worker) -> None:
        """See `Worker.inherit`."""
        super().inherit(before)
        if isinstance(before, ElsewhereWorker):
            self._others.inherit(before._others)

    @property
    def _at_end(self) -> bool:
        """Whether nothing comes any more; what waits may still have no room to be sent."""
        return all(lane.slot.closed for lane in self._lanes)

    def _hurry(self) -> None:
        """Wait no longer than is fit for what is on the way: at the end, or because another worker is to follow."""
        if not self._at_end:
            self._others.hurry(max(_GRACE_NS, 2 * self._others.patience_ns))
            return
        self._ended_ns = self._ended_ns or self._clock.mono_ns()
        self._others.hurry(_SHORT_GRACE_NS if self._has_engine else _GRACE_NS)

    @property
    def _busy(self) -> bool:
        return bool(self._away or self._again) or self._here is not None or any(self._queues.values())

    def _route(self) -> Where | None:
        """Where the next frame goes; None: it waits."""
        here = self._has_engine and self._here is None
        there = self._others.has_room
        if self._first == "here":
            return "here" if here else "there" if there and not self._others.absent else None
        if self._has_engine and self._others.absent:
            return "here" if here else None
        return "there" if there else None

    def _gather(self, open_: bool) -> list[Job]:
        """The next frame, if there is room for one; none when something landed or is overdue."""
        now_ns = self._clock.mono_ns()
        if open_ and self._route() is not None:
            self._turns.announce(now_ns, None)
            if not self._busy:
                with waiting():
                    return self._turns.gather()
            if self._held and not self._wait(lambda: any(len(lane.slot) for lane in self._lanes), _LOOK_S):
                return []
            with waiting():
                return self._turns.gather(self._must_land)
        if not self._busy:
            return []
        if open_:
            self._turns.announce(now_ns + max(1_000_000, self._others.usual_ns // 2), None, idle=False)
        self._wait(lambda: False, _LOOK_S if self._held else _REST_S)
        return []

    def _wait(self, there: Callable[[], bool], limit_s: float) -> bool:
        """Wait for something to land, and no longer than until `there`, which is returned."""
        with waiting(), self._turns.ready:
            self._turns.ready.wait_for(lambda: there() or self._must_land(), limit_s)
            return there()

    def _must_land(self) -> bool:
        return self._others.waiting or (self._here is not None and self._here.done) or self._turns.retired

    def _start(self, job: Job) -> None:
        """Prepare a frame and send it where there is room."""
        lane, began_ns = self._lanes[job.index], self._clock.mono_ns()
        where = self._route()
        if where is None:  # whoever had room a moment ago has gone
            where = "here" if self._has_engine and self._here is None else "there"
        rows: list[Job] = []
        try:
            rows = self._prepare([job], _HERE if where == "here" else _THERE)
            if rows:
                self._launch(job, where)
            elif job.frame.reuse is not None and self._queues.get(job.index):
                self._held[id(job)] = (job.frame.reuse.answer, {})
            else:
                self._finish([job], ())
        except FrameError as error:
            self._fail(job, error)
        finally:
            pending = not job.ended and (bool(rows) or id(job) in self._held)
            if not pending:
                give_up(self._turns, [job])
        if pending and lane.plan.scene is not None:
            self._queues.setdefault(job.index, {})[id(job)] = job
        spent_ns = self._clock.mono_ns() - began_ns
        self._busy_ns += spent_ns
        if where == "there":
            self._turns.served(job.index, spent_ns)

    def _launch(self, job: Job, where: Where) -> None:
        job.launched_ns = self._clock.mono_ns()
        plan, frame = self._lanes[job.index].plan, job.frame
        max_age_ns = self._lanes[job.index].max_age_ns
        lossy = frame.lossy and max_age_ns
        deadline_ns = frame.stamp.captured_ns + max_age_ns if lossy else job.launched_ns + _LOSSLESS_NS
        if where == "there":
            self._away[self._others.send(plan, job, deadline_ns)] = job
            return
        if self._others.probe_due(job.launched_ns):
            self._others.send(plan, job, deadline_ns, probe=True)
        self._infer_here(job)

    def _infer_here(self, job: Job) -> None:
        with self._turns.ready:
            self._here, self._taken = _Local(job), False
            self._turns.ready.notify_all()

    def _land(self) -> None:
        """Make results of what has come back."""
        here = self._here
        if here is not None and here.done:
            self._here = None
            self._land_here(here)
        if self._away and self._has_engine and self._others.absent:
            self._others.recall()
        for landed in self._others.take():
            job = self._away.pop(landed.ticket, None)
            if job is not None:
                self._land_there(job, landed)
        while self._again and self._here is None:
            self._do_again(self._again.popleft())
        self._release()

    def _land_here(self, here: _Local) -> None:
        job = here.job
        if here.error is not None:
            give_up(self._turns, [job])
            raise here.error
        self._turns.served(job.index, job.inferred_ns - job.launched_ns)
        self._busy_ns += job.inferred_ns - job.launched_ns
        if job.ended:
            self._done(job)
            return
        lane = self._lanes[job.index]
        outputs = (*here.outputs, job.tensor) if lane.plan.decoder.wants_inputs else here.outputs
        self._conclude(job, outputs)

    def _land_there(self, job: Job, landed: Landed) -> None:
        now_ns = self._clock.mono_ns()
        if landed.answer is None:
            if self._has_engine and landed.reason != "remote_frame" and self._is_in_time(job):
                self._again.append(job)
                return
            what = "no answer came in time" if not landed.text else f"no answer: {landed.text}"
            self._fail(job, FrameError(what, reason=landed.reason, where=self.name))
            self._done(job)
            return
        job.inferred_ns, job.accelerator = now_ns, f"remote:{landed.by}"
        self._conclude(job, (landed.answer,))

    def _is_in_time(self, job: Job) -> bool:
        """Whether the engine here may still begin with it."""
        now_ns = self._clock.mono_ns()
        over = self._ended_ns and now_ns - self._ended_ns > _END_NS
        return not over and not self._turns.is_too_old(job.index, job.frame, now_ns)

    def _do_again(self, job: Job) -> None:
        """On the engine here."""
        if not self._is_in_time(job):
            self._fail(job, FrameError("no answer came in time", reason="remote_lost", where=self.name))
            self._done(job)
            return
        job.row = _HERE
        job.tensor, job.placement = self._preprocess.prepare(job.frame.image, job.frame.region, _HERE)
        job.launched_ns = self._clock.mono_ns()
        self._infer_here(job)

    def _conclude(self, job: Job, outputs: Sequence[Tensor | Answer]) -> None:
        """Read what came, and hand the result on when its turn is there."""
        lane = self._lanes[job.index]
        try:
            answer = lane.plan.decoder.decode(outputs, job.placement)  # type: ignore[arg-type]
        except FrameError as error:
            self._fail(job, error)
            self._done(job)
            return
        stages = {
            "preprocess": job.prepared_ns - job.preparing_ns,
            "infer": job.inferred_ns - job.launched_ns,
            "decode": self._clock.mono_ns() - job.inferred_ns,
        }
        if lane.plan.scene is None:
            self._hand_on(job, answer, stages)
        elif id(job) in self._queues.get(job.index, {}):
            self._held[id(job)] = (answer, stages)
        else:
            self._supersede(job)

    def _hand_on(self, job: Job, answer: Answer, stages: dict[str, int]) -> None:
        lane, frame = self._lanes[job.index], job.frame
        if lane.last is None or lane.last[0] < frame.stamp.captured_ns:
            lane.last = (frame.stamp.captured_ns, answer)
        if lane.cache is not None and frame.key is not None and frame.region == lane.plan.region:
            lane.cache.put(lane.plan.stream, frame.key, answer, frame.size)
        self._ending.finish(lane, job, answer, stages)
        self._done(job)

    def _done(self, job: Job) -> None:
        give_up(self._turns, [job])
        self._queues.get(job.index, {}).pop(id(job), None)

    def _release(self) -> None:
        """Hand on what has been waiting for those before it."""
        now_ns = self._clock.mono_ns()
        for queue in self._queues.values():
            while queue:
                job = next(iter(queue.values()))
                held = self._held.pop(id(job), None)
                if held is not None:
                    self._hand_on(job, *held)
                    continue
                others_wait = any(later in self._held for later in queue)
                if not others_wait or now_ns - job.launched_ns < 2 * self._others.patience_ns:
                    break
                self._overtake(job)

    def _overtake(self, job: Job) -> None:
        """A newer result goes first: this frame's, should it come, would take the scene back in time."""
        if self._here is not None and self._here.job is job:
            del self._queues[job.index][id(job)]  # it cannot be called back; it is counted when it lands
            return
        for ticket, away in list(self._away.items()):
            if away is job:
                del self._away[ticket]
        self._again = deque(one for one in self._again if one is not job)
        self._supersede(job)

    def _supersede(self, job: Job) -> None:
        self._lanes[job.index].meter.account.end("superseded", None, job.frame.stamp)
        job.ended = True
        self._done(job)

    def _abandon(self) -> None:
        """Nobody will land any more: what is left is given up, and the engine's thread ends."""
        left = {id(job): job for queue in self._queues.values() for job in queue.values()}
        left |= {id(job): job for job in (*self._away.values(), *self._again)}
        with self._turns.ready:
            self._turns.ready.wait_for(lambda: self._here is None or self._here.done)
            if self._here is not None:
                left[id(self._here.job)] = self._here.job
            self._here, self._quit = None, True
            self._turns.ready.notify_all()
        give_up(self._turns, list(left.values()))
        self._away, self._queues, self._held = {}, {}, {}
        self._again.clear()

    def _infer_one(self, here: _Local) -> None:
        job, engine = here.job, self._engine_here
        assert engine is not None, "without one nothing is launched here"
        try:
            here.outputs = engine.infer((job.tensor,))
        except FrameError as error:
            self._fail(job, error)
        job.inferred_ns, job.accelerator = self._clock.mono_ns(), engine.info.accelerator

    def _infer_for_ever(self) -> None:
        """The body of the engine's own thread: until told to quit."""
        ready = self._turns.ready
        while True:
            with ready:
                ready.wait_for(lambda: not self._taken or self._quit)
                here, self._taken = self._here, True
                if here is None:
                    if self._quit:
                        return
                    continue
            try:
                self._infer_one(here)
            except BaseException as error:  # noqa: BLE001  a thread's body: raised again where the worker waits for it
                here.error = error
            with ready:
                here.done = True
                ready.notify_all()
