"""An engine in a process of its own: what it costs is that process, whatever it does."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.errors import EngineError, MissingError, ModelError
from edgerun.infer.hop import Arena, Place
from edgerun.infer.host import EngineLost, HangWatch, HostedEngine, Limits
from edgerun.ports import EngineContext
from tests.infer.unruly import Options, UnrulyEngine

CONTEXT = EngineContext(b"five!", "net", accelerator="npu", threads=2)
QUICK = Limits(open_s=60.0, least_s=0.3, most_s=0.3)
PATIENT = Limits(least_s=60.0, most_s=60.0)  # far beyond what a test may take


def x(first: int, count: int = 3) -> list[Any]:
    return [np.full(count, first, np.int32)]


def gone(pid: int) -> bool:
    """Whether the process has ended within a minute; `pidfd` becomes readable then."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    ended = bool(poll.poll(60_000))
    os.close(fd)
    return ended


@pytest.fixture
def engine(closing: Callable[[Any], HostedEngine]) -> HostedEngine:
    hosted = closing(HostedEngine(UnrulyEngine, Options(), CONTEXT, PATIENT))
    hosted.infer(x(1))
    return hosted


def test_runs_elsewhere_and_tells_what_it_is(engine: HostedEngine) -> None:
    assert engine.pid != os.getpid()
    assert (engine.info.runtime, engine.info.accelerator, engine.info.threads) == ("unruly 1", "npu", 2)
    y, size = engine.infer(x(5))
    assert y.tolist() == [6, 6, 6]
    assert size == 5  # bytes of the model that it was given


def test_tensors_of_any_size_and_shape_one_after_the_other(engine: HostedEngine) -> None:
    for first, count in ((1, 1), (2, 500_000), (105, 2), (3, 4), (4, 500_001)):
        y, _ = engine.infer(x(first, count))
        assert y.shape == (count * (3_000_000 if first == 105 else 1),)
        assert (y == first + 1).all()


def test_a_model_file_is_found_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from edgerun.infer.onnx import OnnxEngine
    from edgerun.infer.onnx import Options as OnnxOptions
    from tests.infer.onnx_models import quantised_convolution

    (tmp_path / "m.onnx").write_bytes(quantised_convolution())
    hosted = HostedEngine(OnnxEngine, OnnxOptions(), EngineContext(Path("m.onnx"), "m"))
    assert hosted.inputs[0].shape == (1, 3, 8, 8)
    hosted.close()


def test_a_hang_is_killed_though_it_blocks_every_signal(closing: Callable[[Any], HostedEngine]) -> None:
    engine = closing(HostedEngine(UnrulyEngine, Options(), CONTEXT, QUICK))
    engine.infer(x(1))  # the first may take as long as opening
    with pytest.raises(EngineLost, match=r"net on npu: .*process is lost; got no answer for 0.3 s while inferring"):
        engine.infer(x(101))
    assert gone(engine.pid)
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.infer(x(1))


@pytest.mark.parametrize(
    ("what", "how"),
    [
        (102, r"SIGSEGV \(last words\)"),
        (103, r"exit code 1 \(RuntimeError: a bug\)"),
        (104, "exit code 3"),
        (106, r"exit code 1 \(RuntimeError: a bug\)"),
    ],
)
def test_a_crash_is_noticed_through_the_socket(what: int, how: str, closing: Callable[[Any], HostedEngine]) -> None:
    engine = closing(HostedEngine(UnrulyEngine, Options(), CONTEXT, PATIENT))
    engine.infer(x(1))
    with pytest.raises(EngineLost, match=f"its process ended while inferring: {how}"):
        engine.infer(x(what))
    assert gone(engine.pid)


def test_a_child_killed_from_outside_is_lost(engine: HostedEngine) -> None:
    os.kill(engine.pid, signal.SIGKILL)
    assert gone(engine.pid)
    with pytest.raises(EngineLost, match="SIGKILL"):
        engine.infer(x(1))


def test_an_answer_that_came_too_late_is_never_taken_for_the_next(engine: HostedEngine) -> None:
    """A reply to an earlier request lies in the socket, as after a wait that was given up."""
    from edgerun.infer.hop import Request

    for late in range(3):
        engine._link.send(engine._encode(Request(engine._seq, engine._in.place([((1,), "int32")]))))
        engine._kinds = []
        assert engine.infer(x(10 * late))[0].tolist() == [10 * late + 1] * 3


