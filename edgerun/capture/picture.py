"""One compressed picture → one image."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgerun.errors import FrameError
from edgerun.types import Image

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"  # ITU-T T.81 table B.1: SOI and EOI


def decode_picture(cv2: Any, data: bytes, out: Image | None, where: str) -> Image:
    """`data` (JPEG, PNG, … whatever OpenCV reads) as `H×W×3` uint8 BGR, turned as its EXIF orientation says.

    Lands in `out` when that has the right shape; `imdecode` has no destination argument in Python, so that costs one
    copy. Raises `FrameError` (`empty`, `decode`). A JPEG without its end marker is refused: libjpeg would fill the rest
    with grey and call it a picture.
    """
    if not data:
        raise FrameError("the frame has no bytes", where=where, reason="empty")
    if data.startswith(_JPEG_START) and _JPEG_END not in data[-64:]:  # some cameras pad behind the end marker
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
