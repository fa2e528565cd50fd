import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.ssd import Options, SsdAnchorsDecoder, anchors
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import TensorSpec
from tests.decode import drawing, heads, reference

CLASSES = 8
LABELS = ("???", *(f"thing {k}" for k in range(1, CLASSES)))
few = settings(max_examples=30, deadline=None)


def decoder(codes, logits, *, options=None, threshold=0.5, labels=LABELS, codes_q=((), ()), logits_q=((), ())):
    outputs = (heads.spec("codes", codes, *codes_q), heads.spec("logits", logits, *logits_q))
    context = DecoderContext(inputs=(), outputs=outputs, labels=labels, threshold=threshold)
    return SsdAnchorsDecoder(options or Options(), context)


def test_the_default_anchors_are_those_of_ssd_mobilenet_v2():
    assert anchors(Options()) == pytest.approx(np.array(heads.ANCHORS))
    assert len(heads.ANCHORS) == 1917


@few
@given(drawing.objects(CLASSES, first=1), drawing.placements)
def test_boxes_come_back(objects, placement):
    codes, logits, _ = heads.ssd_head(objects, CLASSES)
    answer = decoder(codes, logits).decode([codes, logits], placement)
    drawing.in_range(answer)
    wanted = [(cls, score, reference.placed(box, placement)) for cls, score, box in objects]
    drawing.same(drawing.found(answer), [one for one in wanted if one[2][1] < one[2][3]])
    assert all(one.label == LABELS[one.class_id] for one in answer.detections)


def random_head(seed, crowd):
    """A head of noise; `crowd` is about how many of its scores reach 0.5."""
    rng = np.random.default_rng(seed)
    codes = rng.normal(0, 3, (1, 1917, 4)).astype(np.float32)
    logits = rng.normal(-6, 1, (1, 1917, CLASSES)).astype(np.float32)
    logits.reshape(-1)[rng.integers(0, logits.size, crowd)] = rng.uniform(0.1, 4, crowd)
    logits[..., 0] = 3
    return codes, logits


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([0, 3, 40, 1500]), st.sampled_from([0.01, 0.5, 0.9]), drawing.placements
)
def test_it_reads_a_head_as_the_scalar_reading_does(seed, crowd, threshold, placement):
    codes, logits = random_head(seed, crowd)
    answer = decoder(codes, logits, threshold=threshold, options=Options(max_candidates=20000)).decode(
        [codes, logits], placement
    )
    drawing.in_range(answer)
    wanted = reference.ssd(codes[0].tolist(), logits[0].tolist(), heads.ANCHORS, placement, threshold, 0.6)
    drawing.same(drawing.found(answer), wanted)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["int8", "uint8"]), st.sampled_from([0.0, 0.3, 0.5, 0.97]))
def test_a_quantised_head_is_read_as_its_real_values_are(seed, dtype, threshold):
    codes, logits = random_head(seed, 60)
    zero = 5 if dtype == "int8" else 133
    q_codes, q_logits = heads.quantised(codes, 0.09, zero, dtype), heads.quantised(logits, 0.1, zero, dtype)
    quant = decoder(
        q_codes, q_logits, threshold=threshold, codes_q=((0.09,), (zero,)), logits_q=((0.1,), (zero,))
    ).decode([q_codes, q_logits], heads.STRETCH)
    f_codes, f_logits = (np.float32(s) * (q.astype(np.float32) - zero) for s, q in ((0.09, q_codes), (0.1, q_logits)))
    plain = decoder(f_codes, f_logits, threshold=threshold).decode([f_codes, f_logits], heads.STRETCH)
    drawing.same(drawing.found(quant), drawing.found(plain), 1e-6)


