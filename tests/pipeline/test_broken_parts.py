"""Sources, engines and sinks that fail or hang: told by name, and every frame accounted for."""

from __future__ import annotations

import threading

import pytest

from edgerun.clock import FakeClock
from edgerun.errors import EngineError, StageError
from edgerun.pipeline.notice import StreamNotice, ThreadDied
from tests.pipeline.parts import CountingSource, EchoEngine, ListSink, build
from tests.pipeline.test_pipeline import (
    Always,
    assert_conserved,
    ended,
    labels,
    notices_until,
    source,
)


def test_a_corrupt_an_empty_and_a_resized_frame_are_told_apart_and_the_stream_goes_on() -> None:
    sink = ListSink()
    script = {2: "corrupt", 4: "empty", 6: "big"}
    pipeline = build({"a": source(frames=10, lossless=True, script=script)}, sinks=[sink])
    pipeline.start()
    notices_until(pipeline, ended("worker:echo"))
    pipeline.stop(10)
    assert labels(sink) == [0, 1, 3, 5, 6, 7, 8, 9]
    assert [p.result.frame_size for p in sink.got][3:6] == [(8, 8), (16, 16), (8, 8)]
    assert pipeline.lanes[0].meter.account.view().failed_reasons == {"decode": 1, "empty": 1}
    assert_conserved(pipeline)


def test_a_lost_source_is_reopened_and_the_numbers_go_on() -> None:
    clock = FakeClock()
    sink = ListSink()
    start = [0]
    script = {3: "lost"}
    pipeline = build(
        {"a": lambda stop: CountingSource(clock, stop, frames=6, lossless=True, script=script, start=start)},
        sinks=[sink],
        clock=clock,
    )
    pipeline.start()
    seen = notices_until(pipeline, ended("worker:echo"))
    pipeline.stop(10)
    states = [(n.state, n.reason) for n in seen if isinstance(n, StreamNotice)]
    assert states == [
        ("running", ""),
        ("stalled", "the camera is gone"),
        ("running", "frames come again"),
        ("ended", "the source has no more frames"),
    ]
    assert [p.result.stamp.seq for p in sink.got] == list(range(6))
    assert_conserved(pipeline)


@pytest.mark.parametrize("where", ["source", "picture", "engine", "sink"])
def test_a_stage_that_raises_is_named_and_what_it_owed_is_counted(where: str) -> None:
    def boom(_: object) -> None:
        raise ZeroDivisionError("boom")

    pipeline = build(
        {"a": source(script={"source": {5: lambda: boom(None)}, "picture": {0: "bug"}}.get(where)), "b": source()},
        engine=EchoEngine(boom if where == "engine" else lambda number: None),
        sinks=[ListSink(boom if where == "sink" else lambda publication: None)],
    )
    pipeline.start()
    died = notices_until(pipeline, lambda notice: isinstance(notice, ThreadDied))[-1]
    assert died.thread == {"engine": "worker:echo", "sink": "publish"}.get(where, "capture:a")
    assert isinstance(died.error, ZeroDivisionError)
    pipeline.stop(10)
    assert_conserved(pipeline)


def test_an_engine_error_is_told_as_it_is() -> None:
    def fail(number: int) -> None:
        raise EngineError("the model failed to run", where="echo")

    pipeline = build({"a": source()}, engine=EchoEngine(fail))
    pipeline.start()
    died = notices_until(pipeline, lambda notice: isinstance(notice, ThreadDied))[-1]
    assert isinstance(died.error, EngineError)
    pipeline.stop(10)
    assert pipeline.lanes[0].meter.account.view().failed_reasons["engine"] == 1
    assert_conserved(pipeline)


def test_a_camera_whose_every_frame_is_broken_is_not_a_flood_of_warnings(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    script = Always("corrupt")
    pipeline = build(
        {"a": lambda stop: CountingSource(clock, stop, frames=310, lossless=True, script=script, interval_s=1 / 30)},
        clock=clock,
    )
    pipeline.start()
    notices_until(pipeline, ended("publish"))
    assert pipeline.lanes[0].meter.account.view().failed_reasons == {"decode": 310}
    assert [record.levelname for record in caplog.records if "failed" in record.message] == ["WARNING"] * 2


def test_a_source_lost_for_good_ends_the_run() -> None:
    pipeline = build({"a": source(script={3: "dead"})})
    pipeline.start()
    died = notices_until(pipeline, lambda notice: isinstance(notice, ThreadDied))[-1]
    assert died.thread == "capture:a"
    assert "the file is gone" in str(died.error)
    pipeline.stop(10)
    assert_conserved(pipeline)


def test_a_hung_engine_is_an_error_that_names_its_thread() -> None:
    release = threading.Event()
    entered = threading.Event()

    def hang(number: int) -> None:
        entered.set()
        release.wait(60)

    pipeline = build({"a": source()}, engine=EchoEngine(hang))
    pipeline.start()
    assert entered.wait(30)
    with pytest.raises(StageError, match="worker:echo did not end within"):
        pipeline.stop(10)  # of which the others, who do not hang, have the larger part
    release.set()
    notices_until(pipeline, ended("worker:echo"))
    assert_conserved(pipeline)


def test_a_source_stuck_in_its_driver_is_given_up_and_costs_no_frame() -> None:
    release, entered = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        release.wait(60)

    pipeline = build({"a": source(script={5: hang}), "b": source(interval_s=0.001)})
    pipeline.start()
    assert entered.wait(30)
    assert pipeline.stop(10) == ["capture:a"]
    assert_conserved(pipeline)
    release.set()
    notices_until(pipeline, ended("capture:a"))
    assert_conserved(pipeline)
