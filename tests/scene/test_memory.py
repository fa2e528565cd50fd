"""A stream's memory: made-up scenes counted exactly, and the bundled detector on the bundled street."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import pytest

from edgerun.app.opening import open_model
from edgerun.config import ModelConfig
from edgerun.decode.ssd import SsdAnchorsDecoder
from edgerun.ports import DecoderContext, Scene
from edgerun.scene.memory import SceneMemory
from edgerun.scene.track import TrackOptions
from edgerun.scene.zones import Zone
from edgerun.types import Answer, Box, Classification, Detection, SceneEvent

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)), dwell_s=1.0)


def person(x: float, score: float = 0.9) -> Detection:
    return Detection("person", 1, score, (x - 0.04, 0.4, x + 0.04, 0.8))


def kinds(events: Sequence[SceneEvent]) -> list[str]:
    return [event.kind if event.zone is None else f"{event.kind} {event.zone}" for event in events]


def test_from_appeared_to_lost() -> None:
    """Someone walks from the left half to the right at 0.2 of the picture a second and is gone after 3 s."""
    memory: Scene = SceneMemory(TrackOptions(lost_s=1.0), [LEFT])
    told: list[tuple[int, str]] = []
    for i in range(45):
        found = (person(0.2 + 0.02 * i),) if i < 30 else ()
        seen = memory.observe(Answer(detections=found), i * SECOND // 10)
        told += [(i, what) for what in kinds(seen.events)]
        assert seen.answer.detections is not None
        for one in seen.answer.detections:
            assert (one.track is None) is (i == 0)
            assert one.zones == (("left",) if 1 <= i <= 17 else ())
            assert (one.label, one.score, one.box) == ("person", 0.9, found[0].box)
    assert told == [(1, "appeared"), (1, "entered left"), (11, "dwelled left"), (18, "left left"), (40, "lost")]


def test_lost_inside_a_zone_leaves_it_first() -> None:
    memory = SceneMemory(TrackOptions(lost_s=1.0), [LEFT])
    for i in range(21):
        memory.observe(Answer(detections=(person(0.3),)), i * SECOND // 10)
    seen = memory.observe(Answer(detections=()), 10 * SECOND)
    assert kinds(seen.events) == ["left left", "lost"]
    assert [event.seconds for event in seen.events] == [pytest.approx(1.9), pytest.approx(2.0)]
    assert seen.answer == Answer(detections=())
    assert memory.observe(Answer(detections=()), 11 * SECOND).events == ()


@pytest.mark.parametrize("answer", [Answer(classes=(Classification("cat", 3, 0.9),)), Answer(value=0.5), Answer()])
def test_an_answer_without_detections_passes_untouched(answer: Answer) -> None:
    seen = SceneMemory(TrackOptions(), [LEFT]).observe(answer, 0)
    assert seen.answer is answer
    assert seen.events == ()


def test_weak_detections_are_remembered_but_not_reported() -> None:
    memory = SceneMemory(TrackOptions(high=0.5, lost_s=0.5))
    events: list[SceneEvent] = []
    shown = []
    for i in range(40):
        seen = memory.observe(Answer(detections=(person(0.3, 0.3 if 5 <= i < 35 else 0.8),)), i * SECOND // 10)
        events += seen.events
        shown.append([one.track for one in seen.answer.detections or ()])
    assert kinds(events) == ["appeared"]
    number = events[0].track
    assert shown == [[None]] + [[number]] * 4 + [[]] * 30 + [[number]] * 5


def test_an_answer_that_was_completed_before_is_completed_anew() -> None:
    """A reused answer carries the tracks of when it was made."""
    memory = SceneMemory(TrackOptions(), [LEFT])
    stale = Detection("person", 1, 0.9, person(0.7).box, track=10**9, zones=("left",))
    assert memory.observe(Answer(detections=(stale,)), 0).answer.detections == (person(0.7),)


def test_a_zone_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="zone 'door': a polygon needs at least 3 points"):
        SceneMemory(TrackOptions(), [Zone("door", ((0.1, 0.1), (0.9, 0.9)))])


# The street. Where each of its eight people is (middle of the box), read off the pictures every eighth frame.
EVERY = 8
PEOPLE: dict[str, tuple[int, str]] = {
    "woman in black": (0, "23 66, 18 64, 16 61, 13 56, 9 54, 10 51, 12 47, 16 46, 22 44, 28 44, 32 40, 38 38, 40 37"),
    "blue jacket": (0, "60 50, 50 48, 42 45, 34 42, 25 40, 19 38, 12 37, 6 36, 2 35"),
    "black, jeans": (0, "24 34, 22 34, 23 35, 28 35, 33 38, 36 38, 40 40, 45 41, 48 44, 54 43, 61 43, 66 48, 72 50"),
    "grey jacket": (0, "38 34, 43 36, 47 36, 52 38, 56 40, 62 44, 68 44, 74 46, 80 46, 86 46, 86 44, 84 43, 81 43"),
    "woman in red": (0, "52 31, 56 30, 60 30, 66 29, 70 28, 74 28, 78 25, 80 26, 84 25, 88 25, 91 30, 91 30, 88 30"),
    "red and navy": (0, "69 34, 62 33, 56 31, 51 34, 45 34, 42 36, 38 38, 38 40, 36 42, 33 45, 34 48, 39 50, 46 52"),
    "all in black": (0, "65 34, 69 34, 70 33, 67 34, 65 38, 66 39, 72 42, 75 42, 72 38, 66 36, 61 38, 56 40, 46 38"),
    "from the right": (16, "96 46, 87 45, 80 44, 75 43, 70 42, 62 40, 56 40, 48 39, 42 38, 36 38, 34 36"),
}


def whereabouts(frame: int) -> dict[str, tuple[float, float]]:
    found = {}
    for name, (first, text) in PEOPLE.items():
        points = [tuple(int(number) / 100 for number in point.split()) for point in text.split(",")]
        at, share = divmod(frame - first, EVERY)
        if 0 <= at < len(points) - 1:
            (x0, y0), (x1, y1) = points[at], points[at + 1]
            found[name] = (x0 + (x1 - x0) * share / EVERY, y0 + (y1 - y0) * share / EVERY)
    return found


def who(frame: int, box: Box) -> str | None:
    """Whose box it is; None where two people are so close that nobody could say."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    far = sorted((abs(x - px) / 0.03 + abs(y - py) / 0.06, name) for name, (px, py) in whereabouts(frame).items())
    clear = far and far[0][0] < 1.7 and (len(far) == 1 or far[1][0] > far[0][0] + 0.5)
    return far[0][1] if clear else None


