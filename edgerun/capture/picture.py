"""One compressed picture → one image, at the scale that is wanted."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from edgerun.capture.jpeg import Bytes, JpegHeader, is_cut_short, read_header
from edgerun.errors import FrameError
from edgerun.types import WHOLE, Image, View

_DIVISORS = (8, 4, 2)  # what cv::ImreadModes offers of libjpeg's scales, coarsest first


def decode_picture(
    cv2: Any, data: Bytes, out: Image | None, where: str, view: View = WHOLE
) -> tuple[Image, tuple[int, int]]:
    """`data` (JPEG, PNG, … whatever OpenCV reads), turned as its EXIF orientation says, and its size as captured.

    The picture is `H×W×3` uint8 BGR, or `H×W` when `view.grey`; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where
    both sides are still `view.enough` (rounded up, as libjpeg scales: `jdmaster.c`). The size is (width, height) of
    the whole.

    Lands in `out` when that has the right shape. With simplejpeg installed it is decoded right there; `cv2.imdecode`
    has no destination argument in Python, which costs an array and a copy: 1.1 times the time of a whole picture where
    malloc keeps the array's pages, twice where it gives them back every time. The pixels are the same. Raises
    `FrameError` (`empty`, `decode`). A JPEG without its end marker is refused: libjpeg fills the rest with grey, and
    not every OpenCV says so.
    """
    if not len(data):
        raise FrameError("the frame has no bytes", where=where, reason="empty")
    if is_cut_short(data):
        raise FrameError("the JPEG is cut short: it has no end marker", where=where, reason="decode")
    header = read_header(data)
    divisor = 1 if header is None else divisor_for(header.size, view.enough)
    if header is not None and header.orientation == 1 and header.components in (1, 3):
        image = _decode_in_place(data, header, divisor, out, view.grey)
        if image is not None:
            return image, header.size
    flags = {
        (1, False): cv2.IMREAD_COLOR,
        (2, False): cv2.IMREAD_REDUCED_COLOR_2,
        (4, False): cv2.IMREAD_REDUCED_COLOR_4,
        (8, False): cv2.IMREAD_REDUCED_COLOR_8,
        (1, True): cv2.IMREAD_GRAYSCALE,
        (2, True): cv2.IMREAD_REDUCED_GRAYSCALE_2,
        (4, True): cv2.IMREAD_REDUCED_GRAYSCALE_4,
        (8, True): cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }[divisor, view.grey]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise FrameError(
            "the picture cannot be decoded", where=where, got=_first_line(error), reason="decode"
        ) from error
    if image is None:
        raise FrameError(
            "the picture cannot be decoded", where=where, got=f"{len(data)} bytes that are no picture", reason="decode"
        )
    size = header.size if header is not None else (image.shape[1], image.shape[0])
    return into(image, out), size


def divisor_for(size: tuple[int, int], enough: tuple[int, int] | None) -> int:
    """The largest of 8, 4, 2, 1 by which a picture of `size` may be divided and still have both sides `enough`."""
    if enough is None:
        return 1
    fitting = (d for d in _DIVISORS if -(-size[0] // d) >= enough[0] and -(-size[1] // d) >= enough[1])
    return next(fitting, 1)


def into(image: Image, out: Image | None) -> Image:
    """`image`, copied into `out` when that fits and is not what `image` is already."""
    if out is None or image is out or not fits(out, image.shape):
        return image
    np.copyto(out, image)
    return out


def fits(out: Image, shape: tuple[int, ...]) -> bool:
    """Whether a picture of this shape may be written into `out`."""
    return out.shape == shape and out.dtype == np.uint8 and out.flags.c_contiguous


def _decode_in_place(data: Bytes, header: JpegHeader, divisor: int, out: Image | None, grey: bool) -> Image | None:
    """The JPEG decoded into `out` or a new array; None where simplejpeg is missing or refuses it.

    It refuses what libjpeg merely warns of, which cameras do send; OpenCV decides about those.
    """
    decode = _simplejpeg()
    if decode is None:
        return None
    height, width = -(-header.height // divisor), -(-header.width // divisor)
    shape = (height, width) if grey else (height, width, 3)
    image = out if out is not None and fits(out, shape) and out.flags.writeable else np.empty(shape, np.uint8)
    # `min_factor` keeps its scales to ours: others (7/8, 5/8) have no fast path in libjpeg.
    scale = {"min_height": height, "min_width": width, "min_factor": float(divisor)} if divisor > 1 else {}
    try:
        decoded = decode(data, "GRAY" if grey else "BGR", buffer=image, **scale)
    except ValueError:
        return None
    return image if decoded.shape[:2] == shape[:2] else None  # a second frame header of another size


@functools.cache
def _simplejpeg() -> Callable[..., Any] | None:
    try:
        decode: Callable[..., Any] = importlib.import_module("simplejpeg").decode_jpeg
    except ImportError:  # the extra `fast-jpeg` is not installed
        return None
    return decode


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
