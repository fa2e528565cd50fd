"""In the steady state nothing the size of a picture or tensor is allocated, from the camera's socket to the result."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import pytest

from edgerun.app import App
from edgerun.cli.flags import options_of
from edgerun.clock import SystemClock
from edgerun.config import RunOptions, build
from edgerun.pipeline.notice import NoticeBoard
from edgerun.pipeline.pool import BufferPool
from edgerun.types import Image, Publication
from tests import emulators
from tests.test_end_to_end import DETECTOR

WARM_UP, WATCHED = 60, 150


class Watch:
    """A sink that measures, between two results, the most memory that Python and numpy held beyond what they keep."""

    wants_picture = False
    broken = False

    def __init__(self) -> None:
        self.done = threading.Event()
        self.peak_bytes = 0
        self.grown_bytes = 0
        self.picture_bytes = 0
        """Of the pictures as they are decoded here, which is at half the camera's size or so."""
        self.new_buffers = 0
        """Pictures that the pool of buffers did not have yet: it keeps them, and has four at most."""
        self._seen = 0
        self._before = 0
        self._watches = False

    def publish(self, publication: Publication) -> None:
        self._seen += 1
        if self._seen == WARM_UP:
            tracemalloc.start()
        elif self._seen == 2 * WARM_UP:
            self._before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            self._watches = True
        elif self._seen == 2 * WARM_UP + WATCHED:
            self._watches = False
            now, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.peak_bytes, self.grown_bytes = peak - self._before, now - self._before
            self.done.set()

    def took(self, buffer: Image | None) -> None:
        if buffer is not None:
            self.picture_bytes = buffer.nbytes
        else:
            self.new_buffers += self._watches

    def flush(self, timeout_s: float) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def decoder_in_place() -> None:
    pytest.importorskip("simplejpeg", reason="without simplejpeg OpenCV decodes each JPEG into a new array")


def run(source: str, watch: Watch, **stream: Any) -> None:
    config = build(
        {
            "models": {"detector": {"path": str(DETECTOR), "threads": 1}},
            "streams": {"main": {"source": source, "model": "detector", "max_age_ms": 60_000, **stream}},
        },
        options_of,
    )
    app = App(config, RunOptions(console=False), SystemClock(), NoticeBoard(), "0123abcd", observers=[watch])
    try:
        app.start()
        while not watch.done.wait(0.2):  # the test's own time-out ends a run that gives nothing
            app.tick()
    finally:
        app.stop(10)
        app.close()


@pytest.mark.parametrize(
    "stream",
    [
        {},
        {"gate": {"motion": 1e-6, "hold_s": 3600}},
        {"privacy": {"mask": [[[0, 0], [0.2, 0], [0, 0.2]]]}, "region": [0, 0, 1, 0.9]},
    ],
    ids=["plain", "gate", "mask"],
)
def test_no_array_is_allocated_for_a_frame(stream: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoded picture is 330 kB or more here, the model's input 270 kB, its outputs 80 kB, a JPEG 60 kB."""
    watch, take = Watch(), BufferPool.take

    def watched(pool: BufferPool) -> Image | None:
        buffer = take(pool)
        watch.took(buffer)
        return buffer

    monkeypatch.setattr(BufferPool, "take", watched)
    with emulators.start("mjpeg", "--fps", 60, "--size", "768x576") as camera:
        run(camera.url, watch, **stream)
    assert watch.new_buffers <= 3, "a busy moment may have more in use than the warm-up had"
    kept_bytes = watch.new_buffers * watch.picture_bytes
    assert watch.peak_bytes < 60_000 + kept_bytes
    assert watch.grown_bytes < 40_000 + kept_bytes
