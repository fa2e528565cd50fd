"""What a worker makes of a request, with the bundled detector: the same as the device itself, or a clear refusal."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import msgspec
import numpy as np
import pytest

from edgerun.app.opening import LoadedModel, open_decoder, open_model
from edgerun.app.remoting import reading_of
from edgerun.config import ModelConfig, StreamConfig
from edgerun.config.structs import SourceConfig
from edgerun.infer.work import Ask, Packer, encode, placement_numbers
from edgerun.preprocess import PicturePreprocess
from edgerun.types import Answer, Image
from edgerun.worker import Answerer
from tests.worker.parts import MODEL, ROOT

THRESHOLD = 0.4


class _None(msgspec.Struct, frozen=True):
    pass


@pytest.fixture(scope="module")
def answerer() -> Iterator[Answerer]:
    model = open_model(ModelConfig(path=MODEL, threads=1))
    yield Answerer(model, "w1")
    model.engine.close()


@pytest.fixture(scope="module")
def pictures() -> list[Image]:
    """Ten of the bundled clip."""
    capture = cv2.VideoCapture(str(ROOT / "models" / "clips" / "street.mp4"))
    found = []
    for at in range(100):
        done, image = capture.read()
        assert done
        if at % 10 == 0:
            found.append(np.asarray(image, np.uint8))
    return found


def local(model: LoadedModel, image: Image) -> Answer:
    stream = StreamConfig(source=SourceConfig("mqtt", _None()), model="main", threshold=THRESHOLD)
    tensor, placement = model.preprocess.prepare(image)
    return open_decoder("s", model, stream).decode(model.engine.infer((tensor,)), placement)


def ask(model: LoadedModel, image: Image, packer: Packer) -> Ask:
    assert isinstance(model.preprocess, PicturePreprocess)
    tensor, placement = model.preprocess.prepare(image)
    kind, shape, data = packer.pack(tensor, model.preprocess.picture())
    return Ask(
        model.bundle.sha256, reading_of(model.bundle), kind, tuple(shape), tensor.dtype.name,
        data, THRESHOLD, 5, placement_numbers(placement), 1000.0,
    )  # fmt: skip


def test_a_tensor_gives_what_the_device_itself_would_have_found(answerer: Answerer, pictures: list[Image]) -> None:
    found = 0
    for image in pictures:
        here = local(answerer.model, image)
        there = answerer.answer(encode(ask(answerer.model, image, Packer("tensor"))))
        assert there.refusal is None
        assert there.answer == here
        found += len(here.detections or ())
    assert found > 10


def test_a_jpeg_gives_nearly_the_same(answerer: Answerer, pictures: list[Image]) -> None:
    same = both = 0
    for image in pictures:
        here = local(answerer.model, image).detections or ()
        there = answerer.answer(encode(ask(answerer.model, image, Packer("jpeg", 90)))).answer
        assert there is not None
        for one in here:
            both += 1
            same += any(
                one.label == other.label and max(abs(a - b) for a, b in zip(one.box, other.box, strict=True)) < 0.05
                for other in there.detections or ()
            )
    assert same >= 0.75 * both


def test_the_picture_of_a_row_is_prepared_to_the_same_tensor(answerer: Answerer, pictures: list[Image]) -> None:
    preprocess = answerer.model.preprocess
    assert isinstance(preprocess, PicturePreprocess)
    first = preprocess.prepare(pictures[0])[0].copy()
    assert np.array_equal(preprocess.prepare(preprocess.picture().copy())[0], first)


def test_another_version_is_refused_by_its_hash(answerer: Answerer, pictures: list[Image]) -> None:
    good = ask(answerer.model, pictures[0], Packer())
    for wrong in ({"sha256": "f" * 64}, {"reading": "0" * 16}):
        refusal = answerer.answer(encode(msgspec.structs.replace(good, **wrong))).refusal
        assert refusal is not None
        assert refusal.why == "version"
        assert "same" in refusal.text


def test_what_came_too_late_is_not_inferred(answerer: Answerer, pictures: list[Image]) -> None:
    refusal = answerer.answer(encode(ask(answerer.model, pictures[0], Packer())), waited_ms=1001.0).refusal
    assert refusal is not None
    assert refusal.why == "late"


def test_pictures_of_another_size_are_not_even_decoded(answerer: Answerer, pictures: list[Image]) -> None:
    good = ask(answerer.model, pictures[0], Packer("jpeg"))
    large = cv2.imencode(".jpg", np.zeros((4000, 4000, 3), np.uint8))[1].tobytes()
    for data in (large, b"", b"\xff\xd8\xff", good.data[:200], good.data[:-2]):
        refusal = answerer.answer(encode(msgspec.structs.replace(good, data=data))).refusal
        assert refusal is not None
        assert refusal.why in ("garbage", "frame")
    refusal = answerer.answer(b"hello").refusal
    assert refusal is not None
    assert refusal.why == "garbage"


def test_decoders_for_many_ways_of_asking_are_bounded(answerer: Answerer, pictures: list[Image]) -> None:
    good = ask(answerer.model, pictures[0], Packer("tensor"))
    for i in range(40):
        told = answerer.answer(encode(msgspec.structs.replace(good, threshold=i / 100)))
        assert told.answer is not None
        assert all(one.score >= i / 100 - 1e-6 for one in told.answer.detections or ())
    assert len(answerer._decoders) <= 16
