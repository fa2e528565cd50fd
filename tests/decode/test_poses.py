"""Figures with keypoints: YOLO-pose and MoveNet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.pose import Options as PoseOptions
from edgerun.decode.pose import PoseDecoder
from edgerun.decode.yolo_pose import Options, YoloPoseDecoder
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import TensorSpec
from tests.decode import drawing, heads, reference

SIZE = (320, 256)
CELLS = sum((SIZE[0] // s) * (SIZE[1] // s) for s in (8, 16, 32))


def yolo(raw, *, labels=(), threshold=0.5, quantisation=(), size=SIZE, **options):
    context = DecoderContext((), (heads.spec("out", raw, *quantisation),), labels, threshold, input_size=size)
    return YoloPoseDecoder(Options(**options), context)


def placed_point(x, y, score, placement):
    x, y = x * placement.scale_x + placement.shift_x, y * placement.scale_y + placement.shift_y
    if not (0 <= x <= 1 and 0 <= y <= 1):
        score = 0.0
    return (min(1, max(0, x)), min(1, max(0, y)), score)


def people(seed, unit, classes=1, points=17, crowd=12):
    rng = np.random.default_rng(seed)
    rows = np.zeros((CELLS, 4 + classes + 3 * points), np.float32)
    rows[:, :2] = rng.uniform(0.02, 0.98, (CELLS, 2)) * unit
    rows[0, :2] = np.array(unit) * 0.99
    rows[:, 2:4] = rng.uniform(0.05, 0.5, (CELLS, 2)) * unit
    at = rng.permutation(CELLS)[:crowd]
    rows[at, 4 + rng.integers(0, classes, crowd)] = rng.uniform(0.3, 1, crowd)
    found = rows[:, 4 + classes :].reshape(CELLS, points, 3)
    found[..., :2] = rng.uniform(-0.2, 1.2, (CELLS, points, 2)) * unit
    found[..., 2] = rng.uniform(0, 1, (CELLS, points))
    return rows


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([(1, 17), (3, 5)]), st.booleans(), st.sampled_from([(1, 1), SIZE]),
    drawing.placements,
)  # fmt: skip
def test_it_reads_a_head_as_the_scalar_reading_does(seed, kind, last, unit, placement):
    classes, points = kind
    rows = people(seed, unit, classes, points)
    raw = np.ascontiguousarray((rows if last else rows.T)[None])
    made = yolo(raw, labels=tuple("abc"[:classes]), keypoints=points)
    answer = made.decode([raw], placement)
    drawing.in_range(answer)
    wanted = reference.yolo(rows[:, : 4 + classes].tolist(), False, unit, placement, 0.5, 0.7)
    drawing.same(drawing.found(answer), wanted, 1e-4)
    for one in answer.detections:
        assert len(one.keypoints) == points
        candidates = rows[np.abs(rows[:, 4 + one.class_id] - one.score) < 1e-6]
        every = [row[4 + classes :].reshape(points, 3).tolist() for row in candidates]
        mapped = [[placed_point(x / unit[0], y / unit[1], s, placement) for x, y, s in figure] for figure in every]
        assert [[pytest.approx(p, abs=1e-4) for p in figure] for figure in mapped].count(list(one.keypoints)) == 1


def test_quantised_heads():
    rows = people(2, (1, 1))
    raw = heads.quantised(rows.T[None], 1 / 64, -64)
    unit = {"box_units": "normalised"}
    whole = yolo(raw, quantisation=((1 / 64,), (-64,)), **unit).decode([raw], heads.STRETCH)
    channels = rows.shape[1]
    each = yolo(raw, quantisation=((1 / 64,) * channels, (-64,) * channels, 1), **unit).decode([raw], heads.STRETCH)
    real = ((raw.astype(np.float32) + 64) / 64).astype(np.float32)
    plain = yolo(real, **unit).decode([real], heads.STRETCH)
    assert plain.detections
    assert whole == plain
    assert each == plain


def test_end_to_end_rows_have_keypoints_too():
    raw = np.zeros((1, 300, 6 + 51), np.float32)
    raw[0, 0, :6] = [32, 64, 160, 128, 0.9, 0]
    raw[0, 0, 6:] = np.tile([96, 96, 0.8], 17)
    raw[0, 1] = raw[0, 0]
    raw[0, 1, 4] = 0.7  # the same box again: end-to-end heads are not suppressed
    first, second = yolo(raw).decode([raw], heads.STRETCH).detections
    assert (first.label, first.score, first.box) == ("person", pytest.approx(0.9), pytest.approx((0.1, 0.25, 0.5, 0.5)))
    assert first.keypoints == ((pytest.approx(0.3), 0.375, pytest.approx(0.8)),) * 17
    assert second.keypoints == first.keypoints


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_keypoints_that_are_not_numbers(broken):
    rows = people(2, SIZE)
    rows[int(rows[:, 4].argmax()), 20] = broken
    raw = rows.T[None].copy()
    with pytest.raises(FrameError, match="boxes or keypoints are not numbers") as caught:
        yolo(raw).decode([raw], heads.STRETCH)
    assert caught.value.reason == "decode"


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((1, 84, 8400), (), r"1×56×A or 1×A×56 \(4 \+ 1 classes \+ 3 × 17 keypoints\), or 1×N×57; got o 1×84×8400"),
        ((1, 56, 8400), ("a", "b"), "1×57×A"),
        ((1, 1000), (), "not those of a YOLO pose model"),
    ],
)
def test_models_it_cannot_decode(shape, labels, message):
    with pytest.raises(ModelError, match=message):
        YoloPoseDecoder(Options(), DecoderContext((), (TensorSpec("o", shape, "float32"),), labels, input_size=SIZE))


def test_an_output_of_another_shape_than_stated_fails_the_frame():
    raw = people(1, SIZE).T[None].copy()
    with pytest.raises(FrameError, match=f"expected 1×56×{CELLS}; got 1×56×{CELLS - 1}"):
        yolo(raw).decode([raw[..., 1:]], heads.STRETCH)


def movenet(raw, *, threshold=0.3, labels=(), **options):
    return PoseDecoder(PoseOptions(**options), DecoderContext((), (heads.spec("out", raw),), labels, threshold))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([heads.STRETCH, heads.LETTERBOX]))
def test_movenet_single_pose(seed, placement):
    raw = np.random.default_rng(seed).uniform(0, 1, (1, 1, 17, 3)).astype(np.float32)
    points = movenet(raw).decode([raw], placement).keypoints
    wanted = [placed_point(x, y, s, placement) for y, x, s in raw[0, 0].tolist()]
    if raw[..., 2].mean() >= 0.3:
        assert [pytest.approx(p, abs=1e-6) for p in wanted] == list(points)
    else:
        assert points == ()


def test_movenet_sees_nobody():
    raw = np.full((1, 1, 17, 3), 0.2, np.float32)
    assert movenet(raw).decode([raw], heads.STRETCH).keypoints == ()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([heads.STRETCH, heads.LETTERBOX]))
def test_movenet_multi_pose(seed, placement):
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0, 1, (1, 6, 56)).astype(np.float32)
    corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1)
    raw[0, :, 51:55] = corners.reshape(6, 4)  # y0, x0, y1, x1
    answer = movenet(raw).decode([raw], placement)
    drawing.in_range(answer)
    wanted = {}
    for figure in raw[0].tolist():
        y0, x0, y1, x1, score = figure[51:]
        box = reference.placed((x0, y0, x1, y1), placement)
        if score >= 0.3 and box[2] > box[0] and box[3] > box[1]:
            triples = zip(figure[0:51:3], figure[1:51:3], figure[2:51:3], strict=True)
            wanted[round(score, 6)] = (box, [placed_point(x, y, s, placement) for y, x, s in triples])
    assert len(answer.detections) == len(wanted)
    for one in answer.detections:
        box, points = wanted[round(one.score, 6)]
        assert (one.label, one.box) == ("person", pytest.approx(box, abs=1e-6))
        assert [pytest.approx(p, abs=1e-6) for p in points] == list(one.keypoints)


@pytest.mark.parametrize("shape", [(1, 1, 17, 3), (1, 6, 56)])
@pytest.mark.parametrize("broken", [np.nan, np.inf, 3e38])
def test_movenet_numbers_that_are_none(shape, broken):
    raw = np.full(shape, 0.5, np.float32)
    raw.reshape(-1)[-1] = broken
    with pytest.raises(FrameError, match=r"not (numbers|probabilities)") as caught:
        movenet(raw).decode([raw], heads.STRETCH)
    assert caught.value.reason == "decode"
    with pytest.raises(FrameError, match="another shape"):
        movenet(raw).decode([raw.reshape(-1)[1:]], heads.STRETCH)


@pytest.mark.parametrize(("shape", "labels"), [((1, 1000), ()), ((1, 1, 16, 3), ()), ((1, 6, 56), ("a", "b"))])
def test_models_that_are_no_movenet(shape, labels):
    with pytest.raises(ModelError, match=r"pose model|labels"):
        PoseDecoder(PoseOptions(), DecoderContext((), (TensorSpec("o", shape, "float32"),), labels))
