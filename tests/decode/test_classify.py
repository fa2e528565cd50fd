import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.classify import ClassifyDecoder, Options
from edgerun.errors import FrameError, ModelError
from edgerun.ports import DecoderContext
from edgerun.types import TensorSpec
from tests.decode import heads

LABELS = tuple("abcde")
numbers = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


def decoder(raw, *, labels=LABELS, threshold=0.0, top_k=5, quantisation=((), ()), **options):
    context = DecoderContext(
        inputs=(), outputs=(heads.spec("out", raw, *quantisation),), labels=labels, threshold=threshold, top_k=top_k
    )
    return ClassifyDecoder(Options(**options), context)


def classes(made, raw):
    return [(one.label, one.class_id, one.score) for one in made.decode([raw], heads.STRETCH).classes]


@settings(deadline=None)
@given(numbers, st.integers(1, 7), st.floats(0, 1), st.sampled_from([(1, 5), (5,), (1, 1, 1, 5), (1, 5, 1, 1)]))
def test_logits_become_probabilities_best_first(logits, top_k, threshold, shape):
    raw = np.array(logits, np.float32).reshape(shape)
    got = classes(decoder(raw, top_k=top_k, threshold=threshold, activation="softmax"), raw)
    powers = [math.exp(x - max(logits)) for x in logits]
    wanted = sorted(((p / sum(powers), -i) for i, p in enumerate(powers)), reverse=True)[:top_k]
    wanted = [(score, -i) for score, i in wanted]
    assert len(got) <= top_k
    sure = [one for one in wanted if abs(one[0] - threshold) > 1e-6]
    assert [one[2] for one in got] == sorted((one[2] for one in got), reverse=True)
    assert {i for score, i in sure if score > threshold} <= {one[1] for one in got} or len(set(logits)) < 5
    for label, index, score in got:
        assert label == LABELS[index]
        assert score == pytest.approx(powers[index] / sum(powers), abs=1e-6)
        assert score >= np.float32(threshold)


def test_probabilities_are_left_alone_and_logits_are_not():
    probabilities = np.array([[0.1, 0.6, 0.05, 0.05, 0.2]], np.float32)
    logits = np.log(probabilities)
    auto = decoder(probabilities)
    assert [one[:2] for one in classes(auto, probabilities)][:2] == [("b", 1), ("e", 4)]
    assert classes(auto, probabilities)[0][2] == pytest.approx(0.6)
    assert classes(auto, logits)[0][2] == pytest.approx(0.6)


@pytest.mark.parametrize(("scale", "zero", "wanted"), [(1 / 256, 0, 0.5), (0.1, 0, None)])
def test_quantised_outputs_are_judged_by_their_range(scale, zero, wanted):
    raw = np.array([[1, 128, 2, 3, 4]], np.uint8)
    got = classes(decoder(raw, quantisation=((scale,), (zero,))), raw)
    real = scale * (raw[0].astype(float) - zero)
    softmaxed = np.exp(real - real.max()) / np.exp(real - real.max()).sum()
    assert got[0][2] == pytest.approx(wanted if wanted is not None else softmaxed[1], abs=1e-6)


def test_one_class_is_never_put_through_softmax():
    raw = np.array([[2.0]], np.float32)
    assert classes(decoder(raw, labels=("wake",)), raw) == [("wake", 0, pytest.approx(1 / (1 + math.exp(-2))))]


def test_each_class_for_itself():
    raw = np.array([[2.0, 1.0, -9, -9, -9]], np.float32)
    got = classes(decoder(raw, activation="sigmoid", threshold=0.5), raw)
    assert got == [("a", 0, pytest.approx(0.880797)), ("b", 1, pytest.approx(0.731059))]


def test_labels_with_a_background_in_front():
    raw = np.array([[0.9, 0.1, 0, 0, 0]], np.float32)
    made = decoder(raw, labels=("background", *LABELS), background_first=True)
    assert classes(made, raw)[0][:2] == ("a", 1)
    assert made.labels == LABELS


@pytest.mark.parametrize(
    ("shapes", "labels", "options", "message"),
    [
        ([(1, 5)], "abcd", {}, "fewer labels than the model has classes; expected 5 labels; got 4"),
        ([(1, 5)], "xabcde", {}, "more labels.*expected 5 labels; got 6.*background_first = true"),
        ([(1, 5)], "abcde", {"background_first": True}, "fewer labels.*expected 6 labels; got 5"),
        ([(1, 1917, 4)], "", {}, "not those of a classifier; expected one output 1×N; got out0 1×1917×4 float32"),
        ([(1, 5), (1, 7)], "abc", {}, "several outputs could hold|not those of a classifier"),
        ([(1, 5), (1, 7)], "", {}, "several outputs could hold the scores"),
    ],
)
def test_models_it_cannot_decode(shapes, labels, options, message):
    specs = tuple(TensorSpec(f"out{k}", shape, "float32") for k, shape in enumerate(shapes))
    with pytest.raises(ModelError, match=message):
        ClassifyDecoder(Options(**options), DecoderContext(inputs=(), outputs=specs, labels=tuple(labels)))


def test_the_output_with_as_many_numbers_as_labels_is_the_one():
    specs = tuple(TensorSpec(f"out{k}", (1, side), "float32") for k, side in enumerate((3, 5)))
    made = ClassifyDecoder(Options(), DecoderContext(inputs=(), outputs=specs, labels=LABELS))
    raw = [np.zeros((1, 3), np.float32), np.array([[0, 0, 1, 0, 0]], np.float32)]
    assert made.decode(raw, heads.STRETCH).classes[0].label == "c"


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_numbers(broken):
    raw = np.array([[0, broken, 1, 0, 0]], np.float32)
    with pytest.raises(FrameError, match="scores are not numbers") as caught:
        classes(decoder(raw), raw)
    assert caught.value.reason == "decode"


def test_logits_that_were_called_probabilities():
    raw = np.array([[4, -3, 1, 0, 0]], np.float32)
    with pytest.raises(FrameError, match=r"expected 0\.\.1; got -3\.\.4.*softmax"):
        classes(decoder(raw, activation="none"), raw)


def test_an_output_of_another_shape_than_stated_fails_the_frame():
    raw = np.zeros((1, 5), np.float32)
    with pytest.raises(FrameError, match="expected 1×5; got 1×4"):
        classes(decoder(raw), raw[:, 1:])


def test_no_labels_at_all_give_numbers():
    raw = np.array([[0, 0, 1, 0, 0]], np.float32)
    assert classes(decoder(raw, labels=(), threshold=0.5), raw) == [("2", 2, 1.0)]