def test_opening_errors_are_those_of_the_engine() -> None:
    with pytest.raises(ModelError) as caught:
        HostedEngine(UnrulyEngine, Options(at_open="model"), CONTEXT)
    assert str(caught.value) == "net: a bad model; expected 1; got [2]. Make another"
    with pytest.raises(MissingError, match="no library"):
        HostedEngine(UnrulyEngine, Options(at_open="missing"), CONTEXT)


def test_opening_has_a_limit_and_notices_a_crash() -> None:
    with pytest.raises(EngineLost, match="no answer for 1 s while opening"):
        HostedEngine(UnrulyEngine, Options(at_open="hang"), CONTEXT, Limits(open_s=1.0))
    with pytest.raises(EngineLost, match="its process ended while opening: SIGSEGV"):
        HostedEngine(UnrulyEngine, Options(at_open="crash"), CONTEXT)


def test_an_opening_can_be_given_up() -> None:
    with pytest.raises(EngineLost, match="while opening: SIGKILL"):
        HostedEngine(UnrulyEngine, Options(at_open="hang"), CONTEXT, started=HostedEngine.abort)


def test_what_it_says_is_logged_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edgerun.infer.host"):
        HostedEngine(UnrulyEngine, Options(chatter=1000), CONTEXT).close()
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "net on npu says: line 0"
    assert said[-1] == "net on npu says more than 200 lines: the others are not logged"
    assert len(said) == 201


def test_ctrl_c_and_sigterm_do_not_end_it(engine: HostedEngine) -> None:
    for one in (signal.SIGINT, signal.SIGTERM):
        os.kill(engine.pid, one)
    assert engine.infer(x(1))[0].tolist() == [2, 2, 2]


@pytest.mark.parametrize("what", [1, 101])
def test_dies_with_its_parent_even_from_inside_a_hang(what: int) -> None:
    """The parent is killed; opened by a thread that has ended, because that must not end the child."""
    script = f"""
import signal, threading
from tests.infer.test_host import *
hanging = threading.Event()
class Heard(logging.Handler):
    def emit(self, record):
        if record.getMessage().endswith("hanging"):
            hanging.set()
logging.getLogger("edgerun.infer.host").addHandler(Heard())
logging.getLogger("edgerun.infer.host").setLevel(logging.INFO)
opened = []
thread = threading.Thread(target=lambda: opened.append(HostedEngine(UnrulyEngine, Options(), CONTEXT)))
thread.start()
thread.join()
opened[0].infer(x(1))
if {what} == 101:
    threading.Thread(target=lambda: opened[0].infer(x(101)), daemon=True).start()
    assert hanging.wait(60)
print(opened[0].pid, flush=True)
signal.pause()
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(child)


def test_the_limit_follows_the_p99() -> None:
    watch = HangWatch(Limits(open_s=60.0))
    assert watch.limit_s == 60.0
    watch.record(5.0)  # a driver that compiled at first
    assert watch.limit_s == 10.0
    for _ in range(400):
        watch.record(0.001)
    assert watch.limit_s == 1.0
    slow = HangWatch(Limits())
    for _ in range(100):
        slow.record(0.2)
    assert slow.limit_s == pytest.approx(4.0, rel=0.05)
    for _ in range(100):
        slow.record(2.0)
    assert slow.limit_s == 10.0


def test_a_place_outside_the_memory_is_refused() -> None:
    arena = Arena.create("test")
    (place,) = arena.place([((4, 5), "float32")])
    assert arena.views([place])[0].shape == (4, 5)
    for wrong in (Place((4, 5), "float32", 64), Place((2**40,), "int8", 0), Place((1,), "int8", -1)):
        with pytest.raises(ValueError, match="outside the 128 bytes"):
            arena.views([wrong])
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(arena.fd, 8)
    arena.close()


def test_a_stated_limit_takes_the_place_of_the_learned_one() -> None:
    watch = HangWatch(Limits(open_s=60.0, hang_s=0.4))
    assert watch.limit_s == 60.0
    for _ in range(100):
        watch.record(5.0)
        assert watch.limit_s == 0.4
