"""What ends: crops at the end of the data, a source that is lost while its frame is held, a neighbour that passes."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from edgerun.clock import FakeClock, SystemClock
from edgerun.errors import Closed, SourceError
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.cascade import CascadePlan, CropChooser
from edgerun.pipeline.ending import Delivery, Ending
from edgerun.pipeline.gating import GatePlan
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.pipeline.notice import NoticeBoard
from edgerun.pipeline.overlap import OverlappedWorker
from edgerun.pipeline.pipeline import Pipeline
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.turns import Batching, Turns
from edgerun.pipeline.worker import Worker
from edgerun.slot import Outbox
from edgerun.types import Answer, Classification, Detection, Grab, ModelInfo, Motion
from tests.pipeline.parts import CountingSource, EchoEngine, ListSink, NoOptions, NumberDecoder, NumberPreprocess
from tests.pipeline.test_intake import PictureSource, Scene, Verdicts
from tests.pipeline.test_pipeline import assert_conserved, ended, notices_until

CAR = Detection("car", 0, 0.9, (0.1, 0.1, 0.9, 0.9), track=1)


class CarDecoder:
    """Always the same car."""

    options = NoOptions
    labels = ()
    wants_inputs = False

    def decode(self, outputs: Any, placement: Any) -> Answer:
        return Answer(detections=(CAR,))


def cascade(kind: Any, batching: Batching, before: Any) -> tuple[Pipeline, Lane, ListSink]:
    clock, sink = SystemClock(), ListSink()
    outbox: Outbox[Delivery] = Outbox(64)
    notices: NoticeBoard = NoticeBoard()
    first, second = threading.Condition(), threading.Condition()
    lane = Lane(LanePlan(stream="a", decoder=CarDecoder()), first)
    lane.cascade = Lane(LanePlan(stream="a", decoder=NumberDecoder(), depth=16), second)
    lane.chooser = lane.cascade.chooser = CropChooser(CascadePlan())
    capture = Capture(
        "a",
        lambda stop, wake: CountingSource(clock, stop, frames=3, lossless=True),
        Intake([lane], clock),
        clock,
        notices,
    )
    workers = []
    for made, own, ready, name, how in (
        (kind, lane, first, "first", batching),
        (Worker, lane.cascade, second, "second", Batching()),
    ):
        ending = Ending(ModelInfo(name, "1", "cpu"), outbox, clock, keep_pictures=False)
        turns = Turns([own], ready, clock, how)
        workers.append(made(name, EchoEngine(before), NumberPreprocess(2 * how.most), turns, ending, clock))
    pipeline = Pipeline([capture], workers, Publisher(outbox, [sink], clock, "0123abcd"), outbox, clock, notices)
    pipeline.notices = notices  # type: ignore[attr-defined]
    return pipeline, lane, sink


@pytest.mark.parametrize(
    ("kind", "batching"),
    [(Worker, Batching()), (Worker, Batching(4, 20_000_000)), (OverlappedWorker, Batching())],
    ids=["plain", "batched", "overlapped"],
)
def test_the_last_crops_are_looked_at_too(kind: Any, batching: Batching) -> None:
    for _ in range(5):
        tick = threading.Event()
        pipeline, lane, sink = cascade(kind, batching, lambda number, tick=tick: tick.wait(0.002))
        pipeline.start()
        notices_until(pipeline, ended("publish"))
        pipeline.stop(10)
        assert_conserved(pipeline)
        assert lane.cascade.meter.account.view().fates["published"] == 3
        assert sum(one.result.crop is not None for one in sink.got) == 3


def test_a_lost_source_holds_no_frame() -> None:
    """Else the worker would plan its turns around a frame that never comes."""
    clock = FakeClock()
    lane = Lane(LanePlan(stream="a", decoder=NumberDecoder()), threading.Condition())
    lane.demand.tell(clock.mono_ns() + 10**9, 0)

    class Camera(PictureSource):
        grabs = 0

        def grab(self, until_ns: int | None = None) -> Grab | None:
            self.grabs += 1
            if self.grabs == 2:
                raise SourceError("gone", final=True)
            return Grab(clock.mono_ns())

    capture = Capture("a", lambda stop, wake: Camera(clock), Intake([lane], clock), clock, NoticeBoard())
    with pytest.raises(SourceError):
        capture.run()
    assert not lane.has_frame(clock.mono_ns())


class Still:
    """Nothing ever moves but in the first frame."""

    def look(self, grey: Any, captured_ns: int) -> Motion:
        return Motion(0.0, False)


@pytest.mark.parametrize("how", [{"gate": GatePlan(Still())}, {"plan": {"max_fps": 1e-6}}], ids=["gated", "limited"])
def test_a_lane_whose_frame_comes_to_nothing_gives_its_turn_away(how: dict[str, Any]) -> None:
    scene = Scene(**how)
    if "plan" in how:
        scene.frame()
        scene.taken()
    lane = scene.lanes[0]
    lane.demand.tell(0, 0)
    scene.frame()
    assert scene.taken() is None
    assert lane.passed
    assert lane.gated_ns


def test_a_turn_given_away_is_planned_anew() -> None:
    clock, ready = SystemClock(), threading.Condition()
    idle, busy = (Lane(LanePlan(stream=name, decoder=NumberDecoder()), ready) for name in "ab")
    turns = Turns([idle, busy], ready, clock, Batching())
    for index in (0, 1):
        turns.served(index, 50_000_000)
    idle.demand.holding = busy.demand.holding = True
    turns.announce(clock.mono_ns(), 1)
    turns.announce(clock.mono_ns(), None)
    told = [lane.demand.wanted_at_ns for lane in (idle, busy)]
    assert told[0] == 0
    assert told[1] > 0
    idle.demand.holding = False
    idle.pass_on(clock.mono_ns())
    busy.slot.close()
    idle.slot.close()
    with pytest.raises(Closed):
        turns.gather()
    assert busy.demand.wanted_at_ns == 0, "the other one is called"


def test_a_crop_without_an_answer_is_tried_again() -> None:
    chooser = CropChooser(CascadePlan(every_ns=3_600_000_000_000))
    second = 1_000_000_000
    assert chooser.choose(Answer((CAR,)), 0) == ([CAR], 0)
    assert chooser.choose(Answer((CAR,)), second // 2) == ([], 1), "it is on its way"
    assert chooser.choose(Answer((CAR,)), 2 * second) == ([CAR], 0), "it got lost"
    chooser.answered(CAR, 2 * second)
    assert chooser.choose(Answer((CAR,)), 100 * second) == ([], 1)
    assert chooser.choose(Answer((CAR,)), 3700 * second) == ([CAR], 0)


def test_only_what_is_in_the_band_is_asked_about() -> None:
    found = Answer(tuple([msgspec.structs.replace(CAR, score=score) for score in (0.29, 0.3, 0.45, 0.6, 0.61)]))
    crops = CropChooser(CascadePlan(score=(0.3, 0.6), max_crops=2))
    assert [one.score for one in crops.choose(found, 0)[0]] == [0.6, 0.45]
    assert crops.choose(found, 0)[1] == 1
    whole = CropChooser(CascadePlan(score=(0.3, 0.6), whole=True))
    (one,), left_out = whole.choose(found, 0)
    assert (one.score, left_out) == (0.6, 0)
    assert whole.region(one, None) is None
    assert whole.choose(Answer((CAR,)), 0) == ([], 0), "sure enough"
    assert whole.choose(Answer(()), 0) == ([], 0)


def test_a_classifier_asks_about_its_surest_class() -> None:
    whole = CropChooser(CascadePlan(frozenset({"cat"}), score=(0.3, 0.6), whole=True))
    cat, dog = Classification("cat", 1, 0.5), Classification("dog", 2, 0.2)
    ((one,), _) = whole.choose(Answer(classes=(dog, cat)), 0)
    assert (one.label, one.class_id, one.score, one.box) == ("cat", 1, 0.5, (0.0, 0.0, 1.0, 1.0))
    assert whole.choose(Answer(classes=(msgspec.structs.replace(dog, score=0.55), cat)), 0) == ([], 0)
    assert CropChooser(CascadePlan()).choose(Answer(classes=(cat,)), 0) == ([], 0), "there is nothing to crop"


def test_an_answer_to_a_crop_is_not_the_answer_to_the_picture() -> None:
    gate = Verdicts(True, True, box=(0.0, 0.0, 0.25, 0.25))
    scene = Scene(gate=GatePlan(gate, crop=True), lossless=True)
    scene.frame(b"key")
    frame = scene.taken()
    assert frame.key == b"key"
    assert frame.region != scene.lanes[0].plan.region, "which is what keeps it out of the cache"


@pytest.mark.parametrize(("interval_ms", "called"), [(2, False), (0, True), (500, True)])
def test_a_light_lane_is_not_called_for_a_turn_that_the_heavy_one_will_be_ready_for(
    interval_ms: int, called: bool
) -> None:
    """The heavy lane's frame has just been taken; where its camera is fast, the next is there when this turn ends."""
    clock, ready = FakeClock(), threading.Condition()
    light, heavy = (
        Lane(LanePlan(stream=str(weight), decoder=NumberDecoder(), weight=weight), ready) for weight in (1.0, 3.0)
    )
    turns = Turns([light, heavy], ready, clock, Batching())
    service_ns = 50_000_000
    for index in (0, 1):
        turns.served(index, service_ns)
    light.demand.holding = True
    heavy.demand.interval_ns = interval_ms * 1_000_000
    turns.announce(clock.mono_ns(), 1)
    assert (light.demand.wanted_at_ns == clock.mono_ns() + service_ns) is called