@few
@given(drawing.objects(CLASSES, first=1))
def test_quantising_moves_no_object_by_more_than_one_quantum(objects):
    codes, logits, used = heads.ssd_head(objects, CLASSES)
    codes_scale, logits_scale = 0.2, 0.1
    q_codes, q_logits = heads.quantised(codes, codes_scale, 0), heads.quantised(logits, logits_scale, 20)
    answer = decoder(q_codes, q_logits, codes_q=((codes_scale,), (0,)), logits_q=((logits_scale,), (20,))).decode(
        [q_codes, q_logits], heads.STRETCH
    )
    got = {one.class_id: one for one in answer.detections}
    assert got.keys() == {cls for cls, _, _ in objects}
    for (cls, score, box), at in zip(objects, used, strict=True):
        assert abs(heads.logit(got[cls].score) - heads.logit(score)) <= logits_scale
        if all(0.02 < side < 0.98 for side in box):  # a box cut at the border has lost its code
            wanted = heads.ssd_code(box, heads.ANCHORS[at])
            assert heads.ssd_code(got[cls].box, heads.ANCHORS[at]) == pytest.approx(wanted, abs=codes_scale)


def test_one_scale_per_channel():
    objects = [(2, 0.7, (0.2, 0.3, 0.6, 0.7))]
    codes, logits, _ = heads.ssd_head(objects, CLASSES)
    scales, zeros = (0.05, 0.06, 0.07, 0.08), (0, 1, 2, 3)
    q_codes = heads.quantised(codes, np.array(scales), np.array(zeros))
    outputs = (
        heads.spec("codes", q_codes, scales, zeros, 2),
        heads.spec("logits", logits),
    )
    made = SsdAnchorsDecoder(Options(), DecoderContext(inputs=(), outputs=outputs, labels=LABELS))
    drawing.same(drawing.found(made.decode([q_codes, logits], heads.STRETCH)), objects, 0.01)


def test_softmax_scores():
    codes, logits, _ = heads.ssd_head([(3, 0.7, (0.2, 0.3, 0.6, 0.7))], CLASSES)
    logits[:] = 0
    logits[..., 0] = 9
    at = int(np.abs(codes).sum(axis=2).argmax())
    logits[0, at] = [0, 0, 0, 4, 0, 0, 0, 0]
    found = decoder(codes, logits, options=Options(score="softmax")).decode([codes, logits], heads.STRETCH).detections
    assert [(one.class_id, one.score) for one in found] == [(3, pytest.approx(np.e**4 / (np.e**4 + 7), abs=1e-5))]


def test_scores_that_are_probabilities_already():
    codes, logits, _ = heads.ssd_head([(3, 0.7, (0.2, 0.3, 0.6, 0.7))], CLASSES)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    made = decoder(codes, scores, options=Options(score="none", background=0))
    assert [one.score for one in made.decode([codes, scores], heads.STRETCH).detections] == [pytest.approx(0.7)]
    with pytest.raises(FrameError, match='set score = "sigmoid"') as caught:
        made.decode([codes, np.full_like(logits, 4)], heads.STRETCH)
    assert caught.value.reason == "decode"


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_boxes_that_are_not_numbers(broken):
    codes, logits, (at,) = heads.ssd_head([(3, 0.7, (0.2, 0.3, 0.6, 0.7))], CLASSES)
    codes[0, at, 2] = broken
    with pytest.raises(FrameError, match="boxes are not numbers") as caught:
        decoder(codes, logits).decode([codes, logits], heads.STRETCH)
    assert caught.value.reason == "decode"


def test_one_score_that_is_not_a_number():
    codes, logits, _ = heads.ssd_head([], CLASSES)
    logits[0, 1000, 5] = np.nan
    with pytest.raises(FrameError, match="scores are not numbers") as caught:
        decoder(codes, logits).decode([codes, logits], heads.STRETCH)
    assert caught.value.reason == "decode"


def test_a_box_too_large_for_its_numbers_is_cut_at_the_frame():
    codes, logits, (at,) = heads.ssd_head([(3, 0.7, (0.2, 0.3, 0.6, 0.7))], CLASSES)
    codes[0, at] = (0, 0, 1e30, 1e30)
    (found,) = decoder(codes, logits).decode([codes, logits], heads.STRETCH).detections
    assert found.box == (0, 0, 1, 1)


