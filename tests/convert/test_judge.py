"""Each metric against cases worked out by hand, and as properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.convert.judge.boxes import iou, judge_boxes, mean_average_precision, pairs
from edgerun.convert.judge.classes import judge_classes
from edgerun.convert.judge.masks import decode_runs, judge_masks
from edgerun.convert.judge.points import judge_points, oks
from edgerun.convert.judge.values import Vectors, cosine, judge_quantities
from edgerun.convert.subject import SeenSample
from edgerun.types import Box, Classification, Detection, Keypoints, Runs, Segment


def at(*origins: str, **known: object) -> list[SeenSample]:
    return [SeenSample(origin, {}, **known) for origin in origins]  # type: ignore[arg-type]


def box(x: float, label: str = "dog", score: float = 0.9) -> Detection:
    return Detection(label, {"dog": 1, "cat": 2}[label], score, (x, 0.1, x + 0.2, 0.3))


SIDE = st.floats(0, 0.5)
DETECTIONS = st.lists(
    st.builds(
        lambda x, y, w, h, score, index: Detection(str(index), index, score, (x, y, x + w + 0.01, y + h + 0.01)),
        SIDE, SIDE, SIDE, SIDE, st.floats(0, 1), st.integers(0, 2),
    ),
    max_size=8,
)  # fmt: skip


@given(DETECTIONS, DETECTIONS)
def test_pairs_are_one_to_one_of_one_class_and_overlap(one: list[Detection], other: list[Detection]) -> None:
    found = pairs(one, other)
    assert len({a for a, _ in found}) == len({b for _, b in found}) == len(found)
    for a, b in found:
        assert one[a].class_id == other[b].class_id
        assert iou(np.array([one[a].box]), np.array([other[b].box]))[0, 0] >= 0.5
    assert len(pairs(other, one)) == len(found)
    left = [a for a in range(len(one)) if a not in {x for x, _ in found}]
    right = [b for b in range(len(other)) if b not in {y for _, y in found}]
    for a in left:
        for b in right:
            same = one[a].class_id == other[b].class_id
            assert not same or iou(np.array([one[a].box]), np.array([other[b].box]))[0, 0] < 0.5


@given(DETECTIONS.filter(bool))
def test_an_equal_candidate_keeps_everything(found: list[Detection]) -> None:
    quality = judge_boxes([found], [found], at("a"))
    assert (quality.value, quality.more["extra"]) == (1.0, 0.0)
    assert quality.worst == ()


def test_recall_extra_boxes_and_classes() -> None:
    reference = [[box(0.1), box(0.5)], [box(0.1, "cat")], []]
    candidate = [[box(0.12)], [box(0.1, "dog")], [box(0.7)]]
    quality = judge_boxes(reference, candidate, at("a", "b", "c"))
    assert quality.metric == "recall"
    assert quality.value == quality.kept == pytest.approx(1 / 3)
    assert quality.more["extra"] == pytest.approx(2 / 3)
    assert [(one.name, one.reference, one.kept, one.extra) for one in quality.classes] == [
        ("dog", 2, 1, 2),
        ("cat", 1, 0, 0),
    ]
    assert [one.origin for one in quality.worst] == ["b", "c", "a"]
    assert quality.worst[0].reference == "cat 0.90"
    assert quality.worst[1].reference == "nothing"


def test_map_of_a_ranking_worked_out_by_hand() -> None:
    truth: list[list[tuple[int, Box]]] = [[(1, box(0.1).box), (1, box(0.5).box)]]
    # hit, miss, hit: precision 1 up to recall 1/2, 2/3 from there to 1.
    found = [[box(0.1, score=0.9), box(0.75, score=0.8), box(0.5, score=0.7)]]
    assert mean_average_precision(truth, found) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # miss, hit, hit: 1/2 and then 2/3, of which the curve takes the higher one from the right.
    late = [[box(0.75, score=0.9), box(0.1, score=0.8), box(0.5, score=0.7)]]
    assert mean_average_precision(truth, late) == pytest.approx(2 / 3)
    doubled = [[box(0.1, score=0.9), box(0.1, score=0.8)]]
    assert mean_average_precision(truth, doubled) == pytest.approx(0.5)
    assert mean_average_precision(truth, [[]]) == 0.0


def test_with_labels_the_metric_is_map_of_both_against_them() -> None:
    known = ((1, box(0.1).box),)
    quality = judge_boxes([[box(0.1)]], [[box(0.5)]], at("a", objects=known))
    assert (quality.metric, quality.value, quality.original, quality.kept) == ("map50", 0.0, 1.0, 0.0)
    assert "extra" not in quality.more


def ranked(*classes: int) -> list[Classification]:
    return [Classification(f"c{index}", index, 0.9 - 0.1 * place) for place, index in enumerate(classes)]


def test_agreement_without_labels() -> None:
    reference = [ranked(1, 2), ranked(3, 1), ranked(2, 0)]
    candidate = [ranked(1, 0), ranked(1, 3), ranked(0, 1)]
    quality = judge_classes(reference, candidate, at("a", "b", "c"), 0.0)
    assert (quality.metric, quality.value) == ("top1_agreement", pytest.approx(1 / 3))
    assert quality.more["top5_agreement"] == pytest.approx(2 / 3)
    assert [one.origin for one in quality.worst] == ["c", "b"]
    assert {(one.name, one.reference, one.kept, one.extra) for one in quality.classes} == {
        ("c1", 1, 1, 1),
        ("c3", 1, 0, 0),
        ("c2", 1, 0, 0),
        ("c0", 0, 0, 1),
    }


def test_with_labels_accuracy_is_the_metric() -> None:
    samples = [SeenSample(str(label), {}, label=label) for label in (1, 3, 2)]
    reference = [ranked(1), ranked(3), ranked(0)]
    candidate = [ranked(1), ranked(0), ranked(2)]
    quality = judge_classes(reference, candidate, samples, 0.0)
    assert (quality.metric, quality.kept) == ("accuracy", 1.0)
    assert quality.more["top1_agreement"] == pytest.approx(1 / 3)


def test_what_is_reported_at_the_threshold_is_told_apart() -> None:
    reference = [[Classification("a", 0, 0.6)], [Classification("a", 0, 0.4)]]
    candidate = [[Classification("a", 0, 0.4)], [Classification("b", 1, 0.3)]]
    quality = judge_classes(reference, candidate, at("x", "y"), 0.5)
    assert quality.value == 0.5
    assert quality.more["reported_agreement"] == 0.5


def segment(index: int, columns: slice) -> Segment:
    mask = np.zeros((4, 4), bool)
    mask[:, columns] = True
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    counts = np.diff(np.concatenate([[0], ends, [16]]))
    return Segment(f"c{index}", index, float(mask.mean()), runs=Runs((4, 4), tuple(counts.tolist()), (0, 0, 1, 1)))


@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_runs_are_read_column_by_column(bits: list[bool]) -> None:
    mask = np.array(bits).reshape(3, 4)
    flat = mask.T.ravel()
    counts: list[int] = [0]
    inside = False
    for one in flat:
        if one != inside:
            counts.append(0)
            inside = bool(one)
        counts[-1] += 1
    assert (decode_runs(Runs((3, 4), tuple(counts), (0, 0, 1, 1))) == mask).all()


def test_miou_over_the_whole_set_with_the_background() -> None:
    reference = [[segment(1, slice(0, 2))], [segment(1, slice(0, 2))]]
    candidate = [[segment(1, slice(0, 1))], [segment(1, slice(0, 2))]]
    quality = judge_masks(reference, candidate, at("a", "b"))
    # class 1: 12 of 16; background: 16 of 20
    assert quality.value == pytest.approx((12 / 16 + 16 / 20) / 2)
    assert quality.more["pixel_agreement"] == pytest.approx(28 / 32)
    assert [one.origin for one in quality.worst] == ["a"]
    assert judge_masks(reference, reference, at("a", "b")).value == 1.0
    assert judge_masks(reference, [[], []], at("a", "b")).value == pytest.approx((0 + 16 / 32) / 2)


def test_a_class_of_a_handful_of_pixels_counts_like_any_other_and_is_told_apart() -> None:
    """16 of 25,600 pixels are a class in the corner that the candidate lacks."""
    street = [[segment(1, slice(0, 2))]] * 1600
    corner = [[segment(2, slice(0, 4))], *street[1:]]
    quality = judge_masks(corner, street, at(*["x"] * 1600))
    assert quality.value == pytest.approx(2 / 3, abs=0.001)
    assert quality.more["miou_of_large"] > 0.999
    assert {one.name: one.kept for one in quality.classes}["c2"] == 0
    made_up = [[segment(3, slice(0, 1)), segment(1, slice(1, 2))]] * 1600
    assert judge_masks(street, made_up, at(*["x"] * 1600)).value == pytest.approx((0.5 + 1 + 0) / 3)


FIGURE: Keypoints = tuple((0.2 + 0.03 * i, 0.2 + 0.5 * (i % 5) / 4, 0.9) for i in range(17))


def moved(by: float) -> Keypoints:
    return tuple((x + by, y, score) for x, y, score in FIGURE)


def test_oks_is_1_for_the_same_and_falls_with_the_distance() -> None:
    size = (640, 480)
    assert oks(FIGURE, FIGURE, size) == 1.0
    falling = [oks(FIGURE, moved(by), size) for by in (0.005, 0.02, 0.1, 0.5)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 0.9 > falling[-1]
    # One sigma-sized step of a hip, all else equal: exp(-1/2) for its point (COCO: k = 2 sigma).
    points = list(FIGURE)
    wide, high = max(p[0] for p in FIGURE) - 0.2, 0.5
    step = math.sqrt(wide * 640 * high * 480) * 2 * 0.107 / 640
    points[11] = (points[11][0] + step, points[11][1], 0.9)
    assert oks(FIGURE, tuple(points), size) == pytest.approx((16 + math.exp(-0.5)) / 17)


def test_a_missing_figure_counts_0_and_one_too_many_is_extra() -> None:
    quality = judge_points([[FIGURE], [FIGURE]], [[FIGURE, moved(0.3)], []], at("a", "b"))
    assert quality.value == 0.5
    assert quality.more["figures_kept"] == 0.5
    assert quality.more["figures"] == 2
    assert [one.origin for one in quality.worst] == ["b"]


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_cosine_is_bounded_and_1_with_itself(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert -1 <= cosine(array, array[::-1]) <= 1
    assert cosine(array, array) == pytest.approx(1.0)
    assert cosine(array, np.full_like(array, np.nan)) == 0.0


def test_vectors_tell_the_worst_output() -> None:
    vectors = Vectors(("a", "b"))
    vectors.add([np.array([1.0, 0.0]), np.array([1.0])], [np.array([1.0, 0.1]), np.array([1.0])])
    vectors.add([np.array([1.0, 0.0]), np.array([1.0])], None)
    quality = vectors.quality(at("x", "y"))
    assert quality.value == pytest.approx(1 / math.sqrt(1.01) / 2)
    assert quality.more["cosine b"] == 0.5
    assert quality.more["sqnr_db a"] == pytest.approx(10 * math.log10(2 / 1.01))
    assert quality.worst[0].origin == "y"


def test_an_offset_does_not_hide_that_a_quantity_is_lost() -> None:
    reference = [[36.5], [36.6], [36.7]]
    quality = judge_quantities(reference, [[36.6], [36.6], [36.6]], ["t"], at("a", "b", "c"))
    assert quality.value == 0.0, "a constant says nothing, though it is never far off"
    assert quality.more["mean_error t"] == pytest.approx(0.2 / 3)
    assert judge_quantities(reference, reference, ["t"], at("a", "b", "c")).value == pytest.approx(1.0)
