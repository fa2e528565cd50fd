"""How a picture of one shape is laid into an input of another: pure geometry."""

from __future__ import annotations

from math import ceil, floor
from typing import Literal

import msgspec

from edgerun.errors import FrameError
from edgerun.types import Box, Placement

Fit = Literal["stretch", "letterbox", "crop"]
Rect = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, the last two outside."""


class Geometry(msgspec.Struct, frozen=True):
    """Which part of the picture is used, where in the input it goes, and what that means for boxes."""

    source: Rect
    target: Rect
    placement: Placement


def place(width: int, height: int, input_width: int, input_height: int, fit: Fit) -> Geometry:
    """The geometry of a `width`×`height` picture in the input.

    `stretch` fills the input with the whole picture; `letterbox` keeps the aspect ratio and centres the picture between
    two bars; `crop` keeps it too and uses the largest centred part that fills the input. A centre that falls between
    two pixels goes to the upper left. No side is ever below one pixel, so the ratio of extreme pictures is bent.
    """
    whole = (0, 0, width, height)
    full = (0, 0, input_width, input_height)
    if fit == "letterbox":
        scale = min(input_width / width, input_height / height)
        w = min(input_width, max(1, round(width * scale)))
        h = min(input_height, max(1, round(height * scale)))
        x, y = (input_width - w) // 2, (input_height - h) // 2
        placement = Placement(input_width / w, -x / w, input_height / h, -y / h)
        return Geometry(whole, (x, y, x + w, y + h), placement)
    if fit == "crop":
        scale = max(input_width / width, input_height / height)
        w = min(width, max(1, round(input_width / scale)))
        h = min(height, max(1, round(input_height / scale)))
        x, y = (width - w) // 2, (height - h) // 2
        return Geometry((x, y, x + w, y + h), full, Placement(w / width, x / width, h / height, y / height))
    return Geometry(whole, full, Placement())


def place_part(part: Rect, width: int, height: int, input_width: int, input_height: int, fit: Fit) -> Geometry:
    """As `place`, for the `part` of a `width`×`height` picture; the placement is that of the whole picture."""
    left, top, right, bottom = part
    w, h = right - left, bottom - top
    inner = place(w, h, input_width, input_height, fit)
    if (w, h) == (width, height):
        return inner
    x0, y0, x1, y1 = inner.source
    placement = Placement(
        inner.placement.scale_x * w / width,
        (inner.placement.shift_x * w + left) / width,
        inner.placement.scale_y * h / height,
        (inner.placement.shift_y * h + top) / height,
    )
    return Geometry((left + x0, top + y0, left + x1, top + y1), inner.target, placement)


def pixels_of(region: Box, width: int, height: int) -> Rect:
    """The pixels of a `width`×`height` picture that `region` (0..1) touches. Raises `FrameError` when there are none.

    Parts outside the picture are left out.
    """
    x0, y0, x1, y1 = region
    left, top = max(0, floor(x0 * width)), max(0, floor(y0 * height))
    right, bottom = min(width, ceil(x1 * width)), min(height, ceil(y1 * height))
    if left >= right or top >= bottom:
        raise FrameError(
            "nothing of the picture lies in its region",
            reason="preprocess",
            expected="x0 < x1 and y0 < y1 within 0..1",
            got=", ".join(f"{side:g}" for side in region),
        )
    return left, top, right, bottom
