"""Workers that follow each other, streams that come and go: no frame is lost to it, none ends twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import SystemClock
from edgerun.errors import Closed, EngineError
from edgerun.meter import StreamMeter
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.ending import Delivery, Ending
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.pipeline.notice import NoticeBoard, ThreadDied
from edgerun.pipeline.overlap import OverlappedWorker
from edgerun.pipeline.pipeline import Pipeline, lanes_of
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.turns import Batching, Turns
from edgerun.pipeline.worker import Worker
from edgerun.slot import Outbox
from edgerun.types import ModelInfo, Tensor
from tests.pipeline.parts import CountingSource, EchoEngine, ListSink, NumberDecoder, NumberPreprocess
from tests.pipeline.test_pipeline import WORKERS, assert_conserved, ended, labels, notices_until
from tests.pipeline.test_worker import SteppedEngine, until

CLOCK = SystemClock()


class ClosableEngine(EchoEngine):
    """Fails when it is used after it was closed, or by two at once."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version
        self.closed = False
        self._using = threading.Lock()

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.closed or not self._using.acquire(blocking=False):
            raise EngineError("a closed engine, or two at once", where=f"version {self.version}")
        try:
            return [inputs[0].copy()]
        finally:
            self._using.release()

    def close(self) -> None:
        self.closed = True


class Rig:
    """A pipeline of one engine whose model and streams change."""

    def __init__(self, *, overlapped: bool = False, batching: Batching | None = None, engine: Any = None) -> None:
        self.kind = OverlappedWorker if overlapped else Worker
        self.batching = batching or Batching()
        self.ready = threading.Condition()
        self.notices: NoticeBoard = NoticeBoard()
        self.outbox: Outbox[Delivery] = Outbox(64)
        self.sink = ListSink()
        self.engine: Any = engine or ClosableEngine(0)
        self.swaps = 0
        self.meters: dict[str, StreamMeter] = {}
        self.last: dict[str, Capture] = {}
        first = self.capture("a", True, None)
        publisher = Publisher(self.outbox, [self.sink], CLOCK, "0123abcd")
        worker = self.worker(self.engine, first.lanes)
        self.pipeline = Pipeline([first], [worker], publisher, self.outbox, CLOCK, self.notices)
        self.pipeline.notices = self.notices  # type: ignore[attr-defined]

    def worker(self, engine: Any, lanes: Sequence[Lane]) -> Worker:
        info = ModelInfo("echo", str(getattr(engine, "version", 0)), "cpu")
        ending = Ending(info, self.outbox, CLOCK, keep_pictures=False)
        turns = Turns(lanes, self.ready, CLOCK, self.batching)
        return self.kind("echo", engine, NumberPreprocess(2 * self.batching.most), turns, ending, CLOCK)

    def capture(self, name: str, lossless: bool, frames: int | None) -> Capture:
        lane = Lane(LanePlan(stream=name, decoder=NumberDecoder(), model="echo"), self.ready)
        lane.meter = self.meters.setdefault(name, lane.meter)
        first = lane.meter.account.view().grabbed
        start = [first]
        interval_s = 0.0 if lossless else 0.0005
        capture = Capture(
            name,
            lambda stop, wake: CountingSource(
                CLOCK, stop, lossless=lossless, frames=frames, start=start, interval_s=interval_s
            ),
            Intake([lane], CLOCK),
            CLOCK,
            self.notices,
        )
        if name in self.last:
            capture.follow(self.last[name])
        self.last[name] = capture
        return capture

    def change(
        self, *, engine: Any = None, without: str | None = None, new: Sequence[tuple[str, bool, int | None]] = ()
    ) -> None:
        """One reload: another engine, a stream less, streams more."""
        pipeline = self.pipeline
        pipeline.hold()
        try:
            gone = [one for one in pipeline.captures if one.stream == without]
            assert pipeline.remove(gone, 20) == []
            before, after = self.engine, engine or self.engine
            come = [self.capture(*how) for how in new]
            kept = [lane for one in (*pipeline.captures, *come) for lane in one.lanes]

            def follow(worker: Worker) -> Worker:
                if engine is not None:
                    for lane in kept:
                        lane.replan(lane.plan)
                return self.worker(after, kept)

            pipeline.staff("echo", follow)
            self.engine = after
            if engine is not None:
                before.close()
                self.swaps += 1
            pipeline.add(come)
            pipeline.begin()
            pipeline.settle()
        finally:
            pipeline.release()