@pytest.fixture(scope="module")
def street() -> list[tuple[Detection, ...]]:
    """Every frame's detections, down to scores that are no use by themselves."""
    model = open_model(ModelConfig(path=ROOT / "models" / "ssd-mobilenet-v2-oid", threads=1))
    decoder = SsdAnchorsDecoder(
        msgspec.convert(dict(model.bundle.decoder_options), SsdAnchorsDecoder.options),
        DecoderContext(model.engine.inputs, model.engine.outputs, model.bundle.labels or (), threshold=0.3),
    )
    film = cv2.VideoCapture(str(ROOT / "models" / "clips" / "street.mp4"))
    found = []
    while (picture := film.read()[1]) is not None:
        tensor, placement = model.preprocess.prepare(picture)
        answer = decoder.decode(model.engine.infer((tensor,)), placement)
        found.append(tuple(one for one in answer.detections or () if one.label == "person"))
    film.release()
    model.engine.close()
    assert len(found) == 100
    return found


def watch(
    street: list[tuple[Detection, ...]], every: int, low: float, zones: Sequence[Zone] = ()
) -> tuple[list[tuple[int, Detection]], list[tuple[int, SceneEvent]]]:
    memory = SceneMemory(TrackOptions(high=0.5), zones)
    shown, events = [], []
    for frame in range(0, len(street), every):
        found = tuple(one for one in street[frame] if one.score >= low)
        seen = memory.observe(Answer(detections=found), frame * SECOND // 10)
        shown += [(frame, one) for one in seen.answer.detections or ()]
        events += [(frame, event) for event in seen.events]
    return shown, events


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("low", [0.3, 0.5], ids=["weak boxes too", "only what is reported"])
def test_ids_stay_with_the_people_of_the_street(street: list[tuple[Detection, ...]], every: int, low: float) -> None:
    """Eight people who cross and hide each other all the time, for ten seconds, one detector for small devices.

    There is no telling people apart by their looks: who comes out from behind another may have taken over his id.
    """
    shown, events = watch(street, every, low)
    appeared = [event.track for _, event in events if event.kind == "appeared"]
    assert len(appeared) == len(set(appeared))
    assert 8 <= len(appeared) <= 20
    named = [(who(frame, one.box), one.track) for frame, one in shown if one.track is not None]
    assert len(named) > 0.7 * len(shown)
    counts = Counter(pair for pair in named if pair[0] is not None)
    # How many carry the one id that their person has most of the time.
    main = sum(max(count for (name, _), count in counts.items() if name == person) for person in {n for n, _ in counts})
    assert main > 0.5 * counts.total()


@pytest.mark.parametrize("every", [1, 3])
def test_someone_alone_has_one_id(street: list[tuple[Detection, ...]], every: int) -> None:
    """The woman who walks across the grass, up and out of everybody's way for four seconds."""
    shown, _ = watch(street, every, 0.3)
    hers = [one.track for frame, one in shown if every < frame <= 40 and who(frame, one.box) == "woman in black"]
    assert len(hers) > 15 / every
    assert len(set(hers)) == 1
    assert hers[0] is not None


@pytest.mark.parametrize("every", [1, 3])
def test_zones_on_the_street_add_up(street: list[tuple[Detection, ...]], every: int) -> None:
    grass = Zone("grass", ((0.0, 0.45), (0.3, 0.5), (0.6, 0.75), (0.6, 1.0), (0.0, 1.0)), ("person",), dwell_s=2.0)
    shown, events = watch(street, every, 0.3, [grass])
    told = [(event.kind, event.track) for _, event in events if event.zone == "grass"]
    for track, group in itertools.groupby(sorted(told, key=lambda one: one[1]), lambda one: one[1]):
        doings = [kind for kind, _ in group if kind != "dwelled"]
        assert doings == (["entered", "left"] * len(doings))[: len(doings)], track
    hers = Counter(one.track for frame, one in shown if frame <= 40 and who(frame, one.box) == "woman in black")
    ((her, _),) = hers.most_common(1)
    assert told.count(("entered", her)) == told.count(("dwelled", her)) == 1
    assert {("grass",)} == {one.zones for frame, one in shown if one.track == her and frame <= 40}
