"""Zones: what counts as inside, events counted exactly, and zones that cannot hold anything."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.polygon import check_polygon
from edgerun.scene.track import Track
from edgerun.scene.zones import Zone, ZoneWatch, check_zone, is_inside
from edgerun.types import SceneEvent

MS = 1_000_000
SQUARE = ((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6))


def standing(x: float, y: float, at_ms: int, track: int = 1, label: str = "person") -> Track:
    return Track(track, label, 1, (x - 0.02, y - 0.2, x + 0.02, y), 0, at_ms * MS)


def walk(watch: ZoneWatch, places: list[tuple[float, float]], step_ms: int = 100) -> list[tuple[int, SceneEvent]]:
    """Which observation told what, one object at `places` every `step_ms`."""
    return [
        (index, event)
        for index, (x, y) in enumerate(places)
        for event in watch.observe(standing(x, y, index * step_ms))
    ]


def test_walking_through_is_one_entered_and_one_left() -> None:
    watch = ZoneWatch([Zone("door", SQUARE)])
    told = walk(watch, [(0.3 + 0.02 * i, 0.5) for i in range(21)])
    assert [(index, event.kind, event.zone) for index, event in told] == [(6, "entered", "door"), (17, "left", "door")]
    # In from 0.40 (index 5), beyond 0.60 and its slack of 0.01 from 0.62 (index 16): told one observation later.
    assert told[0][1].seconds is None
    assert told[1][1].seconds == pytest.approx(1.1)


def test_who_appears_inside_is_inside_at_once() -> None:
    watch = ZoneWatch([Zone("door", SQUARE)])
    assert [event.kind for event in watch.observe(standing(0.5, 0.5, 0))] == ["entered"]
    assert watch.names(1) == ("door",)


def test_it_is_the_feet_that_stand_somewhere() -> None:
    watch = ZoneWatch([Zone("door", SQUARE)])
    assert list(watch.observe(Track(1, "person", 1, (0.45, 0.3, 0.55, 0.7), 0, 0))) == []
    assert [e.kind for e in watch.observe(Track(2, "person", 1, (0.3, 0.1, 0.7, 0.5), 0, 0))] == ["entered"]


def test_trembling_on_the_border_is_told_once() -> None:
    rng = random.Random(4)
    watch = ZoneWatch([Zone("door", SQUARE)])
    told = walk(watch, [(0.5, 0.4 + rng.uniform(-0.009, 0.009)) for _ in range(500)])
    assert [event.kind for _, event in told] == ["entered"]


def test_one_odd_box_changes_nothing() -> None:
    watch = ZoneWatch([Zone("door", SQUARE)])
    places = [(0.5, 0.5 if i % 3 else 0.9) for i in range(1, 60)]
    assert [event.kind for _, event in walk(watch, places)] == ["entered"]
    watch = ZoneWatch([Zone("door", SQUARE)])
    assert walk(watch, [(0.5, 0.9 if i % 3 else 0.5) for i in range(1, 60)]) == []


def test_dwelled_is_told_once_a_visit() -> None:
    watch = ZoneWatch([Zone("door", SQUARE, dwell_s=1.0)])
    visit = [(0.5, 0.5)] * 20 + [(0.1, 0.1)] * 5
    told = walk(watch, visit * 2)
    assert [event.kind for _, event in told] == ["entered", "dwelled", "left"] * 2
    assert [event.seconds for _, event in told[:3]] == [None, pytest.approx(1.0), pytest.approx(2.0)]
    assert [index for index, _ in told[:3]] == [0, 10, 21]


def test_too_short_a_visit_is_no_dwelling() -> None:
    watch = ZoneWatch([Zone("door", SQUARE, dwell_s=1.0)])
    told = walk(watch, [(0.5, 0.5)] * 9 + [(0.1, 0.1)] * 5)
    assert [event.kind for _, event in told] == ["entered", "left"]


def test_a_visit_of_dwell_s_has_dwelled_though_nobody_looked() -> None:
    watch = ZoneWatch([Zone("door", SQUARE, dwell_s=1.0)])
    told = walk(watch, [(0.5, 0.5), (0.1, 0.1), (0.1, 0.1)], step_ms=1500)
    assert [event.kind for _, event in told] == ["entered", "dwelled", "left"]


def test_lost_inside_has_left_when_it_was_seen_last() -> None:
    watch = ZoneWatch([Zone("door", SQUARE), Zone("elsewhere", ((0, 0), (0.2, 0), (0.2, 0.2)))])
    walk(watch, [(0.5, 0.5)] * 11)
    left = list(watch.forget(standing(0.5, 0.5, 1000)))
    assert [(event.kind, event.zone, event.seconds) for event in left] == [("left", "door", pytest.approx(1.0))]
    assert watch.names(1) == ()
    assert list(watch.forget(standing(0.5, 0.5, 1000))) == []
    assert not watch._visits, "nothing is kept of who is gone"


def test_lost_on_the_way_out_has_left_at_the_first_step_outside() -> None:
    watch = ZoneWatch([Zone("door", SQUARE)])
    assert [event.kind for _, event in walk(watch, [(0.5, 0.5)] * 10 + [(0.5, 0.9)])] == ["entered"]
    (left,) = watch.forget(standing(0.5, 0.9, 1500))
    assert left.seconds == pytest.approx(1.0)


def test_only_the_labels_it_is_for() -> None:
    watch = ZoneWatch([Zone("parking", SQUARE, labels=("car", "truck")), Zone("all", SQUARE)])
    list(watch.observe(standing(0.5, 0.5, 0, track=1, label="person")))
    list(watch.observe(standing(0.5, 0.5, 0, track=2, label="car")))
    assert watch.names(1) == ("all",)
    assert watch.names(2) == ("parking", "all")


def test_the_lower_edge_of_the_frame_belongs_to_a_zone_that_ends_there() -> None:
    floor = ((0.0, 0.8), (1.0, 0.8), (1.0, 1.0), (0.0, 1.0))
    assert all(is_inside(point, floor) for point in [(0.5, 1.0), (0.0, 1.0), (1.0, 0.8), (0.3, 0.8)])
    assert not is_inside((0.5, 0.79), floor)
    assert is_inside((0.5, 0.79), floor, slack=0.011)


L_SHAPE = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.3), (0.3, 0.3), (0.3, 0.9), (0.1, 0.9))


@pytest.mark.parametrize(
    ("point", "inside"), [((0.2, 0.8), True), ((0.8, 0.2), True), ((0.6, 0.6), False), ((0.05, 0.2), False)]
)
@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("backwards", [False, True])
def test_concave_either_way_round_from_any_corner(
    point: tuple[float, float], inside: bool, turn: int, backwards: bool
) -> None:
    shape = L_SHAPE[turn:] + L_SHAPE[:turn]
    assert is_inside(point, shape[::-1] if backwards else shape) is inside


@pytest.mark.parametrize(
    ("polygon", "says"),
    [
        ((), "at least 3 points, this one has 0"),
        (((0.1, 0.1), (0.9, 0.9)), "at least 3 points, this one has 2"),
        (((0.1, 0.1), (math.nan, 0.2), (0.3, 0.9)), "is not finite"),
        (((0.1, 0.1), (0.5, math.inf), (0.3, 0.9)), "is not finite"),
        (((0, 0), (640, 0), (640, 480)), "points are shares of the frame"),
        (((0.1, 0.1), (0.5, 0.5), (0.9, 0.9)), "no area"),
        (((0.1, 0.1), (0.1, 0.1), (0.1, 0.1)), "no area"),
        (((0.1, 0.1), (0.5, 0.5), (0.9, 0.2), (0.5, 0.5)), "no area"),
        (((1.1, 0.1), (1.5, 0.1), (1.5, 0.5)), "wholly outside"),
        (((-0.5, 0.2), (0.0, 0.2), (0.0, 0.6), (-0.5, 0.6)), "wholly outside"),
        (((0.9, -0.5), (1.5, -0.5), (1.5, 0.6)), "wholly outside"),
    ],
)
def test_what_could_hold_nothing_is_refused(polygon: tuple[tuple[float, float], ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_polygon(polygon)
    with pytest.raises(ValueError, match=f"zone 'door': .*{says}"):
        ZoneWatch([Zone("door", polygon)])


@pytest.mark.parametrize(
    "polygon",
    [
        SQUARE,
        L_SHAPE,
        ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
        ((-0.5, -0.5), (1.5, -0.5), (1.5, 1.5), (-0.5, 1.5)),
        ((-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)),
        ((0.2, 0.2), (0.8, 0.8), (0.8, 0.2), (0.2, 0.8)),  # a bow tie: its two halves' signed areas cancel out
    ],
)
def test_what_reaches_into_the_frame_is_a_zone(polygon: tuple[tuple[float, float], ...]) -> None:
    check_polygon(polygon)


def test_names_and_times_are_checked() -> None:
    with pytest.raises(ValueError, match="no name"):
        check_zone(Zone(" ", SQUARE))
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="dwell_s"):
            check_zone(Zone("door", SQUARE, dwell_s=wrong))
    with pytest.raises(ValueError, match="zone 'door': two zones"):
        ZoneWatch([Zone("door", SQUARE), Zone("door", L_SHAPE)])


steps = st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7), st.integers(0, 900))


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, min_size=1, max_size=60))
def test_every_entered_has_its_left_and_names_add_them_up(path: list[tuple[float, float, int]]) -> None:
    watch = ZoneWatch([Zone("door", SQUARE, dwell_s=1.0), Zone("corner", L_SHAPE)])
    told: list[SceneEvent] = []
    inside: set[str | None] = set()
    now = 0
    for x, y, pause in path:
        now += pause
        for event in watch.observe(standing(x, y, now)):
            told.append(event)
            if event.kind != "dwelled":
                assert (event.zone in inside) is (event.kind == "left")
                inside ^= {event.zone}
        assert set(watch.names(1)) == inside
    told += watch.forget(standing(x, y, now))
    for name in ("door", "corner"):
        kinds = [event.kind for event in told if event.zone == name]
        visits = [list(group) for entered, group in itertools.groupby(kinds, lambda kind: kind == "entered")]
        assert all(visit in (["entered"], ["left"], ["dwelled", "left"]) for visit in visits)
        assert kinds.count("entered") == kinds.count("left")
    dwelled = [event.kind == "dwelled" for event in told if event.zone == "door"]
    for index, event in enumerate([event for event in told if event.zone == "door"]):
        assert event.seconds is None or event.seconds >= 0
        if event.kind == "left":
            assert event.seconds is not None
            assert (event.seconds >= 1.0) is dwelled[index - 1]
