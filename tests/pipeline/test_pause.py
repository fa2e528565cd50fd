"""A stream that is paused and goes on, whatever its thread is just doing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from edgerun.clock import SystemClock
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.pipeline.notice import NoticeBoard, StreamNotice
from edgerun.wake import Wake
from tests.pipeline.parts import CountingSource, NumberDecoder


class Opened:
    """A capture thread whose `n`-th source runs `acts[n]` at its third frame, and then goes on by itself."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        self._acts = acts
        self.times = 0
        self.notices: NoticeBoard = NoticeBoard()
        self.wakes: list[Wake] = []
        lane = Lane(LanePlan(stream="a", decoder=NumberDecoder()), threading.Condition())
        clock = SystemClock()
        self.capture = Capture("a", self._open, Intake([lane], clock), clock, self.notices)
        self.thread = threading.Thread(target=self.capture.run)
        self._clock = clock

    def _open(self, stop: threading.Event, wake: Wake) -> CountingSource:
        self.wakes.append(wake)
        act = self._acts[self.times] if self.times < len(self._acts) else None
        self.times += 1
        return CountingSource(self._clock, stop, script={} if act is None else {2: act})

    def end(self) -> list[str]:
        """Start, wait for the end; the states that were told."""
        self.thread.start()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.capture.close()
        states = []
        while not self.notices.empty():
            notice = self.notices.get()
            assert isinstance(notice, StreamNotice)
            states.append(notice.state)
        return states


def test_a_pause_taken_back_before_it_was_noticed() -> None:
    def pause_and_resume() -> None:
        opened.capture.pause("a moment")
        opened.capture.resume()

    opened = Opened(pause_and_resume, lambda: opened.capture.stop())
    assert opened.end() == ["running"]
    assert opened.times == 2


def test_the_pause_of_each_who_asked_for_it_counts() -> None:
    def pause_twice() -> None:
        opened.capture.pause("hot", by="governor")
        opened.capture.pause("asked for")
        opened.capture.resume(by="governor")
        threading.Timer(0.0, opened.capture.resume).start()

    opened = Opened(pause_twice, lambda: opened.capture.stop())
    assert opened.end()[0] == "running"
    assert opened.times == 2


def test_no_wake_is_left_over_from_a_pause() -> None:
    seen: list[bool] = []

    def pause_and_resume() -> None:
        opened.capture.pause("a moment")
        opened.capture.resume()

    def look() -> None:
        seen.append(opened.wakes[-1].wait(0))
        opened.capture.stop()

    opened = Opened(pause_and_resume, look)
    opened.end()
    assert seen == [False]


def test_a_pause_behind_a_stop_is_none() -> None:
    """The stop comes while the thread is about to wait for the end of a pause, and a pause behind it."""

    class Board(NoticeBoard):  # type: ignore[misc]
        def put(self, notice: StreamNotice, *how: Any) -> None:
            super().put(notice)
            if notice.state == "paused":
                opened.capture.stop()
                opened.capture.pause("too late")

    opened = Opened(lambda: opened.capture.pause("a moment"))
    opened.capture._notices = opened.notices = Board()
    assert opened.end() == ["running", "paused"]
