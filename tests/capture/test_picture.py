from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.capture.jpeg import JpegHeader, read_header
from edgerun.capture.picture import decode_picture, divisor_for
from edgerun.types import View

_SIDES = st.integers(1, 200)


def _jpeg(width: int, height: int, *options: int, grey: bool = False) -> bytes:
    small = np.random.default_rng(0).integers(0, 256, (4, 4) if grey else (4, 4, 3), np.uint8)
    picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return bytes(cv2.imencode(".jpg", picture, list(options))[1])


def _turned(jpeg: bytes, orientation: int, big: bool = False) -> bytes:
    """With an Exif block of one directory that holds the orientation only (Exif 2.32 §4.6.4)."""
    order = "big" if big else "little"
    start = b"MM\x00*" if big else b"II*\x00"
    numbers = ((8, 4), (1, 2), (0x0112, 2), (3, 2), (1, 4), (orientation, 2), (0, 2), (0, 4))
    exif = b"Exif\x00\x00" + start + b"".join(n.to_bytes(size, order) for n, size in numbers)  # type: ignore[arg-type]
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


@settings(deadline=None)
@given(_SIDES, _SIDES, _SIDES, _SIDES, st.booleans(), st.integers(1, 8))
def test_a_view_is_enough_and_the_size_is_the_whole(
    width: int, height: int, wide: int, high: int, grey: bool, orientation: int
) -> None:
    jpeg = _turned(_jpeg(width, height), orientation, big=orientation % 2 == 0)
    shown = (height, width) if orientation >= 5 else (width, height)
    image, size = decode_picture(cv2, jpeg, None, "here", View((wide, high), grey))
    assert size == shown
    assert image.ndim == (2 if grey else 3)
    assert image.shape[1] >= min(wide, shown[0])
    assert image.shape[0] >= min(high, shown[1])
    divisor = divisor_for(shown, (wide, high))
    assert image.shape[:2] == (-(-shown[1] // divisor), -(-shown[0] // divisor))


@pytest.mark.parametrize(
    ("size", "enough", "divisor"),
    [
        ((768, 576), (300, 300), 1),
        ((1280, 720), (300, 300), 2),
        ((1920, 1080), (300, 270), 4),
        ((1920, 1080), (1, 1), 8),
        ((1921, 1081), (961, 541), 2),
        ((640, 480), None, 1),
        ((640, 480), (2000, 1), 1),
    ],
)
def test_the_divisor(size: tuple[int, int], enough: tuple[int, int] | None, divisor: int) -> None:
    assert divisor_for(size, enough) == divisor


def test_out_is_used_at_every_scale() -> None:
    jpeg = _jpeg(160, 96)
    for view, shape in ((View(), (96, 160, 3)), (View((40, 24)), (24, 40, 3)), (View((20, 12), grey=True), (12, 20))):
        out = np.zeros(shape, np.uint8)
        assert decode_picture(cv2, jpeg, out, "here", view)[0] is out
        assert out.any()
        assert np.array_equal(out, decode_picture(cv2, jpeg, None, "here", view)[0])


def test_other_formats_and_grey_jpegs() -> None:
    picture = np.full((20, 30, 3), 77, np.uint8)
    png = bytes(cv2.imencode(".png", picture)[1])
    assert decode_picture(cv2, png, None, "here", View((5, 5)))[1] == (30, 20)
    assert decode_picture(cv2, png, None, "here", View((5, 5), grey=True))[0].shape == (20, 30)
    image, size = decode_picture(cv2, _jpeg(64, 48, grey=True), None, "here", View((32, 24)))
    assert image.shape == (24, 32, 3)
    assert size == (64, 48)


def test_with_simplejpeg_the_pixels_are_the_same() -> None:
    pytest.importorskip("simplejpeg", reason="the extra fast-jpeg is not installed")
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)):
        jpeg = _jpeg(161, 97, *options)
        for view, flag in ((View(), cv2.IMREAD_COLOR), (View((41, 25)), cv2.IMREAD_REDUCED_COLOR_4)):
            image, _ = decode_picture(cv2, jpeg, None, "here", view)
            assert np.array_equal(image, cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag))


@given(st.binary(max_size=400))
def test_any_bytes_have_a_header_or_none(data: bytes) -> None:
    header = read_header(b"\xff\xd8" + data)
    assert header is None or (header.width > 0 and header.height > 0)
    assert read_header(data) is None or data.startswith(b"\xff\xd8")


@given(st.binary(max_size=200))
def test_a_damaged_exif_block_is_passed_over(damage: bytes) -> None:
    block = b"Exif\x00\x00II*\x00" + damage
    jpeg = _jpeg(24, 16)
    header = read_header(jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:])
    assert isinstance(header, JpegHeader)
    assert (header.width, header.height) == (24, 16)
