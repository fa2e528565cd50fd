"""Snapshots: what leaves, when, and above all what does not; through a real broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import cv2
import msgspec
import numpy as np
import pytest

from edgerun.broker.connection import Connection
from edgerun.clock import FakeClock
from edgerun.errors import ConfigError
from edgerun.publish.snapshot import ASKED_FOR_S, REMEMBERED_S, OldSnapshots, SnapshotPlan, Snapshots
from edgerun.scene.blur import blur
from edgerun.types import Answer, Box, Hidden, Image, Lease, Publication
from tests import mosquitto
from tests.broker.parts import DEVICE, connection
from tests.publish.samples import CAR, PERSON, publication

ROOT = f"edgerun/{DEVICE}"
TOPIC = f"{ROOT}/snapshot/dock"
NOTHING = Answer(detections=())
ALWAYS = SnapshotPlan(on="always", every_s=1.0)


@pytest.fixture(scope="module")
def broker() -> Iterator[mosquitto.Broker]:
    with mosquitto.broker() as made:
        yield made


@pytest.fixture
def link(broker: mosquitto.Broker) -> Iterator[Connection]:
    with connection(broker.url) as made:
        mosquitto.wait_until(lambda: made.connected)
        yield made
        made.publish(TOPIC, b"", qos=1, retain=True)
        made.flush(60)


class Bench:
    """Snapshots of the stream "dock", a clock that is turned by hand, and the leases that it has not given back."""

    def __init__(self, link: Connection, **plan: object) -> None:
        self.clock = FakeClock()
        self.lent = 0
        self.link = link
        self.made = Snapshots({"dock": msgspec.structs.replace(ALWAYS, **plan)}, link, ROOT, self.clock)

    def give(self, answer: Answer | None = None, image: Image | None = None, **more: object) -> None:
        """One result, published as the pipeline does it: the picture is lent, and taken back after the call."""
        plain = publication(1, answer, image=picture() if image is None else image)
        self.lent += 1
        lease = Lease(plain.result.lease.image, self._returned)  # type: ignore[union-attr]
        result = msgspec.structs.replace(plain.result, **{"lease": lease, **more})
        self.made.publish(Publication(result, plain.id, plain.age_ms))
        lease.release()

    def taken(self) -> int:
        self.made.flush(60)
        return self.made.stats().taken

    def close(self) -> None:
        self.made.close()
        assert not self.lent, "a picture was not given back"

    def _returned(self, image: Image) -> None:
        self.lent -= 1


@pytest.fixture
def bench(link: Connection, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(link, **getattr(request, "param", {}))
    yield made
    made.close()


def picture(width: int = 320, height: int = 240) -> Image:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def heard(seen: mosquitto.Subscriber, count: int) -> list[Image]:
    """The pictures that came, decoded."""
    messages = seen.wait(lambda all_of_them: len(all_of_them) >= count)
    assert len(messages) == count
    return [cv2.imdecode(np.frombuffer(one.payload, np.uint8), cv2.IMREAD_COLOR) for one in messages]


def test_a_picture_is_a_retained_jpeg_of_its_own_with_boxes(broker: mosquitto.Broker, bench: Bench) -> None:
    plain = np.full((600, 1280, 3), 90, np.uint8)
    with mosquitto.subscriber(broker, TOPIC) as seen:
        bench.give(image=plain)
        (got,) = heard(seen, 1)
        (message,) = seen.messages
    assert got.shape == (300, 640, 3)
    x0, y0, _, y1 = (round(one * size) for one, size in zip(PERSON.box, (639, 299, 639, 299), strict=True))
    edge = got[(y0 + y1) // 2, x0 - 2 : x0 + 3].astype(int)
    assert np.abs(edge - 90).max() > 40, "the left edge of the person's box is drawn"
    assert (plain == 90).all(), "into a picture of its own"
    assert b"Exif" not in message.payload
    assert b"edgerun" not in message.payload
    with mosquitto.subscriber(broker, TOPIC) as later:
        (kept,) = later.wait(len)
    assert kept.retain
    assert kept.qos == 0
    assert kept.payload == message.payload


@pytest.mark.parametrize("bench", [{"boxes": False, "quality": 95}], indirect=True)
def test_without_boxes_it_is_what_the_camera_saw(broker: mosquitto.Broker, bench: Bench) -> None:
    smooth = cv2.resize(picture(8, 6), (320, 240), interpolation=cv2.INTER_CUBIC)
    with mosquitto.subscriber(broker, TOPIC) as seen:
        bench.give(image=smooth)
        (got,) = heard(seen, 1)
    assert got.shape == smooth.shape
    assert np.abs(got.astype(int) - smooth).mean() < 3


@pytest.mark.parametrize(
    ("on", "wanted"),
    [
        ("always", [1, 1, 1]),
        ("any", [0, 1, 1]),
        (("person",), [0, 0, 1]),
        (("car", "person"), [0, 1, 1]),
        ((), [0, 0, 0]),
    ],
)
def test_when_one_is_taken(link: Connection, on: object, wanted: Sequence[int]) -> None:
    bench = Bench(link, on=on)
    counts = [0]
    for answer in (NOTHING, Answer(detections=(CAR,)), Answer(detections=(PERSON, CAR))):
        bench.clock.advance(1.0)
        bench.give(answer)
        counts.append(bench.taken())
    assert np.diff(counts).tolist() == wanted
    bench.close()


@pytest.mark.parametrize("bench", [{"every_s": 30.0}], indirect=True)
def test_at_most_one_in_its_time(bench: Bench) -> None:
    for _ in range(100):
        bench.give()
        bench.clock.advance(1.0)
    assert bench.taken() == 4


def test_what_has_no_picture_of_its_own_has_none(bench: Bench) -> None:
    bench.give(crop=CAR)
    bench.give(window=True)
    bench.give(reused="still")
    bench.give(image=np.empty((0, 0, 3), np.uint8))
    plain = publication(1, stream="yard", image=picture())
    bench.made.publish(plain)
    assert bench.taken() == 0
    bench.give()
    assert bench.taken() == 1


@pytest.mark.parametrize("bench", [{"on": ()}], indirect=True)
def test_one_that_is_asked_for_is_the_next_result_s(broker: mosquitto.Broker, bench: Bench) -> None:
    with mosquitto.subscriber(broker, TOPIC) as seen:
        bench.give()
        assert bench.made.ask("dock") == TOPIC
        bench.give(NOTHING)
        bench.give()
        heard(seen, 1)
    assert bench.taken() == 1
    with pytest.raises(ConfigError, match="taken a moment ago"):
        bench.made.ask("dock")
    bench.clock.advance(1.0)
    bench.made.ask("dock")
    with pytest.raises(ConfigError, match="asked for a moment ago"):
        bench.made.ask("dock")
    bench.clock.advance(ASKED_FOR_S + 0.1)
    bench.give()
    assert bench.taken() == 1, "whoever asked is not surprised by it later"


def test_of_a_stream_that_is_not_allowed_none_is_taken(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"do not leave the device.*\[streams\.yard\.snapshot\] allows it"):
        bench.made.ask("yard")


def hidden(*boxes: Box, labels: Sequence[str] = ("person",)) -> Answer:
    return Answer(detections=(), hidden=Hidden(frozenset(labels), boxes))


VEILED = {"hides": frozenset({"person"}), "veil": blur, "boxes": False, "quality": 100}
STRIPES = np.tile(np.array([[0], [255]], np.uint8), (120, 320))[..., None].repeat(3, 2)
"""Every other row is white: what has been averaged is grey."""


def greyed(picture: Image, box: Box) -> bool:
    """Whether the stripes in the box's middle have gone."""
    height, width = picture.shape[:2]
    x, y = round((box[0] + box[2]) / 2 * width), round((box[1] + box[3]) / 2 * height)
    return int(np.abs(np.diff(picture[y - 3 : y + 4, x - 3 : x + 4].astype(int), axis=0)).max()) < 60


