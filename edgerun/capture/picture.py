"""One compressed picture → one image."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgerun.capture.multipart import JpegWalk
from edgerun.errors import FrameError
from edgerun.types import Image

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"  # ITU-T T.81 table B.1: SOI and EOI


def decode_picture(cv2: Any, data: bytes, out: Image | None, where: str) -> Image:
    """`data` (JPEG, PNG, … whatever OpenCV reads) as `H×W×3` uint8 BGR, turned as its EXIF orientation says.

    Lands in `out` when that has the right shape; `imdecode` has no destination argument in Python, so that costs one
    copy. Raises `FrameError` (`empty`, `decode`). A JPEG without its end marker is refused: libjpeg fills the rest with
    grey, and not every OpenCV says so.
    """
    if not data:
        raise FrameError("the frame has no bytes", where=where, reason="empty")
    if is_cut_short(data):
        raise FrameError("the JPEG is cut short: it has no end marker", where=where, reason="decode")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise FrameError(
            "the picture cannot be decoded", where=where, got=_first_line(error), reason="decode"
        ) from error
    if image is None:
        raise FrameError(
            "the picture cannot be decoded", where=where, got=f"{len(data)} bytes that are no picture", reason="decode"
        )
    return into(image, out)


def is_cut_short(data: bytes) -> bool:
    """Whether this is a JPEG without its end marker. Cameras pad behind it, phones append trailers of their own."""
    if not data.startswith(_JPEG_START) or _JPEG_END in data[-64:]:
        return False
    return JpegWalk().find_end(data) is None


def into(image: Image, out: Image | None) -> Image:
    """`image`, copied into `out` when that fits and is not what `image` is already."""
    if out is None or image is out or not fits(out, image.shape):
        return image
    np.copyto(out, image)
    return out


def fits(out: Image, shape: tuple[int, ...]) -> bool:
    """Whether a picture of this shape may be written into `out`."""
    return out.shape == shape and out.dtype == np.uint8 and out.flags.c_contiguous


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
