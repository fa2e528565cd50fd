import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.postprocess import DetectionPostprocessDecoder, Options
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import TensorSpec
from tests.decode import drawing, heads, reference

LABELS = tuple(f"thing {k}" for k in range(12))
OBJECTS = [(3, 0.75, (0.25, 0.5, 0.5, 0.75)), (7, 0.625, (0.0, 0.125, 0.5, 0.25))]
ORDERS = list(itertools.permutations(range(4)))
ANONYMOUS = tuple(f"StatefulPartitionedCall:{k}" for k in range(4))


def tensors(objects, rows=10, padding=0.0):
    """boxes, classes, scores, count as the TFLite operator leaves them: best first, the rest padded."""
    boxes, classes = np.full((1, rows, 4), padding, np.float32), np.full((1, rows), padding, np.float32)
    scores = np.full((1, rows), padding, np.float32)
    for i, (cls, score, (x0, y0, x1, y1)) in enumerate(sorted(objects, key=lambda one: -one[1])):
        boxes[0, i], classes[0, i], scores[0, i] = (y0, x0, y1, x1), cls, score
    return [boxes, classes, scores, np.array([len(objects)], np.float32)]


def decoder(rows=10, order=(0, 1, 2, 3), names=ANONYMOUS, shapes="stated", labels=LABELS, threshold=0.5, **options):
    shape = [(1, rows, 4), (1, rows), (1, rows), (1,)]
    kinds = {"stated": lambda k: shape[k], "empty": lambda k: (), "open": lambda k: (-1,) * len(shape[k])}
    specs = tuple(TensorSpec(names[at], kinds[shapes](k), "float32") for at, k in enumerate(order))
    context = DecoderContext(inputs=(), outputs=specs, labels=labels, threshold=threshold)
    return DetectionPostprocessDecoder(Options(**options), context)


def decode(made, raw, order=(0, 1, 2, 3), placement=heads.STRETCH):
    return made.decode([raw[k] for k in order], placement)


@settings(max_examples=60, deadline=None)
@given(
    drawing.objects(12),
    st.sampled_from(ORDERS),
    st.sampled_from(["stated", "empty", "open"]),
    st.sampled_from([1, 4, 10, 100]),
    drawing.placements,
)
def test_boxes_come_back_in_whatever_order_the_outputs_are(objects, order, shapes, rows, placement):
    objects = objects[:rows]
    answer = decode(decoder(rows, order, shapes=shapes), tensors(objects, rows), order, placement)
    drawing.in_range(answer)
    wanted = [(cls, score, reference.placed(box, placement)) for cls, score, box in objects]
    drawing.same(drawing.found(answer), [one for one in wanted if one[2][1] < one[2][3]])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", [1, 4, 10])
def test_what_one_frame_decided_holds_for_frames_that_do_not_tell(order, rows):
    made = decoder(rows, order)
    # Nothing but zeros says nothing, and nothing is found either way.
    assert decode(made, tensors([(0, 0.0, (0, 0, 1, 1))], rows), order).detections == ()
    decode(made, tensors(OBJECTS[:1], rows), order)
    # A class 1 of score 1 could be read both ways.
    found = decode(made, tensors([(0, 1.0, (0, 0, 1, 1))], rows), order).detections
    assert [(one.class_id, one.score) for one in found] == [(0, 1.0)]
    found = decode(made, tensors([(1, 1.0, (0, 0, 1, 1))], rows), order).detections
    assert [(one.class_id, one.score) for one in found] == [(1, 1.0)]


def test_a_frame_that_does_not_tell_is_failed_rather_than_guessed():
    with pytest.raises(FrameError, match="cannot tell classes from scores") as caught:
        decode(decoder(), tensors([(0, 1.0, (0, 0, 1, 1))]))
    assert caught.value.reason == "decode"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 1, 0, 3)])
@pytest.mark.parametrize(
    "names",
    [
        [f"TFLite_Detection_PostProcess{tail}" for tail in ("", ":1", ":2", ":3")],
        ["a", "detection_classes", "b", "c"],
        ["a", "b", "detection_scores", "c"],
    ],
)
def test_names_decide_where_they_mean_something(order, names):
    made = decoder(order=order, names=[names[k] for k in order])
    found = decode(made, tensors([(0, 1.0, (0, 0, 1, 1))]), order).detections
    assert [(one.class_id, one.score) for one in found] == [(0, 1.0)]


