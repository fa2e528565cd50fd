"""How a picture of one shape is laid into an input of another: pure geometry."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgerun.types import Placement

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
