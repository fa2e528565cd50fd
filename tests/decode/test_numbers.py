"""Answers that are numbers: regression, embeddings, anomalies."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.decode.anomaly import AnomalyDecoder
from edgerun.decode.anomaly import Options as AnomalyOptions
from edgerun.decode.embedding import EmbeddingDecoder
from edgerun.decode.embedding import Options as EmbeddingOptions
from edgerun.decode.regress import Options as RegressOptions
from edgerun.decode.regress import RegressDecoder
from edgerun.errors import FrameError, ModelError
from edgerun.infer.tflite import Options as TfliteOptions
from edgerun.infer.tflite import TfliteEngine
from edgerun.ports import DecoderContext, EngineContext
from edgerun.types import Quantity, TensorSpec
from tests.decode import heads
from tests.real_models import model_file

numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12)


def specs(*shapes):
    return tuple(TensorSpec(f"o{k}", shape, "float32") for k, shape in enumerate(shapes))


def regress(outputs, *, labels=(), **options):
    context = DecoderContext((), tuple(heads.spec(f"o{k}", raw) for k, raw in enumerate(outputs)), labels)
    return RegressDecoder(RegressOptions(**options), context)


@settings(deadline=None)
@given(numbers, numbers)
def test_all_numbers_of_all_outputs_have_names_and_units(first, second):
    outputs = [np.array([first], np.float32), np.array(second, np.float32).reshape(1, -1, 1)]
    count = len(first) + len(second)
    names, units = tuple(f"n{k}" for k in range(count)), ("°C",) * count
    made = regress(outputs, names=names, units=units, scale=(2.0,), shift=(0.5,))
    values = made.decode(outputs, heads.STRETCH).values
    assert [(one.name, one.unit) for one in values] == [(name, "°C") for name in names]
    assert [one.value for one in values] == [pytest.approx(2 * x + 0.5) for x in first + second]
    assert made.labels == names


def test_a_single_number_without_a_name_is_the_value():
    raw = np.array([[3.5]], np.float32)
    assert regress([raw]).decode([raw], heads.STRETCH).value == 3.5
    named = regress([raw], labels=("people",), scale=(10.0,)).decode([raw], heads.STRETCH)
    assert (named.value, named.values) == (None, (Quantity("people", 35.0),))
    pair = np.array([[1, 2]], np.float32)
    assert [one.name for one in regress([pair]).decode([pair], heads.STRETCH).values] == ["0", "1"]


def test_a_quantised_regression():
    raw = np.array([[10]], np.int8)
    spec = heads.spec("o", raw, (0.5,), (-6,))
    made = RegressDecoder(RegressOptions(), DecoderContext((), (spec,)))
    assert made.decode([raw], heads.STRETCH).value == 8.0


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(broken):
    raw = np.array([[1, broken]], np.float32)
    for made in (regress([raw]), EmbeddingDecoder(EmbeddingOptions(), DecoderContext((), specs((1, 2))))):
        with pytest.raises(FrameError, match="not numbers") as caught:
            made.decode([raw], heads.STRETCH)
        assert caught.value.reason == "decode"


@pytest.mark.parametrize(
    ("shapes", "labels", "options", "message"),
    [
        ([(1, 300, 300)], (), {}, "not those of a regression.*1 to 256 numbers"),
        ([(1, 0)], (), {}, "not those of a regression"),
        ([(1, 2)], ("a",), {}, "the names are not one for each.*expected 2; got 1"),
        ([(1, 2)], (), {"units": ("m",)}, "the units are not one for each"),
        ([(1, 2)], (), {"scale": (1.0, 2.0, 3.0)}, "the scale are not one for each"),
    ],
)
def test_models_that_are_no_regression(shapes, labels, options, message):
    with pytest.raises(ModelError, match=message):
        RegressDecoder(RegressOptions(**options), DecoderContext((), specs(*shapes), labels))


def test_outputs_of_another_size_fail_the_frame():
    raw = np.zeros((1, 3), np.float32)
    with pytest.raises(FrameError, match="expected 3 numbers; got 1×2"):
        regress([raw]).decode([raw[:, 1:]], heads.STRETCH)
    made = EmbeddingDecoder(EmbeddingOptions(), DecoderContext((), specs((1, 3))))
    with pytest.raises(FrameError, match="expected 3 numbers; got 1×2"):
        made.decode([raw[:, 1:]], heads.STRETCH)


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=40))
def test_embeddings_have_length_one(vector):
    raw = np.array(vector, np.float32).reshape(1, 1, -1, 1)
    made = EmbeddingDecoder(EmbeddingOptions(), DecoderContext((), (heads.spec("e", raw),)))
    length = math.sqrt(math.fsum(x * x for x in vector))
    if not length:
        with pytest.raises(FrameError, match="no direction"):
            made.decode([raw], heads.STRETCH)
        return
    got = made.decode([raw], heads.STRETCH).embedding
    assert got == pytest.approx([x / length for x in vector], abs=1e-9)
    plain = EmbeddingDecoder(EmbeddingOptions(normalise=False), DecoderContext((), (heads.spec("e", raw),)))
    assert plain.decode([raw], heads.STRETCH).embedding == tuple(raw.ravel().tolist())


def test_which_output_is_the_embedding():
    outputs = specs((1, 16), (1, 8), (1, 1))
    with pytest.raises(ModelError, match="several outputs could be the embedding"):
        EmbeddingDecoder(EmbeddingOptions(), DecoderContext((), outputs))
    made = EmbeddingDecoder(EmbeddingOptions(output="o1"), DecoderContext((), outputs))
    raw = [np.ones((1, n), np.float32) for n in (16, 8, 1)]
    assert len(made.decode(raw, heads.STRETCH).embedding) == 8
    with pytest.raises(ModelError, match=r"not those of an embedding.*called o9"):
        EmbeddingDecoder(EmbeddingOptions(output="o9"), DecoderContext((), outputs))


def test_the_real_fingerprint_model_knows_a_picture_again():
    engine = TfliteEngine(
        TfliteOptions(), EngineContext(model_file("fingerprint_signature_generator.tflite"), "fingerprint")
    )
    made = EmbeddingDecoder(EmbeddingOptions(), DecoderContext(engine.inputs, engine.outputs))

    def embed(name, add=0):
        grey = cv2.resize(cv2.imread(str(model_file(name)), cv2.IMREAD_GRAYSCALE), (180, 180)).astype(np.int16)
        pixels = np.clip(grey - 128 + add, -128, 127).astype(np.int8)
        return np.array(made.decode(engine.infer((pixels[None, ..., None],)), heads.STRETCH).embedding)

    first, again, other = embed("coffee.png"), embed("coffee.png", 3), embed("chelsea.png")
    assert first @ first == pytest.approx(1)
    assert first @ again > first @ other
    assert first @ again > 0.9


def anomaly(outputs, inputs, **options):
    named = tuple(heads.spec(f"o{k}", raw) for k, raw in enumerate(outputs))
    context = DecoderContext(tuple(heads.spec("x", raw) for raw in inputs), named)
    return AnomalyDecoder(AnomalyOptions(**options), context)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["mse", "mae", "rmse"]), st.sampled_from([None, 0.5]))
def test_the_error_is_that_of_the_reconstruction(seed, error, limit):
    rng = np.random.default_rng(seed)
    seen, rebuilt = rng.normal(size=(2, 1, 5, 8, 1)).astype(np.float32)
    made = anomaly([rebuilt], [seen], error=error, limit=limit)
    assert made.wants_inputs
    answer = made.decode([rebuilt, seen], heads.STRETCH)
    differences = [a - b for a, b in zip(seen.ravel().tolist(), rebuilt.ravel().tolist(), strict=True)]
    wanted = math.fsum(abs(d) if error == "mae" else d * d for d in differences) / 40
    wanted = math.sqrt(wanted) if error == "rmse" else wanted
    assert answer.value == pytest.approx(wanted)
    if limit is None:
        assert answer.classes is None
    else:
        (one,) = answer.classes
        assert one.label == ("anomaly" if wanted > limit else "normal")
        assert one.class_id == (wanted > limit)
        assert one.score == pytest.approx(max(wanted, limit) / (wanted + limit))


def test_an_output_that_repeats_the_input_and_one_that_is_the_error():
    seen, rebuilt = np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32)
    made = anomaly([seen, rebuilt], [seen], original="o0")
    assert not made.wants_inputs
    assert made.decode([seen, rebuilt], heads.STRETCH).value == 1.0
    score = np.array([[0.25]], np.float32)
    made = anomaly([score], [seen])
    assert not made.wants_inputs
    assert made.decode([score], heads.STRETCH).value == 0.25
    with pytest.raises(FrameError, match="below 0"):
        made.decode([-score], heads.STRETCH)


def test_inputs_and_outputs_quantised_differently():
    seen, rebuilt = np.array([[10, 20]], np.uint8), np.array([[0, 12]], np.int8)
    context = DecoderContext(
        (heads.spec("x", seen, (0.1,), (0,)),), (heads.spec("o", rebuilt, (0.25,), (4,)),)
    )  # 1, 2 → -1, 2
    assert AnomalyDecoder(AnomalyOptions(), context).decode([rebuilt, seen], heads.STRETCH).value == pytest.approx(2)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 3e38])
def test_reconstructions_that_are_not_numbers(broken):
    seen, rebuilt = np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32)
    rebuilt[0, 2] = broken
    made = anomaly([rebuilt], [seen])
    if broken == 3e38:
        assert made.decode([rebuilt, seen], heads.STRETCH).value > 1e75
        return
    with pytest.raises(FrameError, match="not numbers") as caught:
        made.decode([rebuilt, seen], heads.STRETCH)
    assert caught.value.reason == "decode"


def test_what_was_not_handed_over():
    seen = np.ones((1, 4), np.float32)
    with pytest.raises(FrameError, match="input was not handed over"):
        anomaly([seen], [seen]).decode([seen], heads.STRETCH)
    with pytest.raises(FrameError, match="expected 4 numbers"):
        anomaly([seen], [seen]).decode([seen, seen[:, 1:]], heads.STRETCH)


@pytest.mark.parametrize("shapes", [[(1, 4)], [(1, 4), (1, 4)], [(1, 4), (1, 3)]])
def test_models_that_are_no_autoencoder(shapes):
    with pytest.raises(ModelError, match="not those of an autoencoder"):
        AnomalyDecoder(AnomalyOptions(), DecoderContext(specs((1, 5)), specs(*shapes)))


def test_the_real_autoencoder_rebuilds_heartbeats_and_not_noise():
    engine = TfliteEngine(TfliteOptions(), EngineContext(model_file("autoencoder_example.tflite"), "autoencoder"))
    made = AnomalyDecoder(AnomalyOptions(), DecoderContext(engine.inputs, engine.outputs))
    assert made.wants_inputs

    def error(signal):
        return made.decode((*engine.infer((signal,)), signal), heads.STRETCH).value

    noise = np.random.default_rng(0).uniform(0, 1, (1, 140)).astype(np.float32)
    beat = engine.infer((noise,))[0].copy()  # what it takes for the nearest heartbeat
    assert error(beat) < error(noise) / 4