def test_nothing_there():
    codes, logits, _ = heads.ssd_head([], CLASSES)
    for threshold in (0.5, 1.0):
        assert decoder(codes, logits, threshold=threshold).decode([codes, logits], heads.STRETCH).detections == ()


def test_no_labels_at_all_give_numbers():
    codes, logits, _ = heads.ssd_head([(3, 0.7, (0.2, 0.3, 0.6, 0.7))], CLASSES)
    made = decoder(codes, logits, labels=())
    assert made.decode([codes, logits], heads.STRETCH).detections[0].label == "3"
    assert made.labels == tuple("1234567")


@pytest.mark.parametrize(
    ("outputs", "labels", "options", "message"),
    [
        ([(1, 1917, 4), (1, 1917, 8)], LABELS[:-1], {}, "fewer labels.*expected 8 labels; got 7"),
        ([(1, 1917, 4), (1, 1917, 8)], (*LABELS, "x"), {}, "more labels.*expected 8 labels; got 9"),
        ([(1, 1917, 4), (1, 2034, 8)], (), {}, "1×1917×classes.*got b 1×1917×4 float32, s 1×2034×8"),
        ([(1, 1000), (1, 4)], (), {}, "not those of an SSD head.*feature_sizes"),
        ([(1, 1917, 4), (1, 1917, 4)], (), {"boxes_output": "", "scores_output": ""}, "boxes_output, scores_output"),
        ([(1, 1917, 4), (1, 1917, 8)], (), {"background": 8}, r"background in 0\.\.7, or null; got 8"),
        ([(1, 1917, 4), (1, 1917, 8)], (), {"num_layers": 5}, r"5 feature_sizes .*got 6"),
    ],
)
def test_models_it_cannot_decode(outputs, labels, options, message):
    specs = tuple(TensorSpec(name, shape, "float32") for name, shape in zip("bs", outputs, strict=True))
    with pytest.raises(ModelError, match=message):
        SsdAnchorsDecoder(Options(**options), DecoderContext(inputs=(), outputs=specs, labels=labels))


def test_three_classes_and_a_background_are_told_apart_from_boxes_by_name():
    codes, logits, _ = heads.ssd_head([(3, 0.7, (0.2, 0.3, 0.6, 0.7))], 4)
    for names, options in (
        ("raw/class_predictions", {}),
        ("b", {"scores_output": "b", "boxes_output": "raw/box_encodings"}),
    ):
        outputs = (heads.spec(names, logits), heads.spec("raw/box_encodings", codes))
        made = SsdAnchorsDecoder(Options(**options), DecoderContext(inputs=(), outputs=outputs))
        assert [one.class_id for one in made.decode([logits, codes], heads.STRETCH).detections] == [3]


def test_an_output_of_another_shape_than_stated_fails_the_frame():
    codes, logits, _ = heads.ssd_head([], CLASSES)
    with pytest.raises(FrameError, match="expected 1×1917×8; got 1×1916×8"):
        decoder(codes, logits).decode([codes, logits[:, 1:]], heads.STRETCH)


def test_mistyped_options_are_refused():
    with pytest.raises(msgspec.ValidationError, match="num_layer"):
        msgspec.convert({"num_layer": 6}, Options)
    assert msgspec.convert({"background": None, "aspect_ratios": [1, 2]}, Options).aspect_ratios == (1.0, 2.0)


@pytest.mark.parametrize(
    ("key", "value"), [("iou", 1.5), ("max_detections", 0), ("score", "relu"), ("box_scales", [1])]
)
def test_options_out_of_range_are_refused(key, value):
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert({key: value}, Options)


def test_half_precision_outputs():
    objects = [(3, 0.7, (0.2, 0.3, 0.6, 0.7))]
    codes, logits, _ = heads.ssd_head(objects, CLASSES)
    codes, logits = codes.astype(np.float16), logits.astype(np.float16)
    drawing.same(drawing.found(decoder(codes, logits).decode([codes, logits], heads.STRETCH)), objects, 2e-3)
