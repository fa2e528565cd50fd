"""Boxes and labels in a picture."""

from __future__ import annotations

import itertools
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.publish.draw import draw, label_color, style_for, text_color
from edgerun.types import Answer, Classification, Detection, Image, Segment
from tests.publish.samples import picture

SIZES = [(320, 240), (640, 480), (1920, 1080)]


def changed(image: Image, gray: int = 90) -> np.ndarray:
    return (image != gray).any(axis=2)


def detection(box: tuple[float, float, float, float], label: str = "person", score: float = 0.81) -> Detection:
    return Detection(label=label, class_id=1, score=score, box=box)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_only_the_border_and_the_label_change(width: int, height: int) -> None:
    image = picture(width, height)
    draw(image, Answer(detections=(detection((0.25, 0.5, 0.75, 0.9)),)), age_ms=None, stream=None)
    style = style_for(width)
    margin = style.line_px + 2
    x0, y0, x1, y1 = round(0.25 * width), round(0.5 * height), round(0.75 * width), round(0.9 * height)
    mask = changed(image)
    assert not mask[y0 + margin : y1 - margin, x0 + margin : x1 - margin].any(), "the inside stays as it was"
    label_height = round(45 * style.font_scale) + 2 * style.pad_px + margin
    near = np.zeros_like(mask)
    near[y0 - label_height : y1 + margin, x0 - margin : x1 + margin] = True
    assert not (mask & ~near).any(), "the rest of the picture stays as it was"
    color = label_color("person")
    for x, y in ((x0, (y0 + y1) // 2), ((x0 + x1) // 2, y1)):
        assert any(tuple(image[y, x + d]) == color or tuple(image[y + d, x]) == color for d in (-1, 0, 1))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_label_is_large_enough_to_read_and_contrasts(width: int, height: int) -> None:
    image = picture(width, height)
    draw(image, Answer(detections=(detection((0.25, 0.5, 0.75, 0.9), label="HHHH"),)))
    background, ink = label_color("HHHH"), text_color(label_color("HHHH"))
    above = image[: round(0.5 * height) - style_for(width).line_px - 2]
    rows = np.flatnonzero((np.abs(above.astype(int) - ink).max(axis=2) < 60).any(axis=1))
    assert len(rows) >= max(8, width / 110)
    assert (above == background).all(axis=2).sum() > 4 * len(rows)


@given(st.text(min_size=1, max_size=30))
def test_any_label_has_a_color_that_its_text_contrasts_with(label: str) -> None:
    color = label_color(label)

    def luminance(bgr: tuple[int, int, int]) -> float:
        def linear(channel: int) -> float:
            c = channel / 255
            return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4

        return 0.0722 * linear(bgr[0]) + 0.7152 * linear(bgr[1]) + 0.2126 * linear(bgr[2])

    light, dark = sorted((luminance(color), luminance(text_color(color))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5, "WCAG 2.1 AA"


def test_common_labels_can_be_told_apart() -> None:
    labels = ("person", "car", "truck", "bus", "bicycle", "dog")
    for one, other in itertools.combinations(labels, 2):
        assert max(abs(a - b) for a, b in zip(label_color(one), label_color(other), strict=True)) > 20, (one, other)


def test_colors_are_the_same_in_every_process() -> None:
    code = "from edgerun.publish.draw import label_color; print(label_color('person'))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(label_color("person"))


def test_the_corner_names_stream_age_and_classes() -> None:
    header, classes = picture(), picture()
    draw(header, Answer(detections=()), age_ms=58.1, stream="dock")
    draw(classes, Answer(classes=(Classification("espresso", 967, 0.93),)), age_ms=58.1, stream="dock")
    first = np.flatnonzero(changed(header).any(axis=1))
    assert first.min() == 0
    assert first.max() < 40
    assert np.flatnonzero(changed(classes).any(axis=1)).max() > first.max()
    assert np.array_equal(header[first], classes[first])


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.lists(st.tuples(*[st.floats(-1e9, 1e9)] * 4), max_size=3),
    st.text(max_size=12),
)
def test_no_box_nor_label_is_too_odd_to_draw(
    size: tuple[int, int], boxes: list[tuple[float, float, float, float]], label: str
) -> None:
    image = picture(*size)
    answer = Answer(
        detections=tuple(detection(box, label=label) for box in boxes),
        keypoints=tuple((box[0], box[1], box[2]) for box in boxes),
        value=1e300,
    )
    draw(image, answer, age_ms=1e9, stream=label)


def test_keypoints_and_outlines_are_drawn_where_they_are() -> None:
    figure = Detection("person", 0, 0.9, (0.25, 0.5, 0.75, 0.9), keypoints=((0.5, 0.7, 0.9), (0.0, 0.2, 0.0)))
    image, bare = picture(), picture()
    draw(image, Answer(detections=(figure,)))
    draw(bare, Answer(detections=(msgspec.structs.replace(figure, keypoints=()),)))
    ys, xs = np.nonzero((image != bare).any(axis=2))
    assert (abs(xs - 0.5 * 639) < 8).all(), "and none for the point outside the picture"
    assert (abs(ys - 0.7 * 479) < 8).all()
    assert len(xs) > 20
    image = picture()
    square = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))
    draw(image, Answer(segments=(Segment("road", 1, 0.25, (square,)),)), stream=None)
    mask = changed(image)
    assert mask[120, 200:440].all()
    assert mask[359, 200:440].all()
    assert not mask[130:350, 170:470].any(), "the inside stays as it was"


def test_an_empty_picture_is_left_alone() -> None:
    draw(np.zeros((0, 10, 3), np.uint8), Answer(detections=(detection((0, 0, 1, 1)),)), age_ms=1.0, stream="s")


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected an H×W×3 uint8 picture, got"):
        draw(image, Answer(value=1.0))
