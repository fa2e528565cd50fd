"""The end of a frame's way through the worker: its answer becomes a result, and its detections crops for a cascade."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgerun.errors import Closed
from edgerun.pipeline.handover import put
from edgerun.pipeline.lane import Lane
from edgerun.progress import waiting
from edgerun.slot import Outbox
from edgerun.types import Answer, Frame, ModelInfo, Placement, Result, SceneEvent, Tensor

if TYPE_CHECKING:
    from edgerun.clock import Clock

Delivery = tuple[Lane, Result]

_NO_TENSOR: Tensor = np.empty(0)


class Job(msgspec.Struct):
    """One frame in the worker's hands, with what is known of it so far. Times are monotonic ns.

    `ended`: it has been counted already and goes no further.
    """

    index: int
    frame: Frame
    began_ns: int
    preparing_ns: int = 0
    row: int = 0
    tensor: Tensor = _NO_TENSOR
    placement: Placement = Placement()
    prepared_ns: int = 0
    launched_ns: int = 0
    inferred_ns: int = 0
    accelerator: str = ""
    """What inferred it; empty where nothing did."""
    gap: bool = False
    """The model began anew with it."""
    ended: bool = False


def count_failed(delivery: Delivery, reason: str) -> None:
    """End a result that will not be published: counted with its reason, its picture given back."""
    lane, result = delivery
    lane.meter.account.end("failed", reason, result.stamp)
    if result.lease is not None:
        result.lease.release()


class Ending:
    """Makes results of answers. Used by one worker's thread."""

    def __init__(
        self,
        model: ModelInfo,
        outbox: Outbox[Delivery],
        clock: Clock,
        *,
        keep_pictures: bool,
        looked_at: Callable[[str], bool] = lambda stream: False,
    ) -> None:
        self._model = model
        self._outbox = outbox
        self._clock = clock
        self._keep_pictures = keep_pictures
        self._looked_at = looked_at

    def finish(
        self,
        lane: Lane,
        job: Job,
        answer: Answer,
        stages_ns: Mapping[str, int],
    ) -> None:
        """Hand the result of one frame to the sinks, and its crops to the next model."""
        frame = job.frame
        events: tuple[SceneEvent, ...] = ()
        if lane.plan.scene is not None:
            seen = lane.plan.scene.observe(answer, frame.stamp.moment_ns)
            answer, events = seen.answer, seen.events
        latency_ns = {
            "capture": frame.ready_ns - frame.stamp.captured_ns,
            "wait": job.preparing_ns - frame.ready_ns + job.launched_ns - job.prepared_ns,
            **stages_ns,
        }
        for stage, spent_ns in latency_ns.items():
            lane.meter.stages[stage].record(spent_ns / 1e6)
        result = Result(
            stamp=frame.stamp,
            answer=answer,
            model=self._model_on(job.accelerator),
            frame_size=frame.size,
            latency_ns=latency_ns,
            dropped=self._dropped(lane),
            max_age_ns=lane.max_age_ns if frame.lossy else 0,
            lease=frame.lease.share() if self._keeps_picture(lane) else None,
            events=events,
            reused=frame.reuse.why if frame.reuse is not None else None,
            crop=frame.crop,
            window=lane.plan.window,
            gap=job.gap,
        )
        job.ended = True
        if frame.crop is not None and lane.chooser is not None:
            lane.chooser.answered(frame.crop, frame.stamp.moment_ns)
        self._hand_over(lane, result, frame)
        if lane.cascade is not None and frame.reuse is None:
            self._give_crops(lane, lane.cascade, frame, answer)

    def _model_on(self, accelerator: str) -> ModelInfo:
        """The model, on what inferred last: an engine may have to leave its accelerator, and come back to it."""
        if accelerator and accelerator != self._model.accelerator:
            self._model = msgspec.structs.replace(self._model, accelerator=accelerator)
        return self._model

    def _keeps_picture(self, lane: Lane) -> bool:
        return not lane.plan.window and (self._keep_pictures or self._looked_at(lane.plan.stream))

    def _dropped(self, lane: Lane) -> dict[str, int]:
        """Frames of the lane dropped since its previous result."""
        skipped, superseded = lane.meter.account.dropped()
        before = tuple(lane.told)
        lane.told[:] = skipped, superseded
        return {"skipped": skipped - before[0], "superseded": superseded - before[1]}

    def _hand_over(self, lane: Lane, result: Result, frame: Frame) -> None:
        victim: Delivery | None = None
        reason = "outbox"
        try:
            if frame.lossy:
                victim = self._outbox.put((lane, result))
            else:
                with waiting():
                    self._outbox.put_wait((lane, result))
        except Closed:  # only when this thread was given up as hung and comes back after all
            victim, reason = (lane, result), "stopped"
        if victim is not None:
            count_failed(victim, reason)

    def _give_crops(self, lane: Lane, target: Lane, frame: Frame, answer: Answer) -> None:
        """Each crop is a frame of its own to the next model, with an account of its own."""
        chooser = lane.chooser
        assert chooser is not None, "a lane with a cascade has what chooses its crops"
        chosen, left_out = chooser.choose(answer, frame.stamp.moment_ns)
        for _ in range(left_out):
            target.meter.account.grab()
            target.meter.account.end("limited", None, frame.stamp)
        ready_ns = self._clock.mono_ns()
        for one in chosen:
            target.meter.account.grab()
            crop = Frame(
                frame.stamp,
                frame.lease.share(),
                ready_ns,
                frame.size,
                frame.lossy,
                region=chooser.region(one, frame.region),
                crop=one,
            )
            put(target, crop)
