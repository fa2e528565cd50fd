"""A real quantised classifier sees what it was trained on: worth points of accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
import pytest

from edgerun.infer.tflite import Options, TfliteEngine
from edgerun.models import Bundle, complete, load
from edgerun.ports import EngineContext
from edgerun.preprocess import PicturePreprocess
from tests.preprocess.reference import fitted, round_away
from tests.real_models import model_file


@pytest.fixture(scope="module")
def engine() -> Iterator[TfliteEngine]:
    engine = TfliteEngine(Options(), EngineContext(model_file("efficientnet_lite0_int8.tflite"), "lite0"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def bundle(engine: TfliteEngine) -> Bundle:
    return complete(load(model_file("efficientnet_lite0_int8.tflite")), engine.inputs, engine.outputs)


def preprocess_of(engine: TfliteEngine, bundle: Bundle, fit: Literal["stretch", "crop"]) -> PicturePreprocess:
    picture = bundle.picture
    assert picture.layout is not None
    assert picture.color is not None
    assert picture.mean is not None
    assert picture.std is not None
    return PicturePreprocess(
        engine.inputs[0],
        size=picture.size,
        layout=picture.layout,
        color=picture.color,
        fit=fit,
        mean=picture.mean,
        std=picture.std,
    )


@pytest.mark.parametrize(
    ("picture", "first", "first_three"),
    [
        ("chelsea.png", {"Egyptian cat", "tabby", "tiger cat"}, {"Egyptian cat", "tabby", "tiger cat"}),
        ("coffee.png", {"espresso"}, {"cup", "espresso"}),
        ("rocket.jpg", {"missile", "projectile"}, {"missile"}),
    ],
)
def test_knows_what_the_pictures_show(
    engine: TfliteEngine,
    bundle: Bundle,
    picture: str,
    first: set[str],
    first_three: set[str],
) -> None:
    tensor, _ = preprocess_of(engine, bundle, "crop").prepare(cv2.imread(str(model_file(picture))))
    scores = engine.infer((tensor,))[0][0]
    assert bundle.labels is not None
    best = [bundle.labels[i] for i in np.argsort(-scores.astype(int), kind="stable")[:3]]
    assert best[0] in first
    assert first_three <= set(best)


def test_pixels_are_normalised_and_then_quantised_not_fed_raw(engine: TfliteEngine, bundle: Bundle) -> None:
    """q = round((pixel − 127) / 128 / scale) + zero point, exactly; raw pixels are another tensor and do worse."""
    preprocess = preprocess_of(engine, bundle, "stretch")
    image = cv2.imread(str(model_file("chelsea.png")))
    tensor, _ = preprocess.prepare(image)
    rgb = fitted(image, 224, 224, "stretch")[:, :, ::-1]
    scale, zero = engine.inputs[0].scale[0], engine.inputs[0].zero_point[0]
    expected = [min(255, max(0, round_away((pixel - 127) / 128 / scale) + zero)) for pixel in range(256)]
    assert tensor[0].tolist() == np.array(expected)[rgb].tolist()
    assert bundle.picture.mean == (127.0,)
    assert bundle.picture.std == (128.0,)
    assert np.abs(tensor[0].astype(int) - rgb).mean() > 10

    coffee = cv2.imread(str(model_file("coffee.png")))
    right = engine.infer((preprocess.prepare(coffee)[0],))[0][0, 967]
    raw = np.ascontiguousarray(fitted(coffee, 224, 224, "stretch")[None, :, :, ::-1])
    assert right > engine.infer((raw,))[0][0, 967]
