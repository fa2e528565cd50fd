"""How far two models agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.models.agreement import disagreement, iou
from edgerun.types import Answer, Classification, Detection, Quantity, Segment

SIDE = st.floats(0, 1)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 0.01, max(b[1], b[3]) + 0.01)
)
DETECTION = st.builds(Detection, st.sampled_from("ab"), st.just(0), st.floats(0.5, 1), BOX)
SEEN = st.lists(DETECTION, max_size=6).map(lambda found: Answer(detections=tuple(found)))


def seen(*found: tuple[str, float, float]) -> Answer:
    """(label, score, where it begins) of boxes of one size."""
    return Answer(detections=tuple(Detection(n, 0, score, (x, 0.1, x + 0.2, 0.5)) for n, score, x in found))


def named(*labels: str) -> Answer:
    return Answer(classes=tuple(Classification(label, 0, 0.9) for label in labels))


CAT, DOG = ("cat", 0.9, 0.1), ("dog", 0.9, 0.6)
PAIRS = {
    "the same": (seen(CAT, DOG), seen(DOG, CAT), (0.0, True)),
    "nothing on either side": (seen(), seen(), (0.0, False)),
    "one is missed": (seen(CAT, DOG), seen(CAT), (1 / 3, True)),
    "one is invented": (seen(CAT), seen(CAT, DOG), (1 / 3, True)),
    "another label": (seen(CAT), seen(("dog", 0.9, 0.1)), (1.0, True)),
    "a little aside": (seen(CAT), seen(("cat", 0.9, 0.15)), (0.0, True)),
    "far aside": (seen(CAT), seen(("cat", 0.9, 0.3)), (1.0, True)),
    "one stands for one": (seen(CAT), seen(CAT, CAT, CAT), (0.5, True)),
    "barely above the threshold": (seen(("cat", 0.55, 0.1)), seen(), (0.0, False)),
    "sure here, unsure there": (seen(CAT), seen(("cat", 0.51, 0.1)), (0.0, True)),
    "the same class": (named("cat", "dog"), named("cat"), (0.0, True)),
    "another class": (named("cat", "dog"), named("dog", "cat"), (1.0, True)),
    "no class": (named(), named(), (0.0, False)),
    "shares": (
        Answer(segments=(Segment("road", 0, 0.6), Segment("sky", 1, 0.4))),
        Answer(segments=(Segment("road", 0, 0.4), Segment("tree", 2, 0.6))),
        (0.6, True),
    ),
    "a value": (Answer(value=20.0), Answer(value=21.0), (0.0, True)),
    "another value": (Answer(value=20.0), Answer(value=25.0), (1.0, True)),
    "values": (
        Answer(values=(Quantity("a", 1.0), Quantity("b", 1.0))),
        Answer(values=(Quantity("a", 1.05),)),
        (0.5, True),
    ),
    "of two kinds": (named("cat"), seen(CAT), None),
    "embeddings": (Answer(embedding=(1.0,)), Answer(embedding=(1.0,)), None),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_how_far_apart(pair: str) -> None:
    before, after, expected = PAIRS[pair]
    assert disagreement(before, after, (0.5, 0.5)) == (expected and (pytest.approx(expected[0]), expected[1]))


@given(SEEN, SEEN)
def test_it_is_a_share(one: Answer, other: Answer) -> None:
    found = disagreement(one, other, (0.5, 0.5))
    assert found is not None
    assert 0 <= found[0] <= 1
    back = disagreement(other, one, (0.5, 0.5))
    assert back is not None
    assert back[1] == found[1]
    assert disagreement(one, one, (0.5, 0.5))[0] == 0  # type: ignore[index]


@given(BOX, BOX)
def test_the_overlap_of_two_boxes(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    assert 0 <= iou(a, b) <= 1 + 1e-9  # type: ignore[arg-type]
    assert iou(a, b) == pytest.approx(iou(b, a))  # type: ignore[arg-type]
    assert iou(a, a) == pytest.approx(1)  # type: ignore[arg-type]