@pytest.mark.parametrize("how", WORKERS, ids=str)
def test_a_swap_under_load_loses_no_frame(how: dict[str, Any]) -> None:
    rig = Rig(**how)
    rig.pipeline.start()
    for version in range(1, 30):
        until(lambda made_by=str(version - 1): _results_of(rig, made_by) > 5)
        rig.change(engine=ClosableEngine(version))
    rig.pipeline.stop(20)
    assert labels(rig.sink) == list(range(len(rig.sink.got))), "one is missing, double or out of order"
    assert {result.result.model.version for result in rig.sink.got} >= {str(n) for n in range(29)}
    assert_conserved(rig.pipeline)
    assert set(rig.pipeline.lanes[0].meter.account.view().failed_reasons) <= {"stopped"}
    assert not rig.pipeline.held


@settings(max_examples=40, deadline=None)
@given(
    how=st.sampled_from(WORKERS),
    steps=st.lists(
        st.tuples(
            st.sampled_from(("swap", "add", "remove", "renew", "swap and renew", "again")),
            st.integers(0, 3),
            st.booleans(),
            st.integers(0, 8),
        ),
        max_size=12,
    ),
)
def test_whatever_changes_every_frame_ends_once(how: dict[str, Any], steps: list[tuple[str, int, bool, int]]) -> None:
    rig = Rig(**how)
    names = ("a", "b", "c", "d")
    gone: list[Capture] = []
    rig.pipeline.start()
    for number, (what, which, lossless, results) in enumerate(steps, start=1):
        name = names[which]
        before = {one.stream: one for one in rig.pipeline.captures}
        seen = len(rig.sink.got)
        if before:
            until(lambda seen=seen, results=results: len(rig.sink.got) >= seen + results)
        engine = ClosableEngine(number) if "swap" in what else None
        if what in ("swap", "again"):
            rig.change(engine=engine)
        elif what == "remove":
            if len(before) > 1 and name in before:
                gone.append(before[name])
                rig.change(without=name)
        else:
            gone += [before[name]] if name in before else []
            rig.change(engine=engine, without=name, new=[(name, lossless, None)])
    rig.pipeline.stop(20)
    assert_conserved(rig.pipeline)
    for lane in lanes_of(gone):
        assert not len(lane.slot)
    for name, meter in rig.meters.items():
        view = meter.account.view()
        assert view.grabbed == sum(view.fates.values())
        assert set(view.failed_reasons) <= {"stopped", "outbox"}
        got = [one.result.stamp.seq for one in rig.sink.got if one.result.stamp.stream == name]
        assert got == sorted(set(got)), "a frame was published twice, or out of order"
        assert len(got) == view.fates["published"]
    assert not rig.pipeline.held
    assert not any(isinstance(notice, ThreadDied) for notice in _all(rig.notices))


@settings(max_examples=25, deadline=None)
@given(how=st.sampled_from(WORKERS), frames=st.integers(1, 60), swaps=st.integers(1, 10))
def test_data_that_ends_amid_the_swaps_ends_the_run_whole(how: dict[str, Any], frames: int, swaps: int) -> None:
    rig = Rig(**how)
    rig.pipeline.start()
    rig.change(without="a", new=[("b", True, frames)])
    with suppress(Closed):  # the data has ended, and with it the run; the last results may still be on their way
        for version in range(swaps):
            rig.change(engine=ClosableEngine(version))
    notices_until(rig.pipeline, ended("publish"))
    assert labels(rig.sink, "b") == list(range(frames))
    rig.pipeline.stop(20)
    assert_conserved(rig.pipeline)


def test_a_flight_lands_before_the_next_worker_takes_over() -> None:
    first, second = SteppedEngine(), ClosableEngine(1)
    rig = Rig(overlapped=True, engine=first)
    rig.pipeline.start()
    assert first.begun.acquire(timeout=30)
    until(lambda: rig.pipeline.lanes[0].slot.stats().taken == 2)
    swap = threading.Thread(target=lambda: _staff(rig, second))
    swap.start()
    until(lambda: rig.pipeline.workers[0]._turns.retired or not swap.is_alive())  # else it would begin with a third one
    assert not rig.sink.got
    assert rig.pipeline.workers[0].engine is first
    for _ in range(2):
        first.let.release()
    swap.join(30)
    assert rig.pipeline.workers[0].engine is second
    rig.pipeline.stop(20)
    assert labels(rig.sink) == list(range(len(rig.sink.got)))
    assert_conserved(rig.pipeline)


