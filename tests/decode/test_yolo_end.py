import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.yolo import Options, YoloDecoder
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import TensorSpec
from tests.decode import drawing, heads, reference

SIZE = (640, 480)
LABELS = tuple(f"thing {k}" for k in range(9))


def decoder(raw, *, threshold=0.5, labels=LABELS, quantisation=(), size=SIZE, **options):
    context = DecoderContext((), (heads.spec("out", raw, *quantisation),), labels, threshold, input_size=size)
    return YoloDecoder(Options(**options), context)


def rows_of(seed, count, unit):
    """Rows as `v10Detect` leaves them, best first, with boxes that may reach beyond the picture."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((1, count, 6), np.float32)
    x = np.sort(rng.uniform(-0.1, 1.1, (count, 2)), axis=1)
    y = np.sort(rng.uniform(-0.1, 1.1, (count, 2)), axis=1)
    rows[0, :, :4] = np.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), axis=1) * (*unit, *unit)
    rows[0, :, 4] = np.sort(rng.uniform(0, 1, count))[::-1]
    rows[0, :, 5] = rng.integers(0, 9, count)
    return rows


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 100, 300]), st.sampled_from([(1, 1), SIZE]), drawing.placements,
    st.sampled_from(["auto", "10"]), st.booleans(),
)  # fmt: skip
def test_rows_are_the_answer(seed, count, unit, placement, version, shuffled):
    raw = rows_of(seed, count, unit)
    if shuffled:
        raw = np.random.default_rng(seed).permutation(raw, axis=1)
    units = "auto" if count > 1 else ("pixels" if unit == SIZE else "normalised")  # one box tells too little
    answer = decoder(raw, version=version, box_units=units).decode([raw], placement)
    drawing.in_range(answer)
    wanted = []
    for x0, y0, x1, y1, score, cls in raw[0].tolist():
        box = reference.placed((x0 / unit[0], y0 / unit[1], x1 / unit[0], y1 / unit[1]), placement)
        if score >= 0.5 and box[2] > box[0] and box[3] > box[1]:
            wanted.append((int(cls), score, box))
    drawing.same(drawing.found(answer), wanted, 1e-4)
    assert all(one.label == LABELS[one.class_id] for one in answer.detections)


def test_nothing_is_suppressed_and_only_the_best_are_told():
    raw = np.zeros((1, 300, 6), np.float32)
    raw[0, :5] = [[10, 10, 200, 200, 0.9 - 0.01 * k, 3] for k in range(5)]
    assert len(decoder(raw).decode([raw], heads.STRETCH).detections) == 5
    assert [one.score for one in decoder(raw, max_detections=2).decode([raw], heads.STRETCH).detections] == [
        pytest.approx(0.9),
        pytest.approx(0.89),
    ]


def test_without_labels_classes_are_numbers():
    raw = rows_of(1, 300, SIZE)
    made = decoder(raw, labels=())
    assert made.labels == ()
    assert all(one.label == str(one.class_id) for one in made.decode([raw], heads.STRETCH).detections)


def test_half_precision_and_quantised_rows():
    raw = np.zeros((1, 300, 6), np.float32)
    raw[0, 0] = [0.25, 0.25, 0.5, 0.75, 0.875, 1.0]
    for made, scale, zero in ((raw.astype(np.float16), (), ()), (heads.quantised(raw, 1 / 64, -64), (1 / 64,), (-64,))):
        answer = decoder(made, quantisation=(scale, zero)).decode([made], heads.STRETCH)
        drawing.same(drawing.found(answer), [(1, 0.875, (0.25, 0.25, 0.5, 0.75))], 1e-3)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (4, np.nan, "scores are not numbers"),
        (4, np.inf, "scores are not numbers"),
        (4, 7.5, "not probabilities.*got 7.5"),
        (0, np.nan, "boxes are not numbers"),
        (2, np.inf, "boxes are not numbers"),
        (5, np.nan, "boxes are not numbers"),
        (5, 9, r"no label names.*0\.\.8; got 9"),
        (5, 1.5, "no label names"),
        (5, -1, "no label names"),
    ],
)
def test_rows_that_cannot_be_such_fail_the_frame(column, value, message):
    raw = rows_of(1, 300, SIZE)
    raw[0, 0, column] = value
    with pytest.raises(FrameError, match=message) as caught:
        decoder(raw).decode([raw], heads.STRETCH)
    assert caught.value.reason == "decode"


def test_huge_boxes_stay_in_the_frame():
    raw = rows_of(1, 300, SIZE)
    raw[0, 0, :4] = [-3e38, -3e38, 3e38, 3e38]
    (largest, *_) = decoder(raw).decode([raw], heads.STRETCH).detections
    assert largest.box == (0, 0, 1, 1)


def test_an_output_of_another_shape_than_stated_fails_the_frame():
    raw = rows_of(1, 300, SIZE)
    with pytest.raises(FrameError, match="expected 1×300×6; got 1×299×6"):
        decoder(raw).decode([raw[:, 1:]], heads.STRETCH)


@pytest.mark.parametrize(
    ("shape", "options", "size", "message"),
    [
        ((1, 300, 7), {"version": "10"}, SIZE, "rows 1×N×6"),
        ((1, 300, 6), {"version": "8"}, SIZE, "not those of a YOLO head"),
        ((1, 300, 6), {}, (0, 0), "cannot tell|not those"),
        ((1, 300, 6), {"version": "10"}, (0, 0), "size of the model's input is not known"),
    ],
)
def test_models_it_cannot_decode(shape, options, size, message):
    context = DecoderContext((), (TensorSpec("o", shape, "float32"),), LABELS, input_size=size)
    with pytest.raises(ModelError, match=message):
        YoloDecoder(Options(**options), context)
