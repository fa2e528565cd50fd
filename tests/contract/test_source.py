"""Every source that opens on any machine keeps the promises of `ports.Source`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edgerun.capture.camera import CameraSource
from edgerun.capture.stamp import draw_stamp, read_stamp
from edgerun.errors import Closed
from edgerun.ports import Incoming, Source, SourceContext
from edgerun.registry import BUILTIN, resolve
from edgerun.slot import Slot
from edgerun.types import NOT_YET, Grab, View
from edgerun.wake import Wake
from tests.capture.scenes import context, write_pictures, write_video
from tests.contract.test_sample_source import OPENERS as OF_SAMPLES
from tests.emulators import start

Opener = Callable[[SourceContext], Source]


def _source(kind: str, **options: object) -> Opener:
    plug_in = resolve("source", kind)
    return lambda ctx: plug_in(plug_in.options(**options), ctx)


@contextmanager
def _camera(emulator: str, kind: str) -> Iterator[Opener]:
    with start(emulator, "--fps", 50, "--size", "160x96") as camera:
        yield _source(kind, url=camera.url)


@contextmanager
def _first_v4l2() -> Iterator[Opener]:
    nodes = sorted(Path("/dev/v4l/by-id").glob("*index0")) if Path("/dev/v4l/by-id").is_dir() else []
    if not nodes:
        pytest.skip("this device has no V4L2 camera")
    yield lambda ctx: CameraSource(CameraSource.options(device=str(nodes[0])), ctx)


class _Requests:
    """A broker with somebody behind it who sends a numbered picture fifty times a second."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []

    def subscribe(self, topic_filter: str, inbox: Slot[Incoming], qos: int = 1, *, as_published: bool = False) -> None:
        self._threads.append(threading.Thread(target=self._send, args=(topic_filter, inbox)))
        self._threads[-1].start()

    def _send(self, topic: str, inbox: Slot[Incoming]) -> None:
        number = 0
        while not self._done.wait(0.02):
            image = np.full((96, 160, 3), 90, np.uint8)
            draw_stamp(image, number, 0)
            try:
                inbox.put(Incoming(topic, cv2.imencode(".png", image)[1].tobytes(), 1, False))
            except Closed:
                return
            number += 1

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def _requests() -> Iterator[Opener]:
    broker, plug_in = _Requests(), resolve("source", "mqtt")
    yield lambda ctx: plug_in(plug_in.options(topic="t"), msgspec.structs.replace(ctx, broker=broker))
    broker.stop()


def _openers(folder: Path) -> dict[str, Callable[[], AbstractContextManager[Opener]]]:
    return {
        "camera": _first_v4l2,
        "stream": lambda: _camera("rtsp", "stream"),
        "mjpeg": lambda: _camera("mjpeg", "mjpeg"),
        "file": lambda: nullcontext(_source("file", path=str(write_video(folder / "v.avi", 30, fps=50.0)))),
        "images": lambda: nullcontext(
            _source("images", path=str(write_pictures(folder / "p", [f"{i}.jpg" for i in range(12)])))
        ),
        "synthetic": lambda: nullcontext(_source("synthetic", size=(160, 96), fps=50.0)),
        "mqtt": _requests,
    }


KINDS = tuple(kind for kind in BUILTIN["source"] if kind not in OF_SAMPLES)


