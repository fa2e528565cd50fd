"""Every source of samples that opens on any machine keeps the promises of `ports.Source`, with windows for pictures."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import wave
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgerun.capture.command import CommandSource
from edgerun.capture.csv_file import CsvSource
from edgerun.capture.iio import IioSource
from edgerun.capture.microphone import MicrophoneSource
from edgerun.capture.serial_port import SerialSource
from edgerun.capture.wav import WavSource
from edgerun.ports import Source, SourceContext
from edgerun.types import Grab
from edgerun.wake import Wake
from tests.capture.scenes import context

Opener = Callable[[SourceContext], Source]
SIZE, HOP, CHANNELS = 8, 3, 2
WINDOW = {"window_samples": SIZE, "hop_samples": HOP}
COUNTER = """
import itertools, struct, sys
for n in itertools.count():
    sys.stdout.buffer.write(struct.pack("<2h", n % 30000, -(n % 30000)))
    sys.stdout.flush()
"""


def _csv(folder: Path) -> AbstractContextManager[Opener]:
    path = folder / "s.csv"
    path.write_text("".join(f"{n},{-n}\n" for n in range(4000)))
    return nullcontext(lambda ctx: CsvSource(CsvSource.options(path=str(path), rate_hz=1000.0, **WINDOW), ctx))


def _wav(folder: Path) -> AbstractContextManager[Opener]:
    path = folder / "s.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 1000, 0, "NONE", ""))
        file.writeframes(np.stack([np.arange(4000), -np.arange(4000)], 1).astype("<i2").tobytes())
    return nullcontext(lambda ctx: WavSource(WavSource.options(path=str(path), channels="all", **WINDOW), ctx))


def _iio(folder: Path) -> AbstractContextManager[Opener]:
    device = folder / "sys/bus/iio/devices/iio:device0"
    device.mkdir(parents=True)
    (device / "name").write_text("adc\n")
    for channel in ("voltage0", "voltage1"):
        (device / f"in_{channel}_raw").write_text("7\n")
    options = IioSource.options(
        device="adc", channels=("voltage0", "voltage1"), rate_hz=500.0, root=str(folder), **WINDOW
    )
    return nullcontext(lambda ctx: IioSource(options, ctx))


def _command(folder: Path) -> AbstractContextManager[Opener]:
    options = CommandSource.options(command=(sys.executable, "-c", COUNTER), channels=2, dtype="int16", **WINDOW)
    return nullcontext(lambda ctx: CommandSource(options, ctx))


@contextmanager
def _serial(folder: Path) -> Iterator[Opener]:
    """A sensor that goes on sending, whoever listens."""
    sensor, port = os.openpty()
    os.set_blocking(sensor, False)
    done = threading.Event()

    def send() -> None:
        number = 0
        while not done.wait(0.002):
            with suppress(BlockingIOError):
                os.write(sensor, b"%d,%d\n" % (number, -number))
                number += 1

    thread = threading.Thread(target=send)
    thread.start()
    options = SerialSource.options(device=os.ttyname(port), channels=2, **WINDOW)
    yield lambda ctx: SerialSource(options, ctx)
    done.set()
    thread.join()
    os.close(sensor)
    os.close(port)


@contextmanager
def _microphone(folder: Path) -> Iterator[Opener]:
    if shutil.which("arecord") is None:
        pytest.skip("arecord is not installed (apt-get install alsa-utils)")
    sound = folder / "in.raw"
    sound.write_bytes(np.arange(200_000, dtype="<i2").tobytes())
    device = f'pcm.recorded {{ type file; slave.pcm null; file /dev/null; format raw; infile "{sound}" }}\n'
    (folder / ".asoundrc").write_text(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        yield lambda ctx: MicrophoneSource(MicrophoneSource.options(device="recorded", channels=2, **WINDOW), ctx)


OPENERS = {
    "csv": _csv, "wav": _wav, "iio": _iio, "exec": _command, "serial": _serial, "microphone": _microphone,
}  # fmt: skip
CLASSES = (CsvSource, WavSource, IioSource, CommandSource, SerialSource, MicrophoneSource)


@pytest.fixture(scope="module", params=OPENERS)
def opener(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    with OPENERS[request.param](tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


@pytest.fixture
def source(opener: Opener) -> Iterator[Source]:
    opened = opener(context())
    yield opened
    opened.close()


def test_windows_come_in_order_and_overlap_by_all_but_the_hop(source: Source) -> None:
    times, windows, gaps = [], [], []
    for _ in range(6):
        grab = source.grab()
        assert grab is not None
        times.append(grab.captured_ns)
        gaps.append(grab.gap)
        windows.append(source.retrieve(None))
    assert times == sorted(times)
    for before, after, gap in zip(windows, windows[1:], gaps[1:], strict=False):
        if not gap:
            assert np.array_equal(before[HOP:], after[: SIZE - HOP])


def test_capture_times_are_monotonic_now_not_future(source: Source) -> None:
    clock = context().clock
    source.grab()
    before = clock.mono_ns()
    grab = source.grab()
    assert grab is not None
    assert before - 1_000_000_000 <= grab.captured_ns <= clock.mono_ns()


def test_a_window_is_float32_of_the_size_it_says(source: Source) -> None:
    source.grab()
    window = source.retrieve(None)
    assert (window.dtype, window.shape) == (np.float32, (SIZE, CHANNELS))
    assert source.frame_size == (CHANNELS, SIZE)
    assert window.flags.c_contiguous
    kept = window.copy()
    source.grab()
    source.retrieve(None)
    assert np.array_equal(window, kept)


def test_retrieve_uses_out_when_it_fits_and_may_be_repeated(source: Source) -> None:
    source.grab()
    out = np.zeros((SIZE, CHANNELS), np.float32)
    assert source.retrieve(out) is out
    assert np.array_equal(source.retrieve(None), out)
    wrong = np.zeros((SIZE, CHANNELS), np.uint8)
    assert source.retrieve(wrong).shape == out.shape
    assert not wrong.any()


def test_a_grab_need_not_be_retrieved_and_until_is_ignored(source: Source) -> None:
    assert not source.holds
    for _ in range(5):
        assert isinstance(source.grab(0), Grab)
    assert source.retrieve(None).size


@pytest.mark.parametrize("with_wake", [False, True])
def test_stop_ends_the_data_and_a_wait_of_another_thread(opener: Opener, with_wake: bool) -> None:
    stop, started, ended = threading.Event(), threading.Event(), threading.Event()
    wake = Wake() if with_wake else None

    def body() -> None:
        opened = opener(context(stop=stop, wake=wake))
        while opened.grab() is not None:
            started.set()
        assert opened.grab() is None
        opened.close()
        ended.set()

    thread = threading.Thread(target=body)
    thread.start()
    assert started.wait(20)
    stop.set()
    if wake is not None:
        wake.set()
    assert ended.wait(20)
    thread.join()
    if wake is not None:
        wake.close()


def test_close_is_idempotent_and_leaves_no_descriptor(opener: Opener) -> None:
    opener(context()).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        opened = opener(context())
        opened.grab()
        opened.close()
        opened.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_options_refuse_unknown_keys() -> None:
    for kind in CLASSES:
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            msgspec.convert({"colour": 1, "window_samples": 1}, kind.options)
