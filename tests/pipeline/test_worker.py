"""How a worker gathers frames into one inference, and how it prepares the next one beside an accelerator."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from edgerun.errors import EngineError
from edgerun.pipeline.notice import ThreadDied
from edgerun.pipeline.turns import Batching
from edgerun.types import Tensor
from tests.pipeline.parts import EchoEngine, ListSink, build
from tests.pipeline.test_pipeline import assert_conserved, ended, labels, notices_until, source


class SteppedEngine(EchoEngine):
    """Infers only when it is let, and tells when it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.rows: list[int] = []
        self.error: Exception | None = None

    def infer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.rows.append(len(inputs[0]))
        self.begun.release()
        assert self.let.acquire(timeout=30)
        if self.error is not None:
            raise self.error
        return [inputs[0].copy()]


def until(condition: Any) -> None:
    """Wait until it holds; the test's own time-out ends a wait that has no end."""
    tick = threading.Event()
    while not condition():
        tick.wait(0.001)


def test_frames_of_several_streams_share_an_inference() -> None:
    engine, sink = SteppedEngine(), ListSink()
    names = ("a", "b", "c", "d")
    pipeline = build(
        {name: source(frames=3, lossless=True) for name in names},
        engine=engine,
        sinks=[sink],
        batching=Batching(4, 60_000_000_000),
    )
    pipeline.start()
    for _ in range(3):
        engine.let.release()
    notices_until(pipeline, ended("publish"))
    assert engine.rows == [4, 4, 4]
    for name in names:
        assert labels(sink, name) == [0, 1, 2], "each row went back to its own stream"
    pipeline.stop(10)
    assert_conserved(pipeline)


def test_a_batch_does_not_wait_longer_than_it_may() -> None:
    engine, sink = SteppedEngine(), ListSink()
    wait = threading.Event()
    pipeline = build(
        {"a": source(frames=2, lossless=True, script={1: lambda: wait.wait(600)})},
        engine=engine,
        sinks=[sink],
        batching=Batching(4, 1_000_000),
    )
    pipeline.start()
    engine.let.release()
    until(lambda: len(sink.got) == 1)
    assert engine.rows == [1]
    wait.set()
    engine.let.release()
    notices_until(pipeline, ended("publish"))
    pipeline.stop(10)


def test_the_next_frame_is_prepared_while_the_engine_works() -> None:
    engine, sink = SteppedEngine(), ListSink()
    pipeline = build({"a": source(frames=3, lossless=True)}, engine=engine, sinks=[sink], overlapped=True)
    pipeline.start()
    assert engine.begun.acquire(timeout=30)
    # The first inference goes on, yet the second frame is with the worker and the third in the Slot.
    until(lambda: pipeline.lanes[0].slot.stats().taken == 2)
    assert not sink.got
    for _ in range(3):
        engine.let.release()
    notices_until(pipeline, ended("publish"))
    assert labels(sink) == [0, 1, 2]
    pipeline.stop(10)
    assert_conserved(pipeline)


def test_a_finished_inference_does_not_wait_for_the_next_frame() -> None:
    engine, sink = SteppedEngine(), ListSink()
    wait = threading.Event()
    pipeline = build(
        {"a": source(frames=2, lossless=True, script={1: lambda: wait.wait(600)})},
        engine=engine,
        sinks=[sink],
        overlapped=True,
    )
    pipeline.start()
    engine.let.release()
    until(lambda: len(sink.got) == 1)
    wait.set()
    engine.let.release()
    notices_until(pipeline, ended("publish"))
    assert labels(sink) == [0, 1]
    pipeline.stop(10)


def test_an_engine_that_fails_beside_a_prepared_frame_owes_both() -> None:
    engine = SteppedEngine()
    engine.error = EngineError("the delegate is gone")
    pipeline = build({"a": source(frames=5, lossless=True)}, engine=engine, overlapped=True)
    pipeline.start()
    assert engine.begun.acquire(timeout=30)
    until(lambda: pipeline.lanes[0].slot.stats().taken == 2)
    engine.let.release()
    died = notices_until(pipeline, lambda notice: isinstance(notice, ThreadDied))[-1]
    assert died.thread == "worker:echo"
    notices_until(pipeline, ended("capture:a"))
    pipeline.stop(10)
    assert_conserved(pipeline)
    assert pipeline.lanes[0].meter.account.view().fates["failed"] == 5
