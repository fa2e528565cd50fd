"""Live pictures: nothing is done for nobody, one picture is encoded for all, and no viewer holds a result up."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest

from edgerun.clock import FakeClock
from edgerun.types import Answer, Detection, Image, Lease, ModelInfo, Publication, Result, Stamp
from edgerun.web.live import LiveOptions, LiveView
from edgerun.web.overlay import Overlay, Shapes
from edgerun.web.server import Deferred


class Studio:
    """A live view with its pictures counted."""

    def __init__(self, **options: float) -> None:
        self.clock = FakeClock()
        self.painted: list[tuple[tuple[int, ...], int]] = []
        self.new = threading.Event()
        self.live = LiveView(self.clock, LiveOptions(**options), self.paint, self.new.set)  # type: ignore[arg-type]

    def paint(self, image: Image, publication: Publication, others: Sequence[Answer]) -> None:
        self.painted.append((image.shape, len(others)))
        image[:4] = 255

    def show(self, seconds: float = 1.0, *, stream: str = "dock", model: str = "m", width: int = 640) -> Lease:
        """One result, `seconds` after the last; the publish thread's own hold of its lease is given back."""
        self.clock.advance(seconds)
        given_back: list[Image] = []
        lease = Lease(np.full((width * 3 // 4, width, 3), 90, np.uint8), given_back.append)
        result = Result(
            Stamp(stream, 0, self.clock.mono_ns(), 0.0), Answer(detections=()), ModelInfo(model, "1", "cpu"),
            (width, width * 3 // 4), {}, {}, lease=lease,
        )  # fmt: skip
        self.live.publish(Publication(result, "x-1", 10.0))
        lease.release()
        self.given_back = given_back
        return lease


@pytest.fixture
def studio() -> Studio:
    return Studio()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass in 30 s"
        threading.Event().wait(0.005)


def test_for_nobody_nothing_is_done(studio: Studio) -> None:
    assert not studio.live.looked_at("dock")
    studio.show()
    assert len(studio.given_back) == 1
    assert studio.live._thread is None
    studio.live.close()


def test_a_viewer_gets_each_picture_when_it_is_ready_for_it(studio: Studio) -> None:
    viewer = studio.live.watch("dock")
    assert viewer.take() == b"--edgerun-frame\r\n"
    assert not studio.live.looked_at("dock")
    assert viewer.take() is None
    assert studio.live.looked_at("dock")
    assert not studio.live.looked_at("gate")
    studio.show(stream="gate")
    studio.show()
    assert studio.new.wait(30)
    until(lambda: bool(studio.given_back))
    part = viewer.take()
    assert part is not None
    head, _, rest = part.partition(b"\r\n\r\n")
    assert b"Content-Type: image/jpeg" in head
    assert rest.endswith(b"\r\n--edgerun-frame\r\n")
    picture = cv2.imdecode(np.frombuffer(rest, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (480, 640, 3)
    assert picture[1, 100].min() > 240
    assert abs(int(picture[200, 100, 0]) - 90) < 6
    # It has it in hand: for a viewer that does not take it nothing more is made.
    assert not studio.live.looked_at("dock")
    studio.show()
    assert len(studio.painted) == 1
    viewer.close()
    assert studio.live.viewers == 0
    studio.live.close()


def test_a_picture_is_made_once_for_all(studio: Studio) -> None:
    viewers = [studio.live.watch("dock") for _ in range(50)]
    for viewer in viewers:
        viewer.take()
        assert viewer.take() is None
    studio.show()
    assert studio.new.wait(30)
    parts = [viewer.take() for viewer in viewers]
    assert all(part is parts[0] for part in parts)
    assert len(studio.painted) == 1
    studio.live.close()


def test_the_rate_is_capped_on_average(studio: Studio) -> None:
    viewer = studio.live.watch("dock")
    viewer.take()
    for n in range(100):  # ten seconds at ten a second, and eight may be shown
        assert viewer.take() is None
        studio.new.clear()
        before_ns = studio.live._streams["dock"].due_ns
        studio.show(0.1)
        if studio.live._streams["dock"].due_ns != before_ns:  # it is to be shown
            assert studio.new.wait(30), n
            assert viewer.take()
    assert 78 <= len(studio.painted) <= 82
    studio.live.close()


def test_a_newer_result_takes_the_place_of_one_that_waits() -> None:
    hold, begun = threading.Event(), threading.Event()

    class Slow(Studio):
        def paint(self, image: Image, publication: Publication, others: Sequence[Answer]) -> None:
            begun.set()
            assert hold.wait(30)
            super().paint(image, publication, others)

    studio = Slow()
    viewer = studio.live.watch("dock")
    viewer.take()
    viewer.take()
    studio.show()
    assert begun.wait(30)
    leases = []
    for _ in range(3):
        studio.show()
        leases.append(studio.given_back)
    assert [len(one) for one in leases] == [1, 1, 0]  # the newest waits, the others were given back at once
    hold.set()
    until(lambda: len(studio.painted) == 2)
    assert len(leases[2]) == 1
    studio.live.close()


def test_a_snapshot_is_the_next_picture(studio: Studio) -> None:
    asked: list[Deferred] = [studio.live.snapshot("dock"), studio.live.snapshot("dock")]
    assert studio.live.looked_at("dock")
    studio.show(0.0)
    until(lambda: all(one.ready is not None for one in asked))
    for one in asked:
        assert one.ready is not None
        assert one.ready.body.startswith(b"\xff\xd8")
    assert not studio.live.looked_at("dock")
    studio.live.close()


def test_pictures_are_as_wide_as_is_allowed(studio: Studio) -> None:
    for width, shown in ((1920, 960), (640, 640), (320, 480)):
        studio.live.snapshot("dock")
        studio.new.clear()
        studio.show(width=width)
        assert studio.new.wait(30)
        assert studio.painted[-1][0][1] == shown
    studio.live.close()


def test_what_a_streams_other_models_found_is_drawn_too(studio: Studio) -> None:
    viewer = studio.live.watch("dock")
    viewer.take()
    for number, (seconds, model, others) in enumerate(((1.0, "faces", 0), (0.2, "cars", 1), (5.0, "cars", 0)), 1):
        assert viewer.take() is None
        studio.new.clear()
        studio.show(seconds, model=model)
        assert studio.new.wait(30)  # behind the painting the picture is still to be encoded
        assert len(studio.painted) == number
        assert studio.painted[-1][1] == others
        assert viewer.take()
    studio.live.close()


def test_a_stream_whose_picture_is_taken_to_be_drawn_is_looked_at_all_the_time(studio: Studio) -> None:
    """Its viewer has not taken a picture yet, so every result that comes is for it."""
    live = studio.live
    live._thread = threading.Thread(target=lambda: None)  # the test itself takes what it would
    live._thread.start()
    viewer = live.watch("dock")
    viewer.take()
    assert viewer.take() is None
    studio.show()
    _, job = live._take() or pytest.fail("nothing waits")
    done = threading.Event()
    unseen: list[bool] = []

    def look() -> None:
        while not done.is_set():
            if not live.looked_at("dock"):
                unseen.append(True)

    looking = [threading.Thread(target=look) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in looking:
        thread.start()
    try:
        for _ in range(200_000):
            live._streams["dock"].next = job
            assert live._take() == ("dock", job)
    finally:
        done.set()
        sys.setswitchinterval(before)
        for thread in looking:
            thread.join()
    job[0].release()
    live.close()
    assert not unseen


def test_streams_are_drawn_in_turn() -> None:
    hold, begun = threading.Event(), threading.Event()
    drawn: list[str] = []

    class Slow(Studio):
        def paint(self, image: Image, publication: Publication, others: Sequence[Answer]) -> None:
            begun.set()
            assert hold.wait(30)
            drawn.append(publication.result.stamp.stream)

    studio = Slow()
    viewers = [studio.live.watch(name) for name in ("dock", "gate", "yard")]
    for viewer in viewers:
        viewer.take()
        assert viewer.take() is None
    studio.show(stream="dock")
    assert begun.wait(30)
    for name in ("dock", "gate", "yard", "dock"):
        studio.show(stream=name)
    hold.set()
    until(lambda: len(drawn) == 4)
    assert drawn == ["dock", "gate", "yard", "dock"]
    studio.live.close()


def test_what_waits_at_the_end_is_given_back() -> None:
    hold, begun = threading.Event(), threading.Event()

    class Slow(Studio):
        def paint(self, image: Image, publication: Publication, others: Sequence[Answer]) -> None:
            begun.set()
            assert hold.wait(30)

    studio = Slow()
    studio.live.snapshot("dock")
    studio.show()
    assert begun.wait(30)
    studio.show()
    left = studio.given_back
    threading.Timer(0.0, hold.set).start()
    studio.live.close()
    studio.live.close()
    assert len(left) == 1
    studio.show()
    assert len(studio.given_back) == 1


def test_zones_names_and_ways_are_drawn_and_wild_corners_do_no_harm() -> None:
    shapes = Shapes({"door": ((0.1, 0.1), (0.9, 0.1), (0.5, 0.9)), "far": ((-9.0, -9.0), (9.0, -9.0), (0.5, 9.0))})
    overlay, image = Overlay(shapes), np.zeros((240, 320, 3), np.uint8)
    for n in range(40):
        box = (0.01 * n, 0.2, 0.01 * n + 0.1, 0.8)
        one = Detection("person", 0, 0.9, box, track=7, zones=("door",))
        overlay.draw(image, Answer(detections=(one,)), n * 100_000_000)
    assert image[round(0.8 * 239), 60:140].any()
    assert len(overlay._trails[7][1]) == 24
    overlay.draw(image, Answer(detections=()), 60_000_000_000)
    assert not overlay._trails
