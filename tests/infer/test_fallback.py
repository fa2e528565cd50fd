"""A real delegate that is sick in every way: the answers go on, and it is taken back when it is well."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from edgerun.clock import SystemClock
from edgerun.errors import EngineError, FrameError
from edgerun.infer import Accelerator, open_engine
from edgerun.infer.board import Board
from edgerun.infer.delegates import External
from edgerun.infer.fallback import Fallback
from edgerun.infer.host import HostedEngine
from edgerun.infer.state import StatefulEngine, with_state
from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.ports import EngineContext
from edgerun.types import EngineInfo, Tensor
from tests.infer.conftest import Sick

GIVE_UP_S = 60.0


class Opened:
    """Opens with what happened recorded."""

    def __init__(self, model: bytes, closing: Callable[[Any], Any]) -> None:
        self.context = EngineContext(model, "net")
        self.closing = closing
        self.changes: list[tuple[str, EngineInfo, str]] = []

    def __call__(self, *order: Any, **more: Any) -> Fallback:
        opened = open_engine(TfliteEngine, Options(), self.context, order, on_change=self.changed, **more)
        fallback: Fallback = self.closing(opened)
        return fallback

    def changed(self, *change: Any) -> None:
        self.changes.append(change)

    def events(self) -> list[str]:
        return [event for event, _, _ in self.changes]


@pytest.fixture
def opened(classifier: bytes, closing: Callable[[Any], Any]) -> Opened:
    return Opened(classifier, closing)


@pytest.fixture
def expected(classifier: bytes, picture: list[Tensor]) -> Tensor:
    engine = TfliteEngine(Options(), EngineContext(classifier, "net"))
    answer = engine.infer(picture)[0].copy()
    engine.close()
    return answer


def infer_until(engine: Fallback, picture: list[Tensor], done: Callable[[], bool]) -> list[Tensor | FrameError]:
    """Every answer until `done()`; what fails is kept too."""
    answers: list[Tensor | FrameError] = []
    pause = threading.Event()
    until = monotonic() + GIVE_UP_S
    while not done():
        assert monotonic() < until, f"after {len(answers)} inferences"
        try:
            answers.append(engine.infer(picture)[0].copy())
        except FrameError as error:
            answers.append(error)
            pause.wait(0.01)  # a camera's pace, so that the background gets its share
    return answers


def test_a_delegate_that_works_is_used_and_says_so(
    opened: Opened, sick: Sick, picture: list[Tensor], expected: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        engine = opened(sick.declare("ok"), "cpu")
    assert isinstance(engine.engine, HostedEngine)
    assert engine.engine.delegated == engine.delegated == (1, 16)
    assert (engine.info.accelerator, engine.info.fallbacks, engine.degraded) == ("external", (), False)
    assert (engine.infer(picture)[0] == expected).all()
    assert "100.0% of its values agree with the CPU's" in caplog.text
    assert "1 of 16 ops run on it" in caplog.text


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("fail_create", "the delegate does not open; got .* no device found"),
        ("fail_prepare", "the accelerator refuses the model"),
        ("fail_invoke", r"Node number \d+ \(TestDelegate\) failed to invoke"),
        ("wrong", "outputs are not those of the CPU; expected 98% of the values within 6 quanta"),
        ("zeros", "not those of the CPU|answers nonsense"),
        ("abort", r"its process ended while inferring: SIGABRT \(F driver.cc:42\] Check failed: device is gone\)"),
        ("exit", "its process ended while inferring: exit code 7"),
    ],
)
def test_a_sick_delegate_is_refused_at_the_start(
    mode: str, why: str, opened: Opened, sick: Sick, picture: list[Tensor], expected: Tensor
) -> None:
    engine = opened(sick.declare(mode), "cpu")
    assert (engine.info.accelerator, engine.degraded) == ("cpu", True)
    ((kind, reason),) = engine.info.fallbacks
    assert kind == "external"
    assert re.search(why, reason), reason
    assert "\n" not in reason
    assert (engine.infer(picture)[0] == expected).all()


def test_without_cpu_a_refusal_is_an_error(opened: Opened, sick: Sick) -> None:
    with pytest.raises(EngineError, match=r'got external: .*no device found.* Add "cpu" to the end'):
        opened(sick.declare("fail_create"))


def test_slower_than_the_cpu_is_told_but_used(opened: Opened, sick: Sick, caplog: pytest.LogCaptureFixture) -> None:
    engine = opened(sick.declare("slow", delay_ms=30), "cpu")
    assert engine.info.accelerator == "external"
    assert "net on external: slower than the CPU: " in caplog.text


def test_one_that_can_be_more_exact_gets_a_second_chance(
    opened: Opened,
    sick: Sick,
    picture: list[Tensor],
    expected: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = sick.declare("wrong")
    exact = {"settings": table["settings"] | {"mode": "ok"}}
    monkeypatch.setattr(External, "careful", lambda self: exact)
    engine = opened(table, "cpu")
    assert (engine.info.accelerator, engine.info.fallbacks) == ("external", ())
    assert "outputs are not those of the CPU" in caplog.text
    assert "tried again with {'settings':" in caplog.text
    assert (engine.infer(picture)[0] == expected).all()


def test_one_that_auto_found_is_used_only_where_it_is_faster_and_not_tried_again(
    opened: Opened, sick: Sick, proofs: Path, tmp_path: Path
) -> None:
    table = sick.declare("slow", delay_ms=30)
    found = Accelerator(table.pop("kind"), table, chosen=True)
    engine = opened(found, "cpu")
    assert engine.info.accelerator == "cpu"
    told = re.search(r"slower than the CPU; got (\d+\.\d+) instead of ", engine.info.fallbacks[0][1])
    assert told is not None
    assert float(told[1]) >= 30
    sick.heal()
    again = opened(found, "cpu")
    assert f"left out of auto since it was tried; got slower than the CPU: {told[1]} " in again.info.fallbacks[0][1]
    other_drivers = tmp_path / "other"
    (other_drivers / "var/lib/dpkg").mkdir(parents=True)
    (other_drivers / "var/lib/dpkg/status").touch()
    assert opened(found, "cpu", board=Board(other_drivers)).info.fallbacks[:1] != again.info.fallbacks[:1]
    for path in (proofs / "proof").glob("*.verdict"):
        path.write_bytes(b"\xff")  # damaged: found out again
    assert "left out" not in str(opened(found, "cpu").info.fallbacks)


@pytest.mark.parametrize("mode", ["hang", "abort", "exit", "fail_invoke"])
def test_lost_in_mid_run_the_cpu_answers_the_same_frame_and_it_comes_back(
    mode: str, opened: Opened, sick: Sick, picture: list[Tensor], expected: Tensor
) -> None:
    engine = opened(sick.declare(mode, after=20), "cpu")
    first = engine.engine
    assert isinstance(first, HostedEngine)
    answers = infer_until(engine, picture, lambda: engine.degraded)
    assert engine.info.accelerator == "cpu"
    assert engine.info.fallbacks[0][0] == "external"
    assert opened.events() == ["fell_back"]
    assert opened.changes[0][1] == engine.info
    sick.heal()
    answers += infer_until(engine, picture, lambda: not engine.degraded)
    answers.append(engine.infer(picture)[0].copy())
    assert (engine.info.accelerator, engine.info.fallbacks) == ("external", ())
    assert opened.events() == ["fell_back", "recovered"]
    assert engine.engine is not first  # rebuilt, never reused
    assert all((answer == expected).all() for answer in answers)


def test_a_state_kept_around_it_tells_what_runs(opened: Opened, sick: Sick, picture: list[Tensor]) -> None:
    engine = opened(sick.declare("abort", after=20), "cpu")
    around = with_state(engine, "net", shapes={0: (1, 32, 32, 3)})
    assert isinstance(around, StatefulEngine)
    assert (around.info.accelerator, around.delegated) == ("external", (1, 16))
    until = monotonic() + GIVE_UP_S
    while not engine.degraded:
        assert monotonic() < until
        around.infer(picture)
    assert (around.info, around.delegated) == (engine.info, None)
    assert around.info.fallbacks


def test_one_that_hangs_is_killed_after_the_stated_time(
    opened: Opened, sick: Sick, picture: list[Tensor], expected: Tensor
) -> None:
    engine = opened(sick.declare("hang", after=20), "cpu", hang_s=2.0)
    assert isinstance(engine.engine, HostedEngine)
    assert engine.engine.hang_s == 2.0
    answers = infer_until(engine, picture, lambda: engine.degraded)
    assert "no answer for 2 s while inferring" in engine.info.fallbacks[0][1]
    assert all((answer == expected).all() for answer in answers)


def test_one_that_never_gets_well_is_kept_out(opened: Opened, sick: Sick, picture: list[Tensor]) -> None:
    engine = opened(sick.declare("fail_create"), "cpu")
    entry = engine._entries[0]
    infer_until(engine, picture, lambda: entry.failures >= 4)
    assert engine.info.accelerator == "cpu"
    assert opened.events() == []


def test_wrong_numbers_at_the_start_are_not_tried_again(opened: Opened, sick: Sick) -> None:
    assert opened(sick.declare("wrong"), "cpu")._entries[0].hopeless


def test_one_that_is_back_with_wrong_numbers_is_not_taken(
    opened: Opened, sick: Sick, delegate_library: Any, picture: list[Tensor], expected: Tensor
) -> None:
    engine = opened(sick.declare("abort", after=20), "cpu")
    infer_until(engine, picture, lambda: engine.degraded)
    engine._entries[0].accelerator.options["settings"]["mode"] = "wrong"
    answers = infer_until(engine, picture, lambda: engine._entries[0].failures >= 3)
    assert "not those of the CPU" in str(engine._entries[0].reason)
    assert all((answer == expected).all() for answer in answers)


def test_without_cpu_the_next_in_order_takes_over(
    opened: Opened, sick: Sick, delegate_library: Any, picture: list[Tensor], expected: Tensor
) -> None:
    well = {"kind": "external", "library": str(delegate_library)}
    engine = opened(sick.declare("abort", after=20), well)
    answers = infer_until(engine, picture, lambda: "lost" in opened.events())
    answers += infer_until(engine, picture, lambda: engine.engine is not None)
    assert engine.engine is not None
    answers.append(engine.infer(picture)[0].copy())
    assert all((answer == expected).all() for answer in answers if not isinstance(answer, FrameError))


def test_without_cpu_and_nothing_left_frames_fail_until_it_is_back(
    opened: Opened, sick: Sick, picture: list[Tensor]
) -> None:
    engine = opened(sick.declare("abort", after=20))
    library = engine._entries[0].accelerator.options["library"]
    engine._entries[0].accelerator.options["library"] = "/nonexistent.so"
    answers = infer_until(engine, picture, lambda: "lost" in opened.events())
    assert isinstance(answers[-1], FrameError)
    assert answers[-1].reason == "engine"
    assert "no accelerator is left to infer this frame" in str(answers[-1])
    sick.heal()
    entry = engine._entries[0]
    infer_until(engine, picture, lambda: entry.hopeless)  # it has been tried again, and there was no library
    entry.accelerator.options["library"] = library
    entry.hopeless = False
    engine._wake()
    infer_until(engine, picture, lambda: "recovered" in opened.events())
    assert engine.info == EngineInfo(engine.info.runtime, "external", 1, delegated=engine.delegated)


def test_inputs_that_do_not_fit_are_not_blamed_on_the_accelerator(
    opened: Opened, sick: Sick, picture: list[Tensor], expected: Tensor
) -> None:
    asked: list[str] = []

    def model_for(kind: str) -> bytes:
        asked.append(kind)
        return opened.context.model  # type: ignore[return-value]

    engine = opened(sick.declare("ok"), "cpu", model_for=model_for)
    asked.clear()
    for wrong in ([np.zeros((7, 7), np.float32)], [], [picture[0].astype(np.int16)]):
        with pytest.raises(EngineError, match="the model failed to run"):
            engine.infer(wrong)
    assert not engine.degraded
    assert asked == []  # nothing was opened for it
    assert (engine.infer(picture)[0] == expected).all()


def test_closing_ends_an_opening_that_hangs(opened: Opened, sick: Sick, picture: list[Tensor]) -> None:
    engine = opened(sick.declare("abort", after=20), "cpu")
    engine._entries[0].accelerator.options["settings"]["mode"] = "hang_create"
    infer_until(engine, picture, lambda: engine.degraded)
    opener = engine._opener
    infer_until(engine, picture, lambda: bool(opener._under_way))  # type: ignore[attr-defined]
    engine.close()
    assert engine._thread is not None
    assert not engine._thread.is_alive()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.infer(picture)


def test_one_that_opens_when_all_is_closed_is_closed_too() -> None:
    """Its opening cannot be ended, and `close` does not wait for it for ever."""

    class Made:
        inputs = outputs = ()
        closed = False

        def __init__(self, kind: str) -> None:
            self.info = EngineInfo("made 1", kind, 1)

        def infer(self, inputs: Any) -> list[Tensor]:
            return []

        def close(self) -> None:
            self.closed = True

    begun, go_on = threading.Event(), threading.Event()
    late = Made("npu")
    refusals = [EngineError("not yet")]

    class Deaf:
        """Opens the NPU only the second time, and when it is let."""

        def open(self, accelerator: Accelerator) -> Any:
            if accelerator.kind == "cpu":
                return Made("cpu")
            if refusals:
                raise refusals.pop()
            begun.set()
            assert go_on.wait(60)
            return late

        def abort(self) -> None:
            pass

    engine = Fallback("net", Deaf(), [Accelerator("npu"), Accelerator("cpu")], SystemClock())
    assert engine._thread is not None
    assert begun.wait(60)
    engine.close()
    go_on.set()
    engine._thread.join(60)
    assert not engine._thread.is_alive()
    assert late.closed
    assert engine._ready is None


def test_each_accelerator_gets_the_file_made_for_it(
    opened: Opened, sick: Sick, classifier: bytes, picture: list[Tensor]
) -> None:
    asked = []

    def model_for(kind: str) -> bytes:
        asked.append(kind)
        return classifier

    engine = opened(sick.declare("abort", after=20), "cpu", model_for=model_for)
    assert set(asked) == {"external", "cpu"}
    asked.clear()
    infer_until(engine, picture, lambda: engine.degraded)
    assert asked[0] == "cpu"