def test_a_worker_that_cannot_be_made_leaves_the_present_one_at_work() -> None:
    rig = Rig()
    rig.pipeline.start()
    until(lambda: len(rig.sink.got) > 3)
    before = rig.pipeline.workers[0]

    def fails(worker: Worker) -> Worker:
        raise EngineError("not on this device")

    rig.pipeline.hold()
    with pytest.raises(EngineError, match="not on this device"):
        rig.pipeline.staff("echo", fails)
    rig.pipeline.release()
    assert rig.pipeline.workers[0] is before
    count = len(rig.sink.got)
    until(lambda: len(rig.sink.got) > count + 3)
    rig.pipeline.stop(20)
    assert labels(rig.sink) == list(range(len(rig.sink.got)))
    assert_conserved(rig.pipeline)


def test_a_stop_does_not_wait_for_an_exchange_that_an_engine_holds_up() -> None:
    engine = SteppedEngine()
    rig = Rig(engine=engine)
    rig.pipeline.start()
    assert engine.begun.acquire(timeout=30)
    outcome: list[BaseException] = []

    def swap() -> None:
        try:
            _staff(rig, ClosableEngine(1))
        except Closed as error:
            outcome.append(error)

    thread = threading.Thread(target=swap)
    thread.start()
    stop = threading.Thread(target=rig.pipeline.stop, args=(30,))
    stop.start()
    thread.join(30)
    assert len(outcome) == 1
    for _ in range(3):
        engine.let.release()
    stop.join(30)
    assert not rig.pipeline.held
    assert_conserved(rig.pipeline)
    with pytest.raises(Closed):
        rig.pipeline.hold()


def test_estimates_go_on_with_the_same_engine_and_begin_anew_with_another() -> None:
    rig = Rig()
    rig.pipeline.start()
    until(lambda: len(rig.sink.got) > 20)
    rig.change()
    worker = rig.pipeline.workers[0]
    assert worker._turns._service[0].value_ns > 0
    busy_ns = worker.read_busy_ns()
    assert busy_ns > 0
    rig.pipeline.stop(20)
    after = rig.worker(ClosableEngine(1), worker._lanes)
    after.inherit(worker)
    assert after._turns._service[0].value_ns == 0
    assert after.read_busy_ns() >= busy_ns


def test_an_engine_more_serves_and_one_without_lanes_can_be_dismissed() -> None:
    rig = Rig()
    rig.pipeline.start()
    ready = threading.Condition()
    lane = Lane(LanePlan(stream="z", decoder=NumberDecoder(), model="other"), ready)
    capture = Capture("z", lambda stop, wake: CountingSource(CLOCK, stop, lossless=True), Intake([lane], CLOCK), CLOCK,
                      rig.notices)  # fmt: skip
    info = ModelInfo("other", "1", "cpu")
    turns = Turns([lane], ready, CLOCK, Batching())
    ending = Ending(info, rig.outbox, CLOCK, keep_pictures=False)
    rig.pipeline.hold()
    rig.pipeline.employ(Worker("other", EchoEngine(), NumberPreprocess(), turns, ending, CLOCK))
    rig.pipeline.add([capture], order=("z", "a"))
    rig.pipeline.begin()
    rig.pipeline.release()
    assert [one.stream for one in rig.pipeline.captures] == ["z", "a"]
    until(lambda: len(labels(rig.sink, "z")) > 5)
    rig.pipeline.hold()
    assert rig.pipeline.remove([capture], 20) == []
    rig.pipeline.settle()
    rig.pipeline.release()
    assert rig.pipeline.dismiss("other", 20)
    assert [one.name for one in rig.pipeline.workers] == ["echo"]
    count = len(labels(rig.sink))
    until(lambda: len(labels(rig.sink)) > count)
    rig.pipeline.stop(20)
    assert_conserved(rig.pipeline)


def _staff(rig: Rig, engine: Any) -> None:
    lanes = rig.pipeline.lanes
    rig.pipeline.staff("echo", lambda worker: rig.worker(engine, lanes))


def _results_of(rig: Rig, version: str) -> int:
    return sum(one.result.model.version == version for one in rig.sink.got)


def _all(notices: NoticeBoard) -> list[Any]:
    found = []
    while not notices.empty():
        found.append(notices.get())
    return found
