"""Commands as sources: real processes that end, hang, lie and leave children behind."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgerun.capture.command import CommandSource, Options
from edgerun.capture.samples import FdReader
from edgerun.errors import SourceError
from edgerun.types import Grab
from edgerun.wake import Wake
from tests.capture.scenes import context


def opened(
    code: str, stop: threading.Event | None = None, wake: Wake | None = None, **changed: object
) -> CommandSource:
    command = (sys.executable, "-c", f"import sys, os, time, struct\nwrite = sys.stdout.buffer.write\n{code}")
    options = {"command": command, "window_samples": 4, "dtype": "int16", "stall_s": 60.0, **changed}
    return CommandSource(Options(**options), context(stop=stop, wake=wake))


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended and is not reaped (its new parent may be slow) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(pid: int) -> None:
    waiter = threading.Event()
    for _ in range(1000):
        if not is_alive(pid):
            return
        waiter.wait(0.02)
    pytest.fail(f"process {pid} lives on")


def test_numbers_become_windows_whatever_pieces_they_come_in() -> None:
    source = opened(
        "data = struct.pack('>12h', *range(12))\nfor b in data:\n    write(bytes([b])); sys.stdout.flush()",
        byte_order="big", channels=2, window_samples=3, scale=0.5, offset=1.0,
    )  # fmt: skip
    first, second = source.grab(), None
    window = source.retrieve(None)
    second = source.grab()
    assert first is not None
    assert second is not None
    assert (first.gap, second.gap) == (True, False)
    assert window.tolist() == [[1, 1.5], [2, 2.5], [3, 3.5]]
    assert window.dtype == np.float32
    assert source.frame_size == (2, 3)
    assert source.grab() is None
    source.close()
    source.close()


def test_numbers_a_float32_cannot_hold_come_as_infinite() -> None:
    source = opened("write(struct.pack('<4d', 1e300, -1e300, 5, float('nan')))", dtype="float64", scale=2.0)
    assert source.grab() is not None
    assert str(source.retrieve(None)[:, 0].tolist()) == "[inf, -inf, 10.0, nan]"
    source.close()


def test_a_failure_is_told_with_its_last_words() -> None:
    source = opened("write(bytes(6)); sys.exit('no sensor on bus 3')")
    with pytest.raises(SourceError, match="exit code 1 after saying: no sensor on bus 3") as caught:
        source.grab()
    assert not caught.value.final
    source.close()


@pytest.mark.parametrize("code", ["", "write(bytes(4))"])
def test_a_command_that_gives_no_window_is_no_success(code: str) -> None:
    source = opened(code)
    with pytest.raises(SourceError, match="shorter than one window") as caught:
        source.grab()
    assert caught.value.final
    source.close()


def test_a_kill_is_told() -> None:
    source = opened("os.kill(os.getpid(), 9)")
    with pytest.raises(SourceError, match="signal 9"):
        source.grab()
    source.close()


def test_much_talk_on_standard_error_does_not_stop_it() -> None:
    source = opened("sys.stderr.write('x' * 200_000); sys.stderr.flush(); write(bytes(8))")
    assert source.grab() is not None
    source.close()


def test_close_ends_all_that_it_started() -> None:
    child = "trap '' TERM; sleep 1000 & sleep 1000 & echo $$ $! >&2; printf 12345678; wait"
    source = CommandSource(
        Options(command=("sh", "-c", f"exec 3>&2; {child}"), window_samples=4, dtype="int16"), context()
    )
    assert source.grab() is not None
    pids: list[int] = []
    while len(pids) < 2:
        source._child.read_complaints()
        pids = [int(word) for word in source._child._complaints.split()]
    assert all(is_alive(pid) for pid in pids)
    source.close()
    for pid in pids:
        wait_gone(pid)


def test_silence_is_a_loss() -> None:
    source = opened("time.sleep(1000)", stall_s=0.1)
    with pytest.raises(SourceError, match="silent"):
        source.grab()
    source.close()


def test_stop_ends_the_wait_even_while_wake_stays_set() -> None:
    for wake in (None, Wake()):
        stop = threading.Event()
        source = opened("time.sleep(1000)", stop, wake)
        if wake is not None:
            wake.set()
        ended: list[Grab | None] = []
        thread = threading.Thread(target=lambda s=source, e=ended: e.append(s.grab()))
        thread.start()
        stop.set()
        thread.join(20)
        assert ended == [None]
        source.close()
        if wake is not None:
            wake.close()


def test_a_reader_tells_whether_it_had_to_wait() -> None:
    reading, writing = os.pipe()
    reader = FdReader(reading, context(), "a pipe", 20.0, aside=lambda: os.write(writing, b"x"))
    assert (reader.read(1), reader.waited) == (b"x", True)
    assert (reader.read(1), reader.waited) == (b"x", False)
    os.close(reading)
    os.close(writing)


def test_a_wake_that_stays_set_is_not_waited_for_in_circles() -> None:
    reading, writing = os.pipe()
    wake = Wake()
    wake.set()
    looks: list[None] = []
    reader = FdReader(reading, context(wake=wake), "a pipe", 0.5, aside=lambda: looks.append(None))
    with pytest.raises(SourceError, match="silent"):
        reader.read(1)
    assert len(looks) < 20
    wake.close()
    os.close(reading)
    os.close(writing)


def test_a_program_that_cannot_be_started_is_final() -> None:
    for command in (("edgerun-no-such-program",), ("/etc/hostname",), ("a\0b",)):
        with pytest.raises(SourceError, match="cannot be started") as caught:
            CommandSource(Options(command=command, window_samples=1), context())
        assert caught.value.final


def test_times_follow_the_rate_and_are_never_in_the_future() -> None:
    source = opened(
        "for n in range(20):\n    write(bytes(200)); sys.stdout.flush(); time.sleep(0.01)",
        window_samples=100, rate_hz=10_000.0,
    )  # fmt: skip
    clock = context().clock
    times = []
    while (grab := source.grab()) is not None:
        assert grab.captured_ns <= clock.mono_ns()
        times.append(grab.captured_ns)
    assert len(times) == 20
    assert times == sorted(times)
    source.close()


def test_options_that_cannot_be() -> None:
    for wrong in ({"command": []}, {"command": "cat"}, {"command": ["cat"], "dtype": "complex"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"window_samples": 1, **wrong}, Options)


def descriptors() -> set[tuple[str, str]]:
    """Of this process: their numbers, and what they are."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def test_no_descriptor_is_left_behind() -> None:
    before = descriptors()
    for _ in range(3):
        source = opened("write(bytes(8))")
        source.grab()
        source.close()
    assert descriptors() <= before


def test_its_group_keeps_its_number_until_all_is_closed() -> None:
    """It closes its output a moment before it exits: whoever waits for that must not reap it."""
    source = opened("write(bytes(8)); sys.stdout.flush(); os.close(1); time.sleep(0.3); os._exit(0)")
    assert source.grab() is not None
    assert source.grab() is None
    group = source._child._process.pid
    assert os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    source.close()
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT | os.WNOHANG)
