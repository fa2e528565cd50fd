import numpy as np
import pytest

from edgerun.decode.anomaly import AnomalyDecoder
from edgerun.decode.anomaly import Options as AnomalyOptions
from edgerun.decode.classify import ClassifyDecoder
from edgerun.decode.classify import Options as ClassifyOptions
from edgerun.decode.segment import Options as SegmentOptions
from edgerun.decode.segment import SegmentDecoder
from edgerun.decode.select import Select
from edgerun.decode.ssd import Options, SsdAnchorsDecoder
from edgerun.errors import ConfigError
from edgerun.ports import DecoderContext
from tests.decode import heads
from tests.decode.test_postprocess import OBJECTS, decoder, tensors

LABELS = ("???", "person", "car", "dog", "cat")
OBJECTS_SSD = [(1, 0.8, (0.1, 0.1, 0.3, 0.5)), (2, 0.7, (0.5, 0.5, 0.9, 0.8)), (3, 0.6, (0.6, 0.1, 0.9, 0.3))]


def ssd():
    codes, logits, _ = heads.ssd_head(OBJECTS_SSD, len(LABELS))
    outputs = (heads.spec("codes", codes), heads.spec("logits", logits))
    return SsdAnchorsDecoder(Options(), DecoderContext(inputs=(), outputs=outputs, labels=LABELS)), [codes, logits]


def test_only_the_chosen_labels_are_reported():
    made, raw = ssd()
    chosen = Select(made, frozenset({"dog", "person"}))
    assert [one.label for one in chosen.decode(raw, heads.STRETCH).detections] == ["person", "dog"]
    assert set(chosen.labels) == {"dog", "person"}
    assert chosen.options is Options
    assert Select(made, frozenset({"cat"})).decode(raw, heads.STRETCH).detections == ()
    assert len(made.decode(raw, heads.STRETCH).detections) == 3


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("persn", 'got "persn". Did you mean "person"?'),
        ("PERSON", 'Did you mean "person"?'),
        ("zebra", 'expected one of person, car, dog, cat; got "zebra"'),
        ("???", 'got "???"'),
    ],
)
def test_a_label_the_model_does_not_have(label, message):
    made, _ = ssd()
    with pytest.raises(ConfigError) as caught:
        Select(made, frozenset({"car", label}))
    assert message in str(caught.value)


def test_a_model_without_labels_is_asked_for_numbers():
    chosen = Select(decoder(labels=()), frozenset({"7"}))
    assert [one.label for one in chosen.decode(tensors(OBJECTS), heads.STRETCH).detections] == ["7"]
    with pytest.raises(ConfigError, match="class numbers, because the model has no labels"):
        Select(decoder(labels=()), frozenset({"person"}))


def test_classifications():
    raw = np.array([[0.2, 0.5, 0.3]], np.float32)
    context = DecoderContext(inputs=(), outputs=(heads.spec("out", raw),), labels=("a", "b", "c"), threshold=0.0)
    chosen = Select(ClassifyDecoder(ClassifyOptions(), context), frozenset({"c", "a"}))
    assert [one.label for one in chosen.decode([raw], heads.STRETCH).classes] == ["c", "a"]


def test_segments_are_chosen_too_and_the_inputs_still_asked_for():
    raw = np.zeros((1, 20, 30, 3), np.float32)
    raw[0, :10, :, 1], raw[0, 10:, :, 2] = 1, 1
    made = SegmentDecoder(SegmentOptions(), DecoderContext((), (heads.spec("o", raw),), ("sky", "road", "grass")))
    assert [one.label for one in made.decode([raw], heads.STRETCH).segments] == ["road", "grass"]
    assert [one.label for one in Select(made, {"grass"}).decode([raw], heads.STRETCH).segments] == ["grass"]
    rebuilt = heads.spec("o", raw)
    seeing = AnomalyDecoder(AnomalyOptions(), DecoderContext((rebuilt,), (rebuilt,)))
    assert Select(seeing, {"anomaly"}).wants_inputs
    assert not Select(made, {"grass"}).wants_inputs
