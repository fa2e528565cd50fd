"""Handing a frame to a lane's worker."""

from __future__ import annotations

from edgerun.errors import Closed
from edgerun.pipeline.lane import Lane
from edgerun.progress import waiting
from edgerun.types import Frame


def put(lane: Lane, frame: Frame) -> None:
    """Hand a frame to a lane's worker and count what has to give way. The frame's lease is the worker's then."""
    try:
        if not frame.lossy:
            with waiting():
                lane.slot.put_wait(frame)
            return
        victim = lane.slot.put(frame)
    except Closed:  # only when this thread was given up as stuck and its slots were closed over its head
        lane.meter.account.end("failed", "stopped", frame.stamp)
        frame.lease.release()
        return
    if victim is not None:
        lane.meter.account.end("superseded", None, victim.stamp)
        victim.lease.release()
