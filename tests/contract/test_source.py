"""Every source that opens on any machine keeps the promises of `ports.Source`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from edgerun.capture.camera import CameraSource
from edgerun.capture.stamp import read_stamp
from edgerun.ports import Source, SourceContext
from edgerun.registry import BUILTIN, resolve
from tests.capture.scenes import context, write_pictures, write_video
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
    }


KINDS = tuple(BUILTIN["source"])


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


def test_close_is_idempotent(opener: Opener) -> None:
    opened = opener(context())
    opened.close()
    opened.close()


def test_options_refuse_unknown_keys() -> None:
    import msgspec

    for kind in KINDS:
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            msgspec.convert({"colour": 1}, resolve("source", kind).options)
