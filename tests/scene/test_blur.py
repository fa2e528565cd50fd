"""What is blurred is gone: the same blocks give the same picture, and nothing else is touched."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.scene.blur import BLOCKS, MARGIN, blur
from edgerun.types import Image
from tests.real_models import model_file

WHOLE = (0.0, 0.0, 1.0, 1.0)
anything = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-0.5, 1.5)


def noise(width: int = 96, height: int = 64, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def shuffled(image: Image, block: int, seed: int) -> Image:
    """The same pixels in another order within each block: another picture with the same means."""
    chance, out = np.random.default_rng(seed), image.copy()
    for y in range(0, image.shape[0], block):
        for x in range(0, image.shape[1], block):
            part = out[y : y + block, x : x + block].reshape(-1, 3)
            out[y : y + block, x : x + block] = chance.permutation(part).reshape(block, block, 3)
    return out


@pytest.mark.parametrize("seed", range(5))
def test_what_differs_only_within_blocks_cannot_be_told_apart(seed: int) -> None:
    first = noise(64, 64, seed)
    second = shuffled(first, 64 // BLOCKS, seed)
    assert (first != second).mean() > 0.9
    blur(first, [WHOLE])
    blur(second, [WHOLE])
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (33, 200), (7, 5), (2, 2), (1, 1)])
def test_a_box_keeps_few_colours_whatever_its_size(width: int, height: int) -> None:
    """As many as its blocks have: the picture made small again by the nearest pixel of each block is all there is."""
    image = noise(width, height)
    blur(image, [WHOLE])
    again = image.copy()
    blur(again, [WHOLE])
    assert np.abs(again.astype(int) - image).max() <= 24, "blurring once more takes next to nothing away"
    assert cv2.Laplacian(image, cv2.CV_64F).var() < 0.05 * cv2.Laplacian(noise(width, height), cv2.CV_64F).var() + 1


@given(st.tuples(anything, anything, anything, anything), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_outside_the_widened_box_nothing_changes_and_inside_all_does(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    before = noise(width, height)
    after = before.copy()
    blur(after, [box])
    if not np.isfinite(box).all():
        return
    x0, x1 = sorted((box[0], box[2]))
    y0, y1 = sorted((box[1], box[3]))
    dx, dy = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    columns, rows = np.arange(width), np.arange(height)
    # Pixel i covers i/W to (i+1)/W.
    far_x = ((columns + 1) / width < x0 - dx - 1e-9) | (columns / width > x1 + dx + 1e-9)
    far_y = ((rows + 1) / height < y0 - dy - 1e-9) | (rows / height > y1 + dy + 1e-9)
    outside = far_y[:, None] | far_x[None, :]
    assert np.array_equal(after[outside], before[outside])
    deep_x = (columns / width > x0) & ((columns + 1) / width < x1)
    deep_y = (rows / height > y0) & ((rows + 1) / height < y1)
    inside = deep_y[:, None] & deep_x[None, :]
    if inside.sum() > 64:
        assert (after[inside] != before[inside]).any(axis=1).mean() > 0.8


def test_numbers_that_are_none_hide_everything() -> None:
    for broken in ((float("nan"), 0.1, 0.2, 0.3), (0.1, 0.1, float("inf"), 0.3)):
        image, whole = noise(), noise()
        blur(image, [broken])
        blur(whole, [WHOLE])
        assert np.array_equal(image, whole)


def test_what_the_model_did_not_look_at_is_hidden() -> None:
    image = noise(100, 80)
    blur(image, [], seen=(0.25, 0.25, 0.75, 0.5))
    assert np.array_equal(image[20:40, 25:75], noise(100, 80)[20:40, 25:75])
    hidden = np.ones((80, 100), bool)
    hidden[20:40, 25:75] = False
    assert (image != noise(100, 80)).any(axis=2)[hidden].mean() > 0.9
    everything = noise(100, 80)
    blur(everything, [], seen=(0.5, 0.5, 0.5, 0.5))
    assert (everything != noise(100, 80)).any(axis=2).mean() > 0.9


def test_a_whole_picture_is_left_alone_where_nothing_is_to_be_hidden() -> None:
    image = noise()
    blur(image, [])
    assert np.array_equal(image, noise())
    blur(np.empty((0, 0, 3), np.uint8), [WHOLE])


def test_a_face_is_no_face_any_more() -> None:
    """A real photograph: what a matched filter of the face itself finds is at chance afterwards."""
    image = cv2.imread(str(model_file("messi5.jpg")))
    height, width = image.shape[:2]
    face = (230 / width, 70 / height, 290 / width, 150 / height)
    template = image[70:150, 230:290].copy()
    blur(image, [face])
    match = cv2.matchTemplate(image[50:170, 200:320], template, cv2.TM_CCOEFF_NORMED).max()
    assert match < 0.75, "only where it is light and where dark is left"
    assert cv2.Laplacian(image[70:150, 230:290], cv2.CV_64F).var() < 0.02 * cv2.Laplacian(template, cv2.CV_64F).var()
