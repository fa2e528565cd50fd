"""The tracker: ids that stay with their objects, on time instead of frames."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.scene.assign import assign
from edgerun.scene.track import _FRAME_S, Tracker, TrackOptions, Tracks, _Motion
from edgerun.types import Box, Detection

SECOND = 1_000_000_000
PERSON, CAR = ("person", 1), ("car", 2)


def seen(x: float, y: float = 0.5, score: float = 0.9, what: tuple[str, int] = PERSON, size: float = 1.0) -> Detection:
    """A box around (x, y), as wide and high as someone walking through the middle of a picture."""
    return Detection(*what, score, (x - 0.03 * size, y - 0.1 * size, x + 0.03 * size, y + 0.1 * size))


def tracker(**options: float) -> Tracker:
    return Tracker(TrackOptions(**options), itertools.count(1))  # type: ignore[arg-type]


def ids(tracks: Tracks) -> list[int | None]:
    return [None if track is None else track.id for track in tracks.current]


def test_an_object_counts_when_it_is_seen_a_second_time() -> None:
    one = tracker()
    first, second, third = (one.update((seen(0.3 + 0.01 * i),), i * SECOND // 10) for i in range(3))
    assert ids(first) == [None]
    assert first.appeared == ()
    assert ids(second) == ids(third) == [1]
    assert second.appeared == second.current
    assert third.appeared == ()
    assert second.appeared[0].since_ns == 0
    assert ids(tracker(confirm=1).update((seen(0.3),), 0)) == [1]


def test_what_is_seen_but_once_was_noise() -> None:
    one = tracker()
    one.update((seen(0.3),), 0)
    one.update((), SECOND // 10)
    assert ids(one.update((seen(0.3),), SECOND // 5)) == [None]


@pytest.mark.parametrize("fps", [30, 10, 4])
def test_two_who_cross_keep_their_ids(fps: int) -> None:
    """At different depths: boxes of different size that overlap for a while, both seen all the time."""
    one = tracker()
    names = set()
    for i in range(4 * fps):
        x = 0.1 + 0.2 * i / fps
        found = (seen(x, 0.45), seen(1 - x, 0.55, size=1.3))
        names.add(tuple(ids(one.update(found if i % 2 else found[::-1], i * SECOND // fps))[:: 1 if i % 2 else -1]))
    assert names == {(None, None), (1, 2)} or names == {(None, None), (2, 1)}


def test_greedy_choice_would_swap_them() -> None:
    """Both tracks overlap the box in the middle best; the total decides."""
    one = tracker(confirm=1)
    one.update((seen(0.50), seen(0.535)), 0)
    assert ids(one.update((seen(0.53), seen(0.49)), 1)) == [2, 1]


@pytest.mark.parametrize(("gap_s", "same"), [(0.5, True), (1.9, True), (2.1, False), (30.0, False)])
@pytest.mark.parametrize("grabbed", [True, False], ids=["frames in between", "no frame in between"])
def test_someone_who_was_hidden_is_the_same_within_lost_s(gap_s: float, same: bool, grabbed: bool) -> None:
    one = tracker(lost_s=2.0)
    step = SECOND // 10
    for i in range(20):
        one.update((seen(0.2 + 0.002 * i),), i * step)
    last = 19 * step
    lost = []
    if grabbed:
        for now in range(last + step, last + round(gap_s * SECOND), step):
            lost += one.update((), now).lost
    back = one.update((seen(0.2 + 0.002 * (19 + gap_s * 10)),), last + round(gap_s * SECOND))
    lost += back.lost
    assert ids(back) == ([1] if same else [None])
    assert [track.id for track in lost] == ([] if same else [1])
    if lost:
        assert lost[0].seen_ns == last
        assert lost[0].seconds == pytest.approx(1.9)


def test_it_runs_on_time_not_on_frames() -> None:
    """Frames skipped at random: the prediction goes as far as the time that passed."""
    one = tracker()
    rng = random.Random(3)
    now = 0.0
    names = set()
    for i in range(60):
        names.add(ids(one.update((seen(0.05 + 0.06 * now),), round(now * SECOND)))[0])
        now += rng.choice((0.03, 0.1, 0.2)) if i > 5 else 0.1
    assert names == {None, 1}


def test_a_slow_model_still_finds_those_who_walk() -> None:
    """Three answers a second: from one to the next a person's box has moved by more than its width."""
    one = tracker()
    found = [ids(one.update((seen(0.1 + 0.065 * i), seen(0.9 - 0.02 * i, 0.2)), i * SECOND // 3)) for i in range(10)]
    assert found == [[None, None]] + [[1, 2]] * 9


def test_weak_boxes_carry_a_track_but_begin_none() -> None:
    one = tracker(high=0.5, lost_s=0.35)
    assert ids(one.update((seen(0.2, score=0.3),), 0)) == [None]
    assert ids(one.update((seen(0.2, score=0.3),), SECOND // 10)) == [None]
    for i in range(2, 5):
        current = one.update((seen(0.2),), i * SECOND // 10)
    assert ids(current) == [1]
    for i in range(5, 15):
        assert ids(one.update((seen(0.2 + 0.004 * (i - 5), score=0.2),), i * SECOND // 10)) == [1]
    # Only strong boxes bring back what was missing.
    one.update((), 15 * SECOND // 10)
    assert ids(one.update((seen(0.24, score=0.2),), 16 * SECOND // 10)) == [None]
    assert ids(one.update((seen(0.24, score=0.8),), 17 * SECOND // 10)) == [1]


def test_without_weak_boxes_the_gap_is_bridged_by_prediction() -> None:
    one = tracker(high=0.5)
    for i in range(10):
        one.update((seen(0.1 + 0.01 * i),), i * SECOND // 10)
    for i in range(10, 18):
        assert one.update((), i * SECOND // 10).lost == ()
    assert ids(one.update((seen(0.28),), 18 * SECOND // 10)) == [1]


def test_classes_are_tracked_apart() -> None:
    one = tracker(confirm=1)
    assert ids(one.update((seen(0.3), seen(0.3, what=CAR)), 0)) == [1, 2]
    assert ids(one.update((seen(0.3, what=CAR), seen(0.3)), 1)) == [2, 1]
    assert ids(one.update((seen(0.3, what=("dog", 3)),), 2)) == [3]


def test_a_second_box_on_the_same_object_begins_nothing() -> None:
    one = tracker(confirm=1)
    assert ids(one.update((seen(0.3, score=0.6), seen(0.31)), 0)) == [None, 1]
    assert ids(one.update((seen(0.3), seen(0.315)), 1)).count(None) == 1
    assert one.update((), 2).lost == ()


def test_ids_are_never_given_twice_in_a_process() -> None:
    def first() -> int:
        tracks = Tracker(TrackOptions(confirm=1)).update((seen(0.3), seen(0.6)), 0)
        assert all(track is not None and track.id > 0 for track in tracks.current)
        return max(track.id for track in tracks.appeared)

    assert len({first() for _ in range(20)}) == 20


def test_time_that_stands_still_or_runs_back_a_little_changes_nothing() -> None:
    one = tracker()
    one.update((seen(0.3),), 10 * SECOND)
    assert ids(one.update((seen(0.3),), 10 * SECOND)) == [1]
    back = one.update((seen(0.31),), 9 * SECOND)
    assert ids(back) == [1]
    assert back.current[0] is not None
    assert back.current[0].seen_ns == 10 * SECOND
    assert ids(one.update((seen(0.31),), 11 * SECOND)) == [1]


def test_another_clock_begins_anew() -> None:
    one = tracker(lost_s=2)
    for i in range(3):
        one.update((seen(0.3),), 1000 * SECOND + i)
    after = one.update((seen(0.3),), 5 * SECOND)
    assert ids(after) == [None]
    assert [track.id for track in after.lost] == [1]
    assert ids(one.update((seen(0.3),), 6 * SECOND)) == [2]


BAD_BOXES = [
    (math.nan, 0.1, 0.5, 0.5), (0.1, 0.1, math.inf, 0.5), (-math.inf, -math.inf, math.inf, math.inf),
    (0.5, 0.5, 0.5, 0.9), (0.5, 0.5, 0.4, 0.6), (0.0, 0.0, 0.0, 0.0), (1e300, 0.0, 1e301, 1.0),
    (0.1, 0.1, 0.2, 0.1 + 1e-12),
]  # fmt: skip


@pytest.mark.parametrize("box", BAD_BOXES)
def test_what_is_no_box_has_no_track_and_harms_none(box: Box) -> None:
    one = tracker()
    for i in range(5):
        tracks = one.update((Detection("person", 1, 0.9, box), seen(0.3)), i * SECOND // 10)
    assert ids(tracks) == [None, 1]


edge = st.one_of(st.floats(-0.2, 1.2), st.sampled_from([0.0, 0.5, 1.0, math.nan, math.inf, -3.0]))
boxes = st.tuples(edge, edge, edge, edge)
whole = st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0.001, 0.2), st.floats(0.001, 0.2)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
detections = st.builds(
    lambda what, score, box: Detection(*what, score, box),
    st.sampled_from([PERSON, CAR]),
    st.floats(0, 1),
    st.one_of(whole, whole, boxes),
)
films = st.lists(st.tuples(st.lists(detections, max_size=12), st.integers(-SECOND, 3 * SECOND)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(films, st.sampled_from([0.0, 0.5]), st.sampled_from([1, 2, 3]))
def test_whatever_comes_in(film: list[tuple[list[Detection], int]], high: float, confirm: int) -> None:
    one, again = (tracker(high=high, confirm=confirm) for _ in range(2))
    now, alive, ever = 0, set[int](), set[int]()
    for found, step in film:
        now += step
        tracks = one.update(found, now)
        assert again.update(found, now) == tracks
        assert len(tracks.current) == len(found)
        named = [track.id for track in tracks.current if track is not None]
        assert len(named) == len(set(named))
        for track, box in zip(tracks.current, found, strict=True):
            assert track is None or (track.box == box.box and track.class_id == box.class_id)
        gone, new = {track.id for track in tracks.lost}, {track.id for track in tracks.appeared}
        assert gone <= alive
        assert not new & ever
        alive, ever = alive - gone | new, ever | new
        assert set(named) <= alive
        assert np.isfinite(one._motion.boxes()).all()


def test_hundreds_of_boxes() -> None:
    rng = random.Random(1)
    places = [(rng.uniform(0.05, 0.95), rng.uniform(0.1, 0.9)) for _ in range(300)]
    one = tracker()
    for i in range(3):
        tracks = one.update([seen(x, y) for x, y in places], i * SECOND // 10)
    named = [track.id for track in tracks.current if track is not None]
    assert len(named) == len(set(named)) > 100


pairs_of_weights = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5])),
    max_size=16,
)


@settings(max_examples=200, deadline=None)
@given(pairs_of_weights)
def test_no_assignment_weighs_more(weights: dict[tuple[int, int], float]) -> None:
    found = assign((row, column, weight) for (row, column), weight in weights.items())
    assert len({row for row, _ in found}) == len({column for _, column in found}) == len(found)
    best = max(sum(weights.get(pair, 0.0) for pair in enumerate(order)) for order in itertools.permutations(range(5)))
    assert sum(weights[pair] for pair in found) == pytest.approx(best)


def test_four_small_filters_are_the_published_large_one() -> None:
    """Against the 8×8 filter with its matrices, at one published frame a step."""
    rng = np.random.default_rng(5)
    box = np.array([0.3, 0.4, 0.36, 0.6])

    def measured(box: np.ndarray) -> np.ndarray:
        sides = box[2:] - box[:2]
        return np.array([*(box[:2] + box[2:]) / 2, sides[0] / sides[1], sides[1]])

    def spread(height: float, position: float, velocity: float, aspect: float, aspect_velocity: float) -> np.ndarray:
        lengths, speeds = height * position, height * velocity
        return np.diag([lengths, lengths, aspect, lengths, speeds, speeds, aspect_velocity, speeds]) ** 2

    step = np.eye(8) + np.eye(8, k=4)
    look = np.eye(4, 8)
    mean = np.concatenate((measured(box), np.zeros(4)))
    covariance = spread(mean[3], 2 / 20, 10 / 160, 1e-2, 1e-5)
    motion = _Motion()
    motion.begin(box[None])
    for _ in range(20):
        noise = spread(mean[3], 1 / 20, 1 / 160, 1e-2, 1e-5)
        mean, covariance = step @ mean, step @ covariance @ step.T + noise
        motion.predict(_FRAME_S, [False])
        box = box + 0.004 + rng.normal(0, 0.003, 4)
        doubt = np.diag([mean[3] / 20, mean[3] / 20, 1e-1, mean[3] / 20]) ** 2
        gain = covariance @ look.T @ np.linalg.inv(look @ covariance @ look.T + doubt)
        mean = mean + gain @ (measured(box) - look @ mean)
        covariance = covariance - gain @ look @ covariance
        motion.correct([0], box[None])
        centre, half = mean[:2], np.array([mean[2] * mean[3], mean[3]]) / 2
        np.testing.assert_allclose(motion.boxes()[0], [*centre - half, *centre + half], rtol=1e-9)