A, B = (0.1, 0.1, 0.3, 0.4), (0.6, 0.5, 0.9, 0.9)


@pytest.mark.parametrize("bench", [VEILED], indirect=True)
def test_who_is_to_be_hidden_is_and_for_a_moment_longer(broker: mosquitto.Broker, bench: Bench) -> None:
    with mosquitto.subscriber(broker, TOPIC) as seen:
        bench.give(hidden(A), STRIPES)
        assert bench.taken() == 1
        bench.clock.advance(1.0)
        bench.give(hidden(B), STRIPES)  # A is not seen this time
        assert bench.taken() == 2
        bench.clock.advance(REMEMBERED_S + 0.1)
        bench.give(hidden(), STRIPES)
        first, second, third = heard(seen, 3)
    assert [greyed(first, box) for box in (A, B)] == [True, False]
    assert [greyed(second, box) for box in (A, B)] == [True, True]
    assert [greyed(third, box) for box in (A, B)] == [False, False]


@pytest.mark.parametrize("bench", [VEILED], indirect=True)
def test_without_knowing_what_to_hide_none_leaves(bench: Bench) -> None:
    bench.give(Answer(detections=(PERSON,)))
    bench.give(hidden(A, labels=("car",)))
    bench.made.ask("dock")
    bench.give(Answer(detections=()))
    assert bench.taken() == 0
    bench.give(hidden(labels=("person", "car")))
    assert bench.taken() == 1


class Gate:
    """A veil that waits until it is let go, so that the encoder is busy for as long as a test wants."""

    def __init__(self) -> None:
        self.busy, self.go = threading.Event(), threading.Event()

    def __call__(self, image: Image, boxes: Sequence[Box], seen: Box) -> None:
        self.busy.set()
        assert self.go.wait(90)


