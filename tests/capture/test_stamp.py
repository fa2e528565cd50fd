from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.capture.stamp import STAMP_HEIGHT, STAMP_WIDTH, draw_stamp, read_stamp
from edgerun.capture.synthetic import Pattern


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(50, 95), st.integers(0, 2**32 - 1))
def test_survives_jpeg(frame_no: int, captured_ns: int, quality: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (96, 160, 3), np.uint8)
    draw_stamp(image, frame_no, captured_ns)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    assert read_stamp(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)) == (frame_no, captured_ns)


def test_survives_a_link_that_narrows_the_range_and_blurs() -> None:
    image = np.zeros((96, 160, 3), np.uint8)
    draw_stamp(image, 123, 456)
    narrowed = (16 + cv2.GaussianBlur(image, (3, 3), 0).astype(np.float32) * (219 / 255)).astype(np.uint8)
    assert read_stamp(narrowed) == (123, 456)


def test_a_damaged_stamp_reads_as_none() -> None:
    image = np.zeros((STAMP_HEIGHT, STAMP_WIDTH, 3), np.uint8)
    assert read_stamp(image) is None
    draw_stamp(image, 7, 8)
    assert read_stamp(image) == (7, 8)
    for row in range(8):
        for column in range(16):
            hit = image.copy()
            hit[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] ^= 255
            assert read_stamp(hit) is None


@pytest.mark.parametrize("shape", [(63, 128, 3), (64, 127, 3), (0, 0, 3), (64, 128)])
def test_a_picture_without_room_has_no_stamp(shape: tuple[int, ...]) -> None:
    assert read_stamp(np.zeros(shape, np.uint8)) is None


def test_drawing_needs_room() -> None:
    with pytest.raises(ValueError, match="128×64 pixels; the picture has 100×64"):
        draw_stamp(np.zeros((64, 100, 3), np.uint8), 0, 0)


def test_frame_numbers_wrap_at_32_bits() -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    draw_stamp(image, 2**32 + 5, 1)
    assert read_stamp(image) == (5, 1)


def test_pattern_is_a_function_of_size_seed_and_number() -> None:
    def picture(seed: int, number: int) -> np.ndarray:
        out = np.empty((96, 160, 3), np.uint8)
        Pattern((160, 96), seed).draw(out, number, 0)
        return out

    assert np.array_equal(picture(1, 5), picture(1, 5))
    assert not np.array_equal(picture(1, 5)[64:], picture(2, 5)[64:])
    assert not np.array_equal(picture(1, 5)[64:], picture(1, 6)[64:])
