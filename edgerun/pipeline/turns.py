"""Turns: which frames an engine takes next, and what the capture threads are told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from edgerun.errors import Closed
from edgerun.pipeline.demand import Estimate, head_start, min_period_ns, pick, plan_turns
from edgerun.pipeline.ending import Job
from edgerun.pipeline.lane import Lane
from edgerun.slot import take_any
from edgerun.types import Frame

if TYPE_CHECKING:
    from edgerun.clock import Clock


class Batching(msgspec.Struct, frozen=True):
    """At most `most` frames in one inference; the first waits at most `delay_ns` for the others."""

    most: int = 1
    delay_ns: int = 0


class Turns:
    """The lanes of one engine, in the order that demand's rules give them. Used by the engine's worker thread.

    `ready` is the condition that all their Slots share.
    """

    def __init__(self, lanes: Sequence[Lane], ready: threading.Condition, clock: Clock, batching: Batching) -> None:
        self.lanes = tuple(lanes)
        self.ready = ready
        self.batching = batching
        self._slots = [lane.slot for lane in lanes]
        self._live = [not lane.ended for lane in lanes]
        self.retired = False
        """Another worker is to follow; see `retire`."""
        self._ended: list[int] = []
        self._clock = clock
        self._served_ns = [clock.mono_ns()] * len(lanes)
        self._weights = [lane.plan.weight for lane in lanes]
        self._head_start = head_start(self._weights)
        self._periods_ns = [0] * len(lanes)
        self._promises = any(lane.plan.min_fps for lane in lanes)
        self._service = [Estimate() for _ in lanes]

    def gather(self, interrupt: Callable[[], bool] | None = None) -> list[Job]:
        """The frames of the next inference: one, or as many as come in time; their leases are the caller's.

        None of them when `interrupt` (asked whenever `ready` is notified) was true first, or after `retire`. Raises
        `Closed` at the end of all lanes. Frames too old for their stream are counted here and go no further.
        """
        if interrupt is None:  # nothing is on an accelerator
            self.pass_ends_on()
        jobs: list[Job] = []
        deadline_ns = 0
        while len(jobs) < self.batching.most:
            left_s = max(0.0, (deadline_ns - self._clock.mono_ns()) / 1e9) if jobs else None
            try:
                taken = take_any(self._slots, self.ready, self._next, self._live, left_s, interrupt or self._must_look)
            except Closed:
                if jobs:
                    return jobs
                raise
            if taken is None and interrupt is None and not self.retired and self._any_passed():
                for lane in self.lanes:
                    lane.passed = False
                self.announce(self._clock.mono_ns(), None)
                continue
            if taken is None:
                break
            index, frame = taken
            if frame is None:
                self._note_end(index)
                if not jobs and interrupt is None:
                    self.pass_ends_on()
                continue
            now_ns = self._clock.mono_ns()
            self._served_ns[index] = now_ns - int(self._head_start * self._service[index].value_ns)
            if self.expires(index, frame, now_ns):
                frame.lease.release()
                continue
            waits_until_ns = now_ns + self.batching.delay_ns
            lane = self.lanes[index]
            if frame.lossy and lane.max_age_ns:
                waits_until_ns = min(waits_until_ns, frame.stamp.captured_ns + lane.max_age_ns)
            deadline_ns = min(deadline_ns, waits_until_ns) if jobs else waits_until_ns
            jobs.append(Job(index, frame, now_ns))
        return jobs

    def retire(self) -> None:
        """Give no more frames: whoever gathers is given what it has, and `retired` is true. Any thread may call it."""
        with self.ready:
            self.retired = True
            self.ready.notify_all()

    def stay(self) -> None:
        """Nobody follows after all."""
        self.retired = False

    def inherit(self, before: Turns, *, same_engine: bool) -> None:
        """Take over what is known of the lanes that were in `before` too: when each was served last and, of the same
        engine, for how long.
        """
        for index, lane in enumerate(self.lanes):
            if lane in before.lanes:
                at = before.lanes.index(lane)
                self._served_ns[index] = before._served_ns[at]
                if same_engine:
                    self._service[index] = before._service[at]

    def _must_look(self) -> bool:
        return self.retired or self._any_passed()

    def _any_passed(self) -> bool:
        return any(lane.passed for lane in self.lanes)

    def _note_end(self, index: int) -> None:
        self.lanes[index].ended = True
        self._ended.append(index)

    def served(self, index: int, spent_ns: int) -> None:
        """A turn that began with a frame of this lane took so long."""
        self._service[index].add(spent_ns)

    def announce(self, at_ns: int, current: int | None, *, idle: bool = True) -> None:
        """Tell every lane's capture thread when its next turn is expected.

        From `at_ns` on the engine serves lane `current`, or nobody; without `idle` it takes no frame before then.
        """
        services_ns = [estimate.value_ns for estimate in self._service]
        if self._promises:
            longest_ns = max(services_ns)
            self._periods_ns = [min_period_ns(lane.plan.min_fps or 0.0, longest_ns) for lane in self.lanes]
        in_hand = [lane.has_frame(at_ns) for lane in self.lanes]
        if current is not None:
            # Its own next frame will be there when this turn ends; else a lighter lane would be called in its place.
            in_hand[current] = in_hand[current] or 0 < self.lanes[current].demand.interval_ns <= services_ns[current]
        turns = plan_turns(at_ns, current, services_ns, in_hand, self._weights, self._last_served(), self._periods_ns)
        if self.batching.most > 1:  # the next turn takes a frame of everyone
            turns = [min(turns)] * len(turns)
        for lane, turn_ns, service in zip(self.lanes, turns, self._service, strict=True):
            # How far off the turn is depends on the service before it.
            uncertain = self._service[current] if current is not None else service
            lane.demand.tell(turn_ns or (0 if idle else at_ns), uncertain.deviation_ns)

    def drain(self, reason: str) -> None:
        """Count every frame still to come as failed, until the Slots are closed: what a dead worker owes."""
        self.pass_ends_on()
        while True:
            try:
                taken = take_any(self._slots, self.ready, lambda waiting: waiting[0], self._live)
            except Closed:
                return
            if taken is None:
                continue
            index, frame = taken
            if frame is None:
                self._note_end(index)
                self.pass_ends_on()
                continue
            self.lanes[index].meter.account.end("failed", reason, frame.stamp)
            frame.lease.release()

    def pass_ends_on(self) -> None:
        """Lanes have come to their end, and with them the crops that they gave: none of their frames is in hand."""
        while self._ended:
            cascade = self.lanes[self._ended.pop()].cascade
            if cascade is not None:
                cascade.feeder_ended()

    def is_too_old(self, index: int, frame: Frame, now_ns: int) -> bool:
        """Whether the frame may not be inferred any more."""
        lane = self.lanes[index]
        return bool(lane.max_age_ns) and frame.lossy and now_ns - frame.stamp.captured_ns > lane.max_age_ns

    def expires(self, index: int, frame: Frame, now_ns: int) -> bool:
        """The same; a frame that is too old is counted."""
        if not self.is_too_old(index, frame, now_ns):
            return False
        self.lanes[index].expire(frame.stamp, now_ns)
        return True

    def _next(self, waiting: Sequence[int]) -> int:
        return pick(waiting, self._weights, self._last_served(), self._clock.mono_ns(), self._periods_ns)

    def _last_served(self) -> list[int]:
        """When each lane had its last turn; a frame that the gate held back was one."""
        return [max(at_ns, lane.gated_ns) for at_ns, lane in zip(self._served_ns, self.lanes, strict=True)]