def test_while_it_encodes_the_newest_waits_and_nobody_else(broker: mosquitto.Broker, link: Connection) -> None:
    gate = Gate()
    bench = Bench(link, veil=gate, boxes=False)
    with mosquitto.subscriber(broker, TOPIC) as seen:
        for grey in (10, 100, 200):
            bench.give(image=np.full((24, 32, 3), grey, np.uint8))  # returns although nothing is encoded yet
            bench.clock.advance(1.0)
            assert gate.busy.wait(60)
        assert bench.lent == 2, "the one that is encoded, and the newest"
        gate.go.set()
        assert [round(float(one.mean()), -1) for one in heard(seen, 2)] == [10, 200]
    bench.close()
    assert msgspec.structs.asdict(bench.made.stats()) == {"taken": 3, "sent": 2, "superseded": 1, "failed": 0}


def test_what_is_forbidden_meanwhile_does_not_leave(broker: mosquitto.Broker, link: Connection) -> None:
    gate = Gate()
    bench = Bench(link, veil=gate)
    with mosquitto.subscriber(broker, TOPIC) as seen:
        bench.give()
        assert gate.busy.wait(60)
        bench.clock.advance(1.0)
        bench.give()
        bench.made.change({})
        gate.go.set()
        bench.give()
        bench.made.flush(60)
        bench.made.change({"dock": msgspec.structs.replace(ALWAYS, width=16)})
        bench.clock.advance(1.0)
        bench.give()
        (got,) = heard(seen, 1)
    assert got.shape[1] == 16
    assert bench.made.stats().superseded == 2
    bench.close()


def test_a_picture_that_cannot_be_made_costs_itself(
    broker: mosquitto.Broker, link: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(image: Image, boxes: Sequence[Box], seen: Box) -> None:
        raise ValueError("no veil")

    bench = Bench(link, veil=broken)
    bench.give()
    assert bench.taken() == 1
    assert bench.made.stats().failed == 1
    assert "stream dock: a snapshot is lost: ValueError: no veil" in caplog.text
    bench.made.change({"dock": ALWAYS})
    bench.clock.advance(1.0)
    with mosquitto.subscriber(broker, TOPIC) as seen:
        bench.give()
        heard(seen, 1)
    bench.close()


def test_streams_take_turns(broker: mosquitto.Broker, link: Connection) -> None:
    gate = Gate()
    plans = {name: msgspec.structs.replace(ALWAYS, veil=gate) for name in ("a", "b", "c")}
    made = Snapshots(plans, link, ROOT, FakeClock())
    with mosquitto.subscriber(broker, f"{ROOT}/snapshot/#") as seen:
        for name in ("c", "b", "a"):
            made.publish(publication(1, stream=name, image=picture()))
            assert gate.busy.wait(60)
        gate.go.set()
        messages = seen.wait(lambda ms: len(ms) == 3)
    assert sorted(one.topic[-1] for one in messages) == ["a", "b", "c"]
    made.close()
    for name in ("a", "b", "c"):
        link.publish(f"{ROOT}/snapshot/{name}", b"", qos=1, retain=True)


def test_without_a_link_nothing_is_encoded() -> None:
    with mosquitto.broker(start=False) as broker, connection(broker.url) as link:
        bench = Bench(link)
        bench.give()
        assert bench.taken() == 0
        bench.close()


def test_the_broker_forgets_it_in_time(broker: mosquitto.Broker, link: Connection) -> None:
    bench = Bench(link, max_age_s=1.0)
    with mosquitto.subscriber(broker, TOPIC) as seen:
        bench.give()
        heard(seen, 1)

    def is_gone() -> bool:
        """A retained message comes before the answer to the subscription that follows it."""
        with mosquitto.subscriber(broker, TOPIC) as late, mosquitto.subscriber(broker, f"{ROOT}/probe") as probe:
            link.publish(f"{ROOT}/probe", b"x", qos=1)
            probe.wait(len)
            return not late.messages

    mosquitto.wait_until(is_gone, 30, "the picture's end")
    bench.close()


def test_pictures_of_an_earlier_run_are_taken_back(broker: mosquitto.Broker, link: Connection) -> None:
    for stream in ("dock", "yard"):
        link.publish(f"{ROOT}/snapshot/{stream}", b"an old picture", qos=1, retain=True)
    assert link.flush(60)
    old = OldSnapshots(["dock"], link, ROOT)
    with mosquitto.subscriber(broker, f"{ROOT}/snapshot/#") as seen:

        def gone() -> bool:
            old.tick()
            return any(one.topic == TOPIC and not one.payload for one in seen.messages)

        mosquitto.wait_until(gone, 60, "its removal")
    with mosquitto.subscriber(broker, f"{ROOT}/snapshot/#") as late:
        (left,) = late.wait(len)
    assert left.topic.endswith("/yard"), "what may be there stays"
    old.close()
    link.publish(f"{ROOT}/snapshot/yard", b"", qos=1, retain=True)
