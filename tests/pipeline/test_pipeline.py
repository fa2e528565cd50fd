"""The pipeline with real threads: every frame is accounted for, however it ends."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import FakeClock, SystemClock
from edgerun.pipeline.gating import GatePlan
from edgerun.pipeline.notice import ThreadDied, ThreadEnded
from edgerun.pipeline.pipeline import Pipeline
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.pulse import Pulse
from edgerun.pipeline.turns import Batching
from edgerun.slot import Outbox
from edgerun.types import Motion
from tests.pipeline.parts import CountingSource, EchoEngine, ListSink, build

CLOCK = SystemClock()


def source(**how: Any) -> Callable[[threading.Event], CountingSource]:
    how.setdefault("start", [0])
    return lambda stop: CountingSource(how.get("clock", CLOCK), stop, **{k: v for k, v in how.items() if k != "clock"})


class Always(dict[int, Any]):
    """A script in which the same happens at every frame."""

    def __init__(self, act: Any) -> None:
        self._act = act

    def get(self, number: int, default: Any = None) -> Any:
        return self._act


class Cycle:
    """A gate that repeats its verdicts."""

    def __init__(self, verdicts: list[bool]) -> None:
        self._verdicts = itertools.cycle(verdicts)

    def look(self, grey: Any, captured_ns: int) -> Motion:
        return Motion(0.0, next(self._verdicts))


def notices_until(pipeline: Pipeline, wanted: Callable[[Any], bool]) -> list[Any]:
    seen = []
    while True:
        notice = pipeline.notices.get(timeout=30)  # type: ignore[attr-defined]
        seen.append(notice)
        if wanted(notice):
            return seen


def ended(name: str) -> Callable[[Any], bool]:
    return lambda notice: isinstance(notice, ThreadEnded) and notice.thread == name


def assert_conserved(pipeline: Pipeline) -> None:
    for lane in pipeline.lanes:
        view = lane.meter.account.view()
        assert view.in_flight == 0, view
        assert view.grabbed == sum(view.fates.values()), view


def labels(sink: ListSink, stream: str = "a") -> list[int]:
    return [p.result.answer.classes[0].class_id for p in sink.got if p.result.stamp.stream == stream]


WORKERS = (
    {},
    {"batching": Batching(4, 2_000_000)},
    {"overlapped": True},
    {"overlapped": True, "batching": Batching(3, 0)},
)


@pytest.mark.parametrize("how", WORKERS, ids=str)
def test_a_lossless_source_loses_nothing_and_keeps_its_order(how: dict[str, Any]) -> None:
    sink = ListSink()
    pipeline = build({"a": source(frames=500, lossless=True)}, sinks=[sink], outbox_size=2, **how)
    pipeline.start()
    notices_until(pipeline, ended("worker:echo"))
    assert pipeline.stop(10) == []
    assert labels(sink) == list(range(500))
    assert [p.id for p in sink.got[:2]] == ["0123abcd-000000", "0123abcd-000001"]
    assert [p.result.stamp.item for p in sink.got[:2]] == ["0", "1"]
    assert_conserved(pipeline)


@settings(max_examples=50, deadline=None)
@given(
    how=st.sampled_from(WORKERS),
    streams=st.integers(1, 3),
    moving=st.sampled_from([None, [True], [True, False, False]]),
    stop_after=st.integers(1, 60),
    stall_every=st.integers(1, 20),
    corrupt=st.sets(st.integers(0, 100), max_size=30),
)
def test_conservation_at_a_random_stop_under_flood(
    how: dict[str, Any],
    streams: int,
    moving: list[bool] | None,
    stop_after: int,
    stall_every: int,
    corrupt: set[int],
) -> None:
    """Sources that flood a worker which stalls now and then, through a gate that opens and shuts."""
    enough = threading.Event()
    gate = threading.Semaphore(0)
    served = [0]

    def stall(number: int) -> None:
        served[0] += 1
        if served[0] % stall_every == 0:
            gate.acquire(timeout=0.02)
        if served[0] >= stop_after:
            enough.set()

    sink = ListSink()
    script: dict[int, Any] = dict.fromkeys(corrupt, "corrupt")
    names = [f"s{i}" for i in range(streams)]
    pipeline = build(
        {name: source(script=dict(script)) for name in names},
        engine=EchoEngine(stall),
        sinks=[sink],
        outbox_size=3,
        gates={name: GatePlan(Cycle(moving), still_ns=10_000_000) for name in names if moving},
        **how,
    )
    pipeline.start()
    assert enough.wait(30)
    assert pipeline.stop(20) == []
    assert_conserved(pipeline)
    for name, lane in zip(names, pipeline.lanes, strict=True):
        seqs = [p.result.stamp.seq for p in sink.got if p.result.stamp.stream == name]
        assert seqs == sorted(set(seqs))
        assert len(seqs) == lane.meter.account.view().fates["published"]


def test_frames_too_old_are_never_inferred() -> None:
    inferred: list[int] = []
    sink = ListSink()
    pipeline = build(
        {"a": source(frames=20, age_s=2.0)}, engine=EchoEngine(inferred.append), sinks=[sink], max_age_ms=1000
    )
    pipeline.start()
    notices_until(pipeline, ended("worker:echo"))
    pipeline.stop(10)
    assert inferred == []
    assert sink.got == []
    assert pipeline.lanes[0].meter.account.view().fates["expired"] > 0
    assert_conserved(pipeline)


def test_a_result_that_aged_in_the_engine_is_never_published() -> None:
    clock = FakeClock()
    sink = ListSink()
    pipeline = build(
        {"a": source(clock=clock, frames=1)},
        engine=EchoEngine(lambda number: clock.advance(1.5)),
        sinks=[sink],
        clock=clock,
        max_age_ms=1000,
    )
    pipeline.start()
    notices_until(pipeline, ended("worker:echo"))
    pipeline.stop(10)
    assert sink.got == []
    assert pipeline.lanes[0].meter.account.view().fates["expired"] == 1
    assert_conserved(pipeline)


def test_what_came_while_the_process_stood_still_is_never_inferred() -> None:
    """A socket gives three old frames at once after a standstill of 6 s; their stamps would say that they are new."""
    clock = FakeClock()
    pulse = Pulse(clock)

    def arrive() -> None:
        clock.advance(1 / 30)
        pulse.beat()

    script: dict[int, Any] = dict.fromkeys(range(20), arrive)
    script |= {10: lambda: clock.advance(6), 11: pulse.beat, 12: None, 13: None}
    inferred: list[int] = []
    pipeline = build(
        {"a": source(clock=clock, frames=20, script=script)},
        engine=EchoEngine(inferred.append),
        clock=clock,
        stood_still=pulse.stood_still,
        max_age_ms=60_000,
    )
    pipeline.start()
    notices_until(pipeline, ended("publish"))
    assert not set(inferred) & {10, 11, 12, 13}
    assert inferred[-1] == 19
    assert pipeline.lanes[0].meter.account.view().fates["expired"] == 4
    assert_conserved(pipeline)


def test_a_result_carries_its_age_and_its_latencies() -> None:
    clock = FakeClock()
    sink = ListSink(before=lambda publication: clock.advance(9))
    pipeline = build(
        {"a": source(clock=clock, frames=1, age_s=0.25)},
        engine=EchoEngine(lambda number: clock.advance(0.5)),
        sinks=[sink],
        clock=clock,
    )
    pipeline.start()
    notices_until(pipeline, ended("worker:echo"))
    pipeline.stop(60)
    (publication,) = sink.got
    assert publication.age_ms == pytest.approx(750)
    assert publication.result.latency_ns["infer"] == 500_000_000
    assert publication.result.latency_ns["capture"] == 250_000_000
    assert publication.result.frame_size == (8, 8)


def test_a_slow_sink_overflows_the_outbox_oldest_first_and_counted() -> None:
    hold = threading.Event()
    inferred = threading.Semaphore(0)
    sink = ListSink(before=lambda publication: hold.wait(30) and None)
    pipeline = build(
        {"a": source(interval_s=0.0005)},
        engine=EchoEngine(lambda number: inferred.release()),
        sinks=[sink],
        outbox_size=4,
        max_age_ms=60_000,
    )
    pipeline.start()
    for _ in range(30):
        assert inferred.acquire(timeout=30)
    for capture in pipeline.captures:
        capture.stop()
    notices_until(pipeline, ended("worker:echo"))
    hold.set()
    pipeline.stop(10)
    view = pipeline.lanes[0].meter.account.view()
    assert view.failed_reasons["outbox"] >= 20
    assert len(sink.got) <= 5
    assert_conserved(pipeline)


def test_a_lossless_result_never_gives_way_to_a_live_one() -> None:
    """Both share the engine and the Outbox; the sink is slower than the live source."""
    live = threading.Semaphore(0)
    sink = ListSink(before=lambda publication: [live.acquire(timeout=30) for _ in range(5)] and None)
    pipeline = build(
        {"a": source(frames=40, lossless=True), "b": source(interval_s=0.0005, script=Always(live.release))},
        sinks=[sink],
        outbox_size=3,
        max_age_ms=60_000,
    )
    pipeline.start()
    notices_until(pipeline, ended("capture:a"))
    pipeline.captures[1].stop()
    live.release(10_000)
    notices_until(pipeline, ended("publish"))
    assert labels(sink) == list(range(40))
    assert pipeline.lanes[0].meter.account.view().fates["published"] == 40
    assert pipeline.lanes[1].meter.account.view().failed_reasons.get("outbox")
    assert_conserved(pipeline)


def test_at_the_end_of_the_data_all_threads_end_by_themselves_publish_last() -> None:
    sink = ListSink()
    sources = {"a": source(frames=30, lossless=True), "b": source(frames=3), "c": source(script={2: "dead"})}
    pipeline = build(sources, sinks=[sink])
    pipeline.start()
    seen = notices_until(pipeline, ended("publish"))
    assert [n.thread for n in seen if isinstance(n, ThreadDied)] == ["capture:c"]
    assert {n.thread for n in seen if isinstance(n, ThreadEnded)} == {
        "capture:a", "capture:b", "worker:echo", "publish",
    }  # fmt: skip
    assert len(labels(sink)) == 30
    assert pipeline.stop(10) == []
    assert_conserved(pipeline)


def test_buffers_are_lent_not_made() -> None:
    """However many frames pass, at most a handful of buffers are ever made."""
    made: set[int] = set()
    kept = []

    def watch(publication: Any) -> None:
        image = publication.result.lease.image
        if id(image) not in made:
            made.add(id(image))
            kept.append(image)

    sink = ListSink(before=watch)
    pipeline = build({"a": source(frames=300, lossless=True)}, sinks=[sink], keep_pictures=True, outbox_size=1)
    pipeline.start()
    notices_until(pipeline, ended("worker:echo"))
    pipeline.stop(10)
    assert len(sink.got) == 300
    assert len(made) <= 6


def test_sinks_that_come_and_go_on_two_threads_at_once_are_all_that_are_there() -> None:
    """A reload gives what governs another sink while the main thread takes a rollout's away."""
    publisher = Publisher(Outbox(1), [], CLOCK, "0123abcd")
    wrong: list[str] = []
    begin = threading.Barrier(2)

    def come_and_go() -> None:
        sink = ListSink()
        begin.wait(30)
        for _ in range(200_000):
            publisher.add(sink)
            if sink not in publisher.sinks:
                wrong.append("added, and not there")
            publisher.remove(sink)
            if sink in publisher.sinks:
                wrong.append("removed, and still there")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=come_and_go) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_dropped_tells_what_was_lost_since_the_previous_result() -> None:
    sink = ListSink()
    inferred = threading.Semaphore(0)
    pipeline = build({"a": source(interval_s=0.0005)}, engine=EchoEngine(lambda n: inferred.release()), sinks=[sink])
    pipeline.start()
    for _ in range(40):
        assert inferred.acquire(timeout=30)
    pipeline.stop(10)
    fates = pipeline.lanes[0].meter.account.view().fates
    for fate in ("skipped", "superseded"):
        assert sum(p.result.dropped[fate] for p in sink.got) <= fates[fate]
    assert_conserved(pipeline)
