"""What models of sounds and of several labels give, read as classes: raw scores, made into events elsewhere."""

import math

import numpy as np
import pytest

from edgerun.decode.classify import ClassifyDecoder, Options
from edgerun.infer.onnx import OnnxEngine
from edgerun.infer.onnx import Options as OnnxOptions
from edgerun.ports import DecoderContext, EngineContext
from tests.decode import heads
from tests.real_models import model_file


def test_voice_activity_is_a_class():
    engine = OnnxEngine(OnnxOptions(), EngineContext(model_file("silero_vad.onnx"), "vad"))
    context = DecoderContext(engine.inputs, engine.outputs, ("speech",), threshold=0.0)
    made = ClassifyDecoder(Options(activation="none"), context)
    sound = np.random.default_rng(0).normal(0, 0.01, (1, 576)).astype(np.float32)
    outputs = engine.infer((sound, np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64)))
    (one,) = made.decode(outputs, heads.STRETCH).classes
    assert (one.label, one.class_id) == ("speech", 0)
    assert one.score == pytest.approx(float(outputs[0][0, 0]))
    assert one.score < 0.2  # noise


def test_a_wake_word_of_one_byte():
    raw = np.array([[230]], np.uint8)
    spec = heads.spec("o", raw, (1 / 256,), (0,))
    made = ClassifyDecoder(Options(), DecoderContext((), (spec,), ("okay nabu",), 0.5))
    assert [(one.label, one.score) for one in made.decode([raw], heads.STRETCH).classes] == [("okay nabu", 230 / 256)]
    assert made.decode([np.array([[20]], np.uint8)], heads.STRETCH).classes == ()


def test_several_labels_at_once():
    """With sigmoid each class stands for itself: what reaches the threshold, and as many as there are."""
    logits = np.array([[2.0, -3.0, 1.0, 4.0]], np.float32)
    context = DecoderContext((), (heads.spec("o", logits),), tuple("abcd"), 0.5, top_k=10)
    made = ClassifyDecoder(Options(activation="sigmoid"), context)
    classes = made.decode([logits], heads.STRETCH).classes
    wanted = [(label, 1 / (1 + math.exp(-x))) for label, x in (("d", 4.0), ("a", 2.0), ("c", 1.0))]
    assert [(one.label, pytest.approx(one.score)) for one in classes] == wanted
