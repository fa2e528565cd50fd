"""What a capture thread decides about one frame."""

from __future__ import annotations

import threading

from edgerun.clock import FakeClock
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.pipeline.notice import NoticeBoard
from tests.pipeline.parts import CountingSource, NumberDecoder


def test_a_frame_skipped_for_a_busy_worker_takes_nothing_of_the_fps_cap() -> None:
    """The cap counts results, so what demand skips must leave its credit to the frame that will be inferred."""
    clock = FakeClock()
    lane = Lane(LanePlan(stream="a", decoder=NumberDecoder(), max_fps=1.0), threading.Condition())
    stop = threading.Event()

    def worker_is_idle() -> None:
        lane.demand.wanted_at_ns = 0

    # Ten frames a second; the worker is busy for the first eight of them, the source ends after ten.
    source = CountingSource(clock, stop, frames=10, interval_s=0.1, script={8: worker_is_idle})
    lane.demand.wanted_at_ns = clock.mono_ns() + 10_000_000_000
    intake = Intake([lane], clock)
    capture = Capture("a", lambda stop, wake: source, intake, clock, NoticeBoard())
    for _ in range(3):
        intake._gaps.add(clock.mono_ns())
        clock.advance(0.1)
    capture.run()
    view = lane.meter.account.view()
    assert view.fates["skipped"] == 8
    assert lane.slot.stats().put == 1, "the first frame that the worker can use goes through"
    assert view.fates["limited"] == 1
