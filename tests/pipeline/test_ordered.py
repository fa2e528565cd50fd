"""A model that remembers is given every frame in order, and begins anew after one that is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.clock import Clock, SystemClock
from edgerun.errors import FrameError
from edgerun.pipeline.cache import ResultCache
from edgerun.types import EngineInfo, Grab
from tests.pipeline.parts import CountingSource, EchoEngine, ListSink, build
from tests.pipeline.test_pipeline import assert_conserved, ended, notices_until

FRAMES = 60
DEPTH = 4
INNER = st.frozensets(st.integers(0, FRAMES - 2).filter(lambda number: number != 2 * DEPTH), max_size=5)


class GapSource(CountingSource):
    """Says `gap` with the frames of these numbers."""

    def __init__(self, gaps: frozenset[int], clock: Clock, stop: threading.Event, **how: Any) -> None:
        super().__init__(clock, stop, **how)
        self._gaps = gaps

    def grab(self, until_ns: int | None = None) -> Grab | None:
        grab = super().grab(until_ns)
        return None if grab is None else Grab(grab.captured_ns, grab.item, gap=self._held in self._gaps)


class Remembering(EchoEngine):
    """Keeps what it was given since it was last made to forget; `slow` waits for that many frames of the source."""

    def __init__(self, slow: int, fail: frozenset[int] = frozenset()) -> None:
        super().__init__(self._look)
        self.runs: list[list[int]] = [[]]
        self.grabbed = threading.Semaphore(0)
        self.began = threading.Event()
        self._slow, self._fail = slow, fail

    def _look(self, number: int) -> None:
        self.began.set()
        for _ in range(self._slow):
            self.grabbed.acquire()
        if number in self._fail:
            raise FrameError("it would not", reason="engine")
        self.runs[-1].append(number)

    def forget(self) -> None:
        self.runs.append([])


def run(
    engine: Remembering, gaps: frozenset[int] = frozenset(), acts: dict[int, str] | None = None, lossless: bool = False
) -> ListSink:
    """All frames through the pipeline; the source's acts are as in `CountingSource`."""

    def at(number: int) -> Callable[[], None]:
        def act() -> None:
            engine.grabbed.release(1 if number < FRAMES - 1 else 10_000)
            if number == 2 * DEPTH:
                assert engine.began.wait(20)

        return act

    start, sink = [0], ListSink()
    script: dict[int, Any] = {number: at(number) for number in range(FRAMES)}
    script |= {number: act for number, act in (acts or {}).items() if number not in (2 * DEPTH, FRAMES - 1)}

    def opened(stop: threading.Event) -> GapSource:
        return GapSource(gaps, SystemClock(), stop, frames=FRAMES, script=script, start=start, lossless=lossless)

    pipeline = build(
        {"a": opened}, engine=engine, sinks=[sink], forget=engine.forget, ordered=True, depth=DEPTH, max_age_ms=60_000
    )
    pipeline.start()
    notices_until(pipeline, ended("publish"))
    assert pipeline.stop(5) == []
    assert_conserved(pipeline)
    return sink


def numbers(sink: ListSink) -> list[int]:
    return [p.result.answer.classes[0].class_id for p in sink.got]


def test_what_gives_way_makes_a_gap() -> None:
    engine = Remembering(slow=7)
    sink = run(engine)
    given_ = [number for one in engine.runs for number in one]
    assert given_ == sorted(given_) == numbers(sink)
    assert len(given_) < FRAMES
    runs = [one for one in engine.runs if one]
    assert len(runs) > 1
    for one in runs:
        assert one == list(range(one[0], one[0] + len(one)))  # nothing is missing in what it remembers


def test_none_is_left_out_while_it_keeps_up() -> None:
    engine = Remembering(slow=0)
    sink = run(engine, lossless=True)
    assert numbers(sink) == list(range(FRAMES))
    assert engine.runs == [list(range(FRAMES))]
    assert not any(p.result.gap for p in sink.got)