@pytest.fixture(scope="module", params=KINDS)
def opener(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    with _openers(tmp_path_factory.mktemp(request.param))[request.param]() as opened:
        yield opened


@pytest.fixture
def source(opener: Opener) -> Iterator[Source]:
    opened = opener(context())
    yield opened
    opened.close()


def test_frames_come_in_order_with_times_that_do_not_run_back(source: Source) -> None:
    grabs = []
    numbers = []
    for _ in range(8):
        grab = source.grab()
        assert grab is not None
        grabs.append(grab.captured_ns)
        stamp = read_stamp(source.retrieve(None))
        if stamp is not None:  # a real camera has none
            numbers.append(stamp[0])
    assert grabs == sorted(grabs)
    assert numbers == list(range(numbers[0], numbers[0] + 8)) if numbers else True


def test_capture_times_are_monotonic_now_not_future(source: Source) -> None:
    clock = context().clock
    before = clock.mono_ns()
    source.grab()  # the first may have been waiting
    grab = source.grab()
    assert grab is not None
    assert before - 1_000_000_000 <= grab.captured_ns <= clock.mono_ns()


def test_retrieve_gives_a_contiguous_bgr_array_of_its_own(source: Source) -> None:
    source.grab()
    first = source.retrieve(None)
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    assert first.flags.c_contiguous
    kept = first.copy()
    source.grab()
    source.retrieve(None)
    assert np.array_equal(first, kept)


def test_retrieve_reuses_out_when_it_fits_and_only_then(source: Source) -> None:
    source.grab()
    shape = source.retrieve(None).shape
    out = np.zeros(shape, np.uint8)
    source.grab()
    assert source.retrieve(out) is out
    assert out.any()
    source.grab()
    wrong = np.zeros((7, 5, 3), np.uint8)
    assert source.retrieve(wrong).shape == shape
    assert not wrong.any()
    source.grab()
    strided = np.zeros((shape[0], shape[1] * 2, 3), np.uint8)[:, ::2]
    assert source.retrieve(strided).flags.c_contiguous


def test_a_grab_need_not_be_retrieved(source: Source) -> None:
    for _ in range(5):
        assert source.grab() is not None
    assert source.retrieve(None).size


def test_stop_ends_the_data(opener: Opener) -> None:
    stop = threading.Event()
    opened = opener(context(stop=stop))
    assert opened.grab() is not None
    stop.set()
    assert opened.grab() is None
    opened.close()


def test_stop_ends_a_wait_of_another_thread(opener: Opener) -> None:
    stop = threading.Event()
    ended = threading.Event()
    started = threading.Event()

    def body() -> None:
        opened = opener(context(stop=stop))
        while opened.grab() is not None:
            started.set()
        opened.close()
        ended.set()

    thread = threading.Thread(target=body)
    thread.start()
    assert started.wait(20)
    stop.set()
    assert ended.wait(20)
    thread.join()


@pytest.fixture
def wake() -> Iterator[Wake]:
    made = Wake()
    yield made
    made.close()


def _held_until_not_yet(source: Source) -> int:
    """Grab until nothing more is there; returns how many frames came."""
    clock = context().clock
    assert source.grab() is not None
    count = 1
    while (grab := source.grab(clock.mono_ns())) is not NOT_YET:
        assert grab is not None
        count += 1
    return count


def test_a_held_frame_can_be_retrieved_after_not_yet(source: Source) -> None:
    if not source.holds:
        pytest.skip("this source does not hold an undecoded frame")
    grab = source.grab()
    assert grab is not None
    newest = source.retrieve(None)
    while (later := source.grab(context().clock.mono_ns())) is not NOT_YET:
        assert later is not None
        newest = source.retrieve(None)
    assert np.array_equal(source.retrieve(None), newest)
    assert source.grab() is not NOT_YET  # without a time it waits


def test_a_source_that_does_not_hold_ignores_until(source: Source) -> None:
    if source.holds:
        pytest.skip("this source holds")
    assert isinstance(source.grab(0), Grab)
    assert source.grab(0) is not NOT_YET


def test_wake_ends_a_wait_and_the_frame_is_still_there(opener: Opener, wake: Wake) -> None:
    opened = opener(context(wake=wake))
    if not opened.holds:
        opened.close()
        pytest.skip("this source does not hold an undecoded frame")
    far = context().clock.mono_ns() + 3_600_000_000_000
    _held_until_not_yet(opened)
    kept = opened.retrieve(None)
    wake.set()
    while (grab := opened.grab(far)) is not NOT_YET:  # frames that came meanwhile are given first
        assert grab is not None
        kept = opened.retrieve(None)
    assert np.array_equal(opened.retrieve(None), kept)
    wake.clear()
    assert opened.grab(far) not in (None, NOT_YET)
    opened.close()


def test_stop_with_wake_ends_a_wait_for_good(opener: Opener, wake: Wake) -> None:
    stop, far = threading.Event(), context().clock.mono_ns() + 3_600_000_000_000
    opened = opener(context(stop=stop, wake=wake))
    assert opened.grab() is not None
    ended: list[Grab | None] = []

    def body() -> None:
        while (grab := opened.grab(far)) is not None:
            ended[:] = [grab]
        ended[:] = [None]

    thread = threading.Thread(target=body)
    thread.start()
    stop.set()
    wake.set()
    thread.join(20)
    assert not thread.is_alive()
    assert ended == [None]
    opened.close()


def test_views_and_the_size_as_captured(source: Source) -> None:
    source.grab()
    whole = source.retrieve(None)
    size = (whole.shape[1], whole.shape[0])
    assert source.frame_size == size
    for enough in ((1, 1), (size[0] // 4, 1), (1, size[1] // 2), size, (size[0] * 2, 1)):
        picture = source.retrieve(None, View(enough)) if source.holds else whole
        assert picture.shape[2] == 3
        assert picture.shape[1] >= min(enough[0], size[0])
        assert picture.shape[0] >= min(enough[1], size[1])
        assert source.frame_size == size
    if source.holds:
        grey = source.retrieve(None, View(enough=(8, 8), grey=True))
        assert grey.ndim == 2
        assert source.frame_size == size
        out = np.zeros(grey.shape, np.uint8)
        assert source.retrieve(out, View(enough=(8, 8), grey=True)) is out
        assert np.array_equal(out, grey)


def test_close_is_idempotent(opener: Opener) -> None:
    opened = opener(context())
    opened.close()
    opened.close()


def test_options_refuse_unknown_keys() -> None:
    import msgspec

    for kind in KINDS:
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            msgspec.convert({"colour": 1}, resolve("source", kind).options)
