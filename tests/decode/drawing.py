"""What hypothesis draws for the decoders, and how answers are compared."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from tests.decode import heads


@st.composite
def objects(draw, classes, least=0.04, first=0):
    """Up to `classes` objects, each of a class of its own, so that none can suppress another."""
    chosen = draw(st.lists(st.integers(first, classes - 1), unique=True, max_size=6))
    made = []
    for cls in chosen:
        w, h = draw(st.floats(least, 0.9)), draw(st.floats(least, 0.9))
        x0, y0 = draw(st.floats(0, 1 - w)), draw(st.floats(0, 1 - h))
        made.append((cls, draw(st.floats(0.55, 0.8)), (x0, y0, x0 + w, y0 + h)))
    return made


placements = st.sampled_from([heads.STRETCH, heads.LETTERBOX])


def found(answer):
    return [(one.class_id, one.score, one.box) for one in answer.detections]


def in_range(answer):
    scores = [one.score for one in answer.detections]
    assert scores == sorted(scores, reverse=True)
    for one in answer.detections:
        x0, y0, x1, y1 = one.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert 0 <= one.score <= 1


def same(got, wanted, tolerance=2e-5):
    """The same objects in any order (ties may fall either way when scores agree to the last digit but one)."""
    assert len(got) == len(wanted)
    order = sorted(wanted, key=lambda one: (one[0], one[2]))
    for a, b in zip(sorted(got, key=lambda one: (one[0], one[2])), order, strict=True):
        assert a[0] == b[0]
        assert a[1] == pytest.approx(b[1], abs=tolerance)
        assert a[2] == pytest.approx(b[2], abs=tolerance)
