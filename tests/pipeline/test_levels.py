"""What the governor turns while a stream runs: rates, stand-ins for its model, a sharper gate, pauses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from edgerun.clock import SystemClock
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.ending import Delivery, Ending
from edgerun.pipeline.gating import GatePlan, Watch
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.pipeline.notice import NoticeBoard, StreamNotice, ThreadEnded
from edgerun.pipeline.pipeline import Pipeline
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.turns import Batching, Turns
from edgerun.pipeline.worker import Worker
from edgerun.slot import Outbox
from edgerun.types import Grab, Image, ModelInfo, Motion, Publication
from tests.pipeline.parts import CountingSource, EchoEngine, ListSink, NumberDecoder, NumberPreprocess, build
from tests.pipeline.test_worker import until


def two_models(sink: ListSink, pace: Callable[[int], None] = lambda number: None, **source: Any) -> Pipeline:
    """A stream whose model "large" has the stand-in "small", each with a worker of its own."""
    clock, notices, outbox = SystemClock(), NoticeBoard(), Outbox[Delivery](64)
    lanes = {}
    for name in ("large", "small"):
        plan = LanePlan(stream="a", decoder=NumberDecoder(), model=name, max_age_ms=60_000)
        lanes[name] = Lane(plan, threading.Condition())
    lanes["large"].add_stand_in(lanes["small"])
    workers = []
    for name, lane in lanes.items():
        turns = Turns([lane], lane.slot._ready, clock, Batching())
        ending = Ending(ModelInfo(name, "1", "cpu"), outbox, clock, keep_pictures=False)
        workers.append(Worker(name, EchoEngine(pace), NumberPreprocess(1), turns, ending, clock))
    capture = Capture(
        "a",
        lambda stop, wake: CountingSource(clock, stop, **source),
        Intake([lanes["large"]], clock),
        clock,
        notices,
    )
    pipeline = Pipeline([capture], workers, Publisher(outbox, [sink], clock, "0123abcd"), outbox, clock, notices)
    pipeline.notices = notices  # type: ignore[attr-defined]
    return pipeline


def wait_for_the_end(pipeline: Pipeline) -> None:
    while pipeline.notices.get(timeout=30) != ThreadEnded("publish"):  # type: ignore[attr-defined]
        pass


def assert_conserved(pipeline: Pipeline) -> None:
    for lane in pipeline.lanes:
        view = lane.meter.account.view()
        assert view.in_flight == 0, view
        assert view.grabbed == sum(view.fates.values()), view


@pytest.mark.parametrize("lossless", [True, False])
def test_models_take_turns_and_nothing_is_lost_nor_out_of_order(lossless: bool) -> None:
    holder: list[Pipeline] = []

    def change(publication: Publication) -> None:
        place = len(sink.got) // 10 % 3  # 2: a place that it does not have, so the last it has
        holder[0].captures[0].stand_in(place)

    sink = ListSink(change)
    holder.append(two_models(sink, frames=600, lossless=lossless, interval_s=0.0 if lossless else 0.001))
    pipeline = holder[0]
    pipeline.start()
    wait_for_the_end(pipeline)
    assert pipeline.stop(10) == []
    assert_conserved(pipeline)
    seqs = [publication.result.stamp.seq for publication in sink.got]
    assert all(earlier < later for earlier, later in pairwise(seqs))
    models = [publication.result.model.name for publication in sink.got]
    assert {"large", "small"} == set(models)
    (view,) = {lane.meter.account.view().grabbed for lane in pipeline.lanes}
    assert view == 600
    if lossless:
        assert seqs == list(range(600))
    dropped = sum(sum(publication.result.dropped.values()) for publication in sink.got)
    fates = pipeline.lanes[0].meter.account.view().fates
    assert dropped <= fates["skipped"] + fates["superseded"]


def test_while_a_model_is_at_work_the_other_one_waits_for_it() -> None:
    """Frames that come meanwhile are skipped, not offered to both."""
    at_work, go_on = threading.Event(), threading.Event()

    def pace(number: int) -> None:
        if number == 0:
            at_work.set()
            assert go_on.wait(30)

    def stand_in_when_busy() -> None:
        assert at_work.wait(30)
        pipeline.captures[0].stand_in(1)

    def wait_for_its_result() -> None:
        go_on.set()
        until(lambda: not pipeline.lanes[0].meter.account.in_flight)

    sink = ListSink()
    script: dict[int, Any] = {1: stand_in_when_busy, 20: wait_for_its_result}
    pipeline = two_models(sink, pace, frames=200, interval_s=0.002, script=script)
    pipeline.start()
    wait_for_the_end(pipeline)
    assert pipeline.stop(10) == []
    assert_conserved(pipeline)
    models = [(publication.result.stamp.seq, publication.result.model.name) for publication in sink.got]
    assert models[0] == (0, "large")
    assert all(model == "small" and seq >= 20 for seq, model in models[1:])
    assert len(models) > 1


def test_a_cap_can_be_set_and_taken_away_while_it_runs() -> None:
    sink = ListSink()
    pipeline = build({"a": lambda stop: CountingSource(SystemClock(), stop, interval_s=0.002)}, sinks=[sink], model="m")
    (lane,) = pipeline.lanes
    capture = pipeline.captures[0]
    pipeline.start()

    def until(count: int, of: str) -> None:
        while lane.meter.account.view().fates[of] < count:
            assert not threading.Event().wait(0.002)

    until(20, "published")
    assert lane.meter.account.view().fates["limited"] == 0
    capture.limit({"m": 20.0})
    until(40, "limited")
    capture.limit({"other": 1.0})
    before = lane.meter.account.view().fates["limited"]
    until(lane.meter.account.view().fates["published"] + 20, "published")
    assert lane.meter.account.view().fates["limited"] <= before + 1
    assert pipeline.stop(10) == []
    assert_conserved(pipeline)


def test_the_lower_of_two_caps_counts_and_a_model_that_wants_all_has_none() -> None:
    def cap(**plan: Any) -> float | None:
        lane = Lane(LanePlan(stream="a", decoder=NumberDecoder(), **plan), threading.Condition())
        lane.limit(5.0)
        assert lane.slowed_to_fps == 5.0
        return 1e9 / lane.rate_cap._period_ns if lane.rate_cap is not None else None

    assert cap() == pytest.approx(5.0)
    assert cap(max_fps=3.0) == pytest.approx(3.0)
    assert cap(max_fps=30.0) == pytest.approx(5.0)
    assert cap(ordered=True) is None
    lane = Lane(LanePlan(stream="a", decoder=NumberDecoder(), max_fps=3.0), threading.Condition())
    lane.limit(1.0)
    lane.limit(None)
    assert lane.rate_cap is not None
    assert lane.rate_cap._period_ns == round(1e9 / 3.0)


def test_a_source_that_waits_is_slowed_down_and_loses_nothing() -> None:
    sink = ListSink()
    pipeline = build(
        {"a": lambda stop: CountingSource(SystemClock(), stop, frames=30, lossless=True)}, sinks=[sink], model="m"
    )
    pipeline.captures[0].limit({"m": 50.0})
    pipeline.start()
    wait_for_the_end(pipeline)
    assert pipeline.stop(10) == []
    assert_conserved(pipeline)
    assert len(sink.got) == 30
    taken = [publication.result.stamp.captured_ns for publication in sink.got]
    assert min(later - earlier for earlier, later in pairwise(taken)) >= 0.9 * 1e9 / 50  # the waits cannot be shorter


def test_a_stream_goes_on_when_nobody_wants_it_paused_any_more() -> None:
    pipeline = build({"a": lambda stop: CountingSource(SystemClock(), stop, interval_s=0.002)})
    notices, capture = pipeline.notices, pipeline.captures[0]  # type: ignore[attr-defined]
    pipeline.start()
    assert notices.get(timeout=30) == StreamNotice("a", "running", "")
    capture.pause("paused by a command")
    assert notices.get(timeout=30) == StreamNotice("a", "paused", "paused by a command")
    capture.pause("too hot", by="governor")
    capture.resume()
    capture.resume("quiet hours")  # who never asked
    assert not capture._going.is_set()
    capture.resume("governor")
    assert notices.get(timeout=30) == StreamNotice("a", "running", "frames come again")
    assert pipeline.stop(10) == []


class Shares:
    """A gate that sees the share of the frame's number in hundredths."""

    def look(self, grey: Image, captured_ns: int) -> Motion:
        return Motion(captured_ns / 100, True, (0.0, 0.0, 1.0, 1.0))


def test_a_sharper_gate_asks_for_more() -> None:
    watch = Watch(GatePlan(gate=Shares(), share=0.125))
    picture = np.zeros((4, 4), np.uint8)
    seen = [watch.judge(picture, Grab(share)) for share in range(0, 50)]
    assert all(motion is not None and motion.moving for motion in seen)
    watch.factor = 2.0
    moving = [motion.moving for share in range(0, 50) if (motion := watch.judge(picture, Grab(share)))]
    assert moving == [share >= 25 for share in range(0, 50)]


def test_crops_end_behind_the_last_that_gives_them() -> None:
    large, small, crops = (
        Lane(LanePlan(stream="a", decoder=NumberDecoder(), model=name), threading.Condition())
        for name in ("large", "small", "crops")
    )
    large.cascade = crops
    large.add_stand_in(small)
    assert small.cascade is crops
    crops.feeder_ended()
    assert not crops.slot.stats().closed
    crops.feeder_ended()
    assert crops.slot.stats().closed