@given(
    gaps=st.frozensets(st.integers(1, FRAMES - 1), max_size=5),
    corrupt=INNER,
    lost=st.frozensets(st.integers(1, 2 * DEPTH - 1), max_size=1),
    fail=st.frozensets(st.integers(0, FRAMES - 1), max_size=5),
    slow=st.sampled_from([0, 1, 2, 6]),
)
@settings(max_examples=25, deadline=None)
def test_a_gap_is_told_where_something_is_missing(
    gaps: frozenset[int], corrupt: frozenset[int], lost: frozenset[int], fail: frozenset[int], slow: int
) -> None:
    engine = Remembering(slow, fail)
    sink = run(engine, gaps, {**dict.fromkeys(corrupt, "corrupt"), **dict.fromkeys(lost, "lost")})
    told = {p.result.answer.classes[0].class_id: p.result.gap for p in sink.got}
    assert list(told) == sorted(told)
    for one in engine.runs:
        assert one == list(range(one[0], one[0] + len(one))) if one else True
        assert not (set(one[1:]) & (gaps | lost))
    before = -1
    for number, gap in told.items():
        assert gap == (number in gaps | lost or number != before + 1), (number, gap, before)
        before = number


@pytest.mark.parametrize("accelerator", ["edgetpu", "cpu"])
def test_another_engine_does_not_remember(accelerator: str) -> None:
    """Also one of the same kind: what was lost and opened anew."""
    engine = Remembering(slow=0)

    def change(number: int) -> None:
        if number == 20:
            engine.info = EngineInfo("echo 1", accelerator, 1)  # type: ignore[misc]
        engine.began.set()
        engine.runs[-1].append(number)

    engine._before = change
    sink = run(engine, lossless=True)
    assert [number for number, p in enumerate(sink.got) if p.result.gap] == [20, 21]
    assert [one[0] for one in engine.runs] == [0, 21]


def test_what_the_cache_answers_is_not_missing() -> None:
    """Every second frame is the same one again."""
    cache, sink = ResultCache(1 << 20), ListSink()

    class Repeating(CountingSource):
        def grab(self, until_ns: int | None = None) -> Grab | None:
            grab = super().grab(until_ns)
            if grab is None:
                return None
            key = b"again" if self._held % 2 else str(self._held).encode()
            return Grab(grab.captured_ns, grab.item, key, gap=self._held == 11)

    def opened(stop: threading.Event) -> CountingSource:
        return Repeating(SystemClock(), stop, frames=FRAMES, lossless=True)

    pipeline = build({"a": opened}, sinks=[sink], cache=cache, ordered=True, depth=1)
    pipeline.start()
    notices_until(pipeline, ended("publish"))
    assert pipeline.stop(5) == []
    reused = [p.result.stamp.seq for p in sink.got if p.result.reused]
    assert len(reused) > FRAMES // 4
    assert [p.result.stamp.seq for p in sink.got if p.result.gap] == [11]


@pytest.mark.parametrize("mark", [True, False])
def test_a_gap_of_the_source_is_the_results(mark: bool) -> None:
    engine = Remembering(slow=0)
    sink = run(engine, frozenset([5]) if mark else frozenset(), lossless=True)
    assert [number for number, p in enumerate(sink.got) if p.result.gap] == ([5] if mark else [])


def test_a_model_that_cannot_begin_anew_costs_the_frame_and_is_asked_again() -> None:
    engine = Remembering(slow=0)
    refusals = iter([True, True, False])

    def forget() -> None:
        if next(refusals, False):
            raise FrameError("it cannot be opened", reason="engine")
        Remembering.forget(engine)

    engine.forget = forget  # type: ignore[method-assign]
    sink = run(engine, frozenset([10]), lossless=True)
    assert numbers(sink) == [number for number in range(FRAMES) if number not in (10, 11)]
    assert [p.result.answer.classes[0].class_id for p in sink.got if p.result.gap] == [12]
    assert [one[0] for one in engine.runs] == [0, 12]
