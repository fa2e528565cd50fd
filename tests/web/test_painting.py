"""What may be seen in live pictures, and what is written into them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgerun.app.painting import Painter
from edgerun.cli.flags import find_model, options_of
from edgerun.clock import FakeClock
from edgerun.config import Config, build
from edgerun.types import Answer, Box, Detection, Hidden, ModelInfo, Publication, Result, Stamp

PERSON = frozenset({"person"})
BOX: Box = (0.25, 0.25, 0.5, 0.75)


@pytest.fixture
def config() -> Config:
    raw = {
        "mqtt": {"url": "mqtt://127.0.0.1"},
        "models": {"m": {"path": "ssd-mobilenet-v2-oid"}},
        "streams": {
            "dock": {"source": "synthetic", "model": "m", "snapshot": {"blur": ["person"]}},
            "gate": {"source": "synthetic", "model": "m"},
        },
    }
    return build(raw, options_of, find_model=find_model)


def result_of(stream: str, hidden: Hidden | None, **more: object) -> Publication:
    found = (Detection("person", 0, 0.9, BOX),)
    result = Result(
        Stamp(stream, 0, 1, 0.0), Answer(detections=found, hidden=hidden), ModelInfo("m", "1", "cpu"), (64, 48), {}, {},
        max_age_ns=1,
    )  # fmt: skip
    return Publication(msgspec.structs.replace(result, **more), "x-1", 12.0)


def noise() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)


def test_what_is_to_be_blurred_is_and_for_a_while_longer(config: Config) -> None:
    clock = FakeClock()
    painter = Painter(config, clock)
    hiding, missing = result_of("dock", Hidden(PERSON, (BOX,))), result_of("dock", Hidden(PERSON, ()))
    inside = (slice(130, 170), slice(90, 150))
    for publication, seconds, blurred in ((hiding, 0.0, True), (missing, 0.5, True), (missing, 5.0, False)):
        clock.advance(seconds)
        assert painter.admit(publication)
        image = noise()
        painter.paint(image, publication, ())
        assert (image[inside].std() < 40) == blurred
        assert image[200:, 200:].std() > 60


def test_a_result_that_does_not_say_where_has_no_picture(config: Config) -> None:
    painter = Painter(config, FakeClock())
    assert not painter.admit(result_of("dock", None))
    assert not painter.admit(result_of("dock", Hidden(frozenset({"car"}), ())))
    assert not painter.admit(result_of("dock", Hidden(PERSON, ()), reused="still"))
    assert painter.admit(result_of("gate", None))
    assert not painter.admit(result_of("gone", None))


def test_a_stream_that_goes_while_its_picture_is_painted_is_not_seen(config: Config) -> None:
    painter = Painter(config, FakeClock())
    publication = result_of("gate", None)
    assert painter.admit(publication)
    painter.configure(msgspec.structs.replace(config, streams={"dock": config.streams["dock"]}))
    image = noise()
    painter.paint(image, publication, ())
    assert not image.any()


def test_boxes_of_all_models_are_drawn(config: Config) -> None:
    painter = Painter(config, FakeClock())
    image = np.zeros((240, 320, 3), np.uint8)
    other = Answer(detections=(Detection("car", 1, 0.9, (0.6, 0.6, 0.9, 0.9)),))
    painter.paint(image, result_of("gate", None), (other,))
    assert image[120:180, 78:83].any()
    assert image[150:210, 190:196].any()
    assert image[:12, :60].any()  # the stream's name and the age