def test_values_that_turn_round_in_mid_run_fail_the_frame():
    made, raw = decoder(), tensors(OBJECTS)
    decode(made, raw)
    with pytest.raises(FrameError, match="the other way round than before"):
        decode(made, raw, (0, 2, 1, 3))


def test_labels_may_begin_with_a_background():
    found = decode(decoder(class_offset=1), tensors(OBJECTS)).detections
    assert [(one.class_id, one.label) for one in found] == [(4, "thing 4"), (8, "thing 8")]
    assert decoder(class_offset=1).labels == LABELS[1:]


def test_no_labels_at_all_give_numbers():
    assert [one.label for one in decode(decoder(labels=()), tensors(OBJECTS)).detections] == ["3", "7"]


def test_a_class_that_no_label_names():
    with pytest.raises(FrameError, match=r"expected classes 0\.\.4; got 7"):
        decode(decoder(labels=LABELS[:5]), tensors(OBJECTS))


def test_what_lies_behind_the_count_is_not_looked_at():
    raw = tensors(OBJECTS, padding=np.nan)
    assert len(decode(decoder(), raw).detections) == 2
    raw[3][0] = 0
    assert decode(decoder(), raw).detections == ()


@pytest.mark.parametrize(("which", "what"), [(0, "boxes"), (1, "scores or classes"), (2, "scores or classes")])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_that_are_not_numbers(which, what, broken):
    raw = tensors(OBJECTS)
    raw[which].reshape(-1)[0] = broken
    with pytest.raises(FrameError, match=f"{what} are not numbers") as caught:
        decode(decoder(), raw)
    assert caught.value.reason == "decode"


@pytest.mark.parametrize("count", [np.nan, -1.0, 0.5, np.inf])
def test_a_count_that_is_none(count):
    raw = tensors(OBJECTS)
    raw[3][0] = count
    with pytest.raises(FrameError, match="not a count"):
        decode(decoder(), raw)


def test_boxes_without_an_area_are_left_out():
    flat = [(3, 0.75, (0.25, 0.5, 0.25, 0.75)), (4, 0.7, (1.1, 0.5, 1.2, 0.75)), (5, 0.6, (-0.5, 0.5, 0.25, 0.75))]
    assert [one.box for one in decode(decoder(), tensors(flat)).detections] == [(0.0, 0.5, 0.25, 0.75)]


def test_quantised_outputs():
    raw = tensors(OBJECTS)
    scales = (1 / 128, 1.0, 1 / 128, 1.0)
    q = [heads.quantised(one, scale, 0, "uint8") for one, scale in zip(raw, scales, strict=True)]
    specs = tuple(heads.spec("x", one, (scale,), (0,)) for one, scale in zip(q, scales, strict=True))
    made = DetectionPostprocessDecoder(Options(), DecoderContext(inputs=(), outputs=specs, labels=LABELS))
    assert drawing.found(made.decode(q, heads.STRETCH)) == OBJECTS


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 1917, 4), (1, 1917, 24)],
        [(1, 10, 4), (1, 10), (1, 10)],
        [(1, 10, 4), (1, 10), (1, 11), (1,)],
        [(1, 10, 4), (1, 10), (1, 9), (1,)],
        [(1, 10, 5), (1, 10), (1, 10), (1,)],
        [(1, 10, 24), (), (), ()],
    ],
)
def test_models_it_cannot_decode(shapes):
    specs = tuple(TensorSpec(f"out{k}", shape, "float32") for k, shape in enumerate(shapes))
    with pytest.raises(ModelError, match=r"boxes 1×N×4, classes 1×N, scores 1×N and count 1.*got out0 1×"):
        DetectionPostprocessDecoder(Options(), DecoderContext(inputs=(), outputs=specs))


def test_outputs_that_do_not_fit_together_fail_the_frame():
    raw = tensors(OBJECTS)
    raw[1] = raw[1][:, :3]
    with pytest.raises(FrameError, match=r"do not fit together.*got 1×10×4, 1×3, 1×10, 1"):
        decode(decoder(shapes="empty"), raw)


def test_an_offset_beyond_the_labels():
    with pytest.raises(ModelError, match=r"expected 0\.\.11; got 12"):
        decoder(class_offset=12)
