import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.nms import suppress
from tests.decode import reference

sides = st.integers(0, 12).map(lambda k: k / 12)
candidate = st.tuples(
    st.integers(0, 2), st.integers(0, 20).map(lambda k: k / 20), st.tuples(sides, sides, sides, sides)
).map(
    lambda c: (c[0], c[1], (min(c[2][0], c[2][2]), min(c[2][1], c[2][3]), max(c[2][0], c[2][2]), max(c[2][1], c[2][3])))
)
candidates = st.lists(candidate, max_size=40)


def arrays(found):
    """As the decoders hand them over; float32, so that the reference sees the same numbers."""
    boxes = np.array([box for _, _, box in found], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in found], np.float32)
    return boxes, scores, np.array([cls for cls, _, _ in found], np.intp)


def run(found, iou=0.5, max_candidates=1000, max_detections=1000):
    boxes, scores, classes = arrays(found)
    kept = suppress(boxes, scores, classes, iou=iou, max_candidates=max_candidates, max_detections=max_detections)
    return [(int(classes[i]), float(scores[i]), tuple(map(float, boxes[i]))) for i in kept]


@settings(deadline=None)
@given(candidates, st.sampled_from([0.0, 0.3, 0.45, 0.6, 1.0]))
def test_it_keeps_what_the_scalar_reading_keeps(found, iou):
    boxes, scores, classes = arrays(found)
    exact = [(int(c), float(s), tuple(map(float, b))) for c, s, b in zip(classes, scores, boxes, strict=True)]
    assert run(found, iou) == reference.suppress(exact, iou)


@settings(deadline=None)
@given(candidates)
def test_what_stays_stays_when_suppressed_again(found):
    once = run(found)
    assert run(once) == once


@settings(deadline=None)
@given(candidates, st.randoms(use_true_random=False), st.integers(1, 10), st.integers(1, 10))
def test_the_order_of_the_candidates_does_not_matter(found, random, most_in, most_out):
    shuffled = random.sample(found, len(found))
    assert run(shuffled, 0.5, most_in, most_out) == run(found, 0.5, most_in, most_out)


def test_classes_do_not_suppress_each_other():
    box = (0.1, 0.1, 0.5, 0.5)
    assert [one[0] for one in run([(0, 0.9, box), (1, 0.8, box), (0, 0.7, box)])] == [0, 1]


def test_only_the_best_candidates_are_looked_at_and_only_so_many_stay():
    row = [(0, k / 100, (k / 100, 0.0, (k + 1) / 100, 1.0)) for k in range(100)]
    assert [one[1] for one in run(row, max_candidates=5)] == pytest.approx([0.99, 0.98, 0.97, 0.96, 0.95])
    assert len(run(row, max_detections=7)) == 7


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_thousands_of_candidates(seed):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 0.8, (3000, 2)), rng.uniform(0.01, 0.2, (3000, 2))
    boxes = np.hstack((corner, corner + size)).astype(np.float32)
    found = [
        (int(c), float(s), tuple(map(float, b)))
        for c, s, b in zip(rng.integers(0, 3, 3000), rng.random(3000, np.float32), boxes, strict=True)
    ]
    best = sorted(found, key=lambda one: (-one[1], one[0], one[2]))[:1000]
    assert run(found, max_candidates=1000, max_detections=100) == reference.suppress(best, 0.5, 100)
