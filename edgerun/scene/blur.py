"""Making what is in a box unrecognisable: a few blocks of its mean colours, and these run into each other.

Pixelation that leaves many blocks can be undone in part: networks tell known faces apart at 8×8 and more of them
(R. McPherson, R. Shokri, V. Shmatikov, Defeating Image Obfuscation with Deep Learning, 2016), and several such pictures
of one face at different offsets hold more than one. Here a box keeps at most `BLOCKS`×`BLOCKS` colours of 32 levels
each, whatever its size; what follows is a function of these alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgerun.types import Box, Image

BLOCKS = 4
"""Blocks along the longer side of a box, at most."""
MARGIN = 0.15
"""A box is widened by this share of its sides on every side: detectors cut off hair, hands and shoulders."""
_LEVEL = 8
"""Of 256 levels of a colour, so many become one."""


def blur(image: Image, boxes: Iterable[Box], seen: Box = (0.0, 0.0, 1.0, 1.0)) -> None:
    """Make `boxes` (0..1 of the picture), and all outside `seen`, unrecognisable, in place.

    `image`: `H×W×3` uint8. Coordinates outside the picture are cut off at its edge; those that are no numbers hide all
    of it.
    """
    height, width = image.shape[:2]
    if not height or not width:
        return
    for part in _outside(_pixels(seen, width, height, 0.0, outwards=False), width, height):
        _wipe(image, *part)
    for box in boxes:
        _wipe(image, *_pixels(box, width, height, MARGIN))


def _wipe(image: Image, x0: int, y0: int, x1: int, y1: int) -> None:
    import cv2

    wide, tall = x1 - x0, y1 - y0
    if wide <= 0 or tall <= 0:
        return
    longest = max(wide, tall)
    # Of a box of a few pixels too, fewer blocks than pixels.
    blocks = min(BLOCKS, max(1, longest // 4))
    size = max(1, round(blocks * wide / longest)), max(1, round(blocks * tall / longest))
    part = image[y0:y1, x0:x1]
    few = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    few = (few // _LEVEL * _LEVEL + _LEVEL // 2).astype(np.uint8)
    part[:] = cv2.resize(few, (wide, tall), interpolation=cv2.INTER_LINEAR)


def _pixels(box: Box, width: int, height: int, margin: float, *, outwards: bool = True) -> tuple[int, int, int, int]:
    """Columns and rows of the widened box, x1 and y1 behind the last; every pixel that it touches, or with `outwards`
    False only those that lie in it wholly.
    """
    if not np.isfinite(box).all():
        return (0, 0, width, height) if outwards else (0, 0, 0, 0)
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    dx, dy = (right - left) * margin, (bottom - top) * margin
    low, high = (np.floor, np.ceil) if outwards else (np.ceil, np.floor)
    # What a decoder computed lies a rounding error beside the pixel's edge.
    slack = 0.0 if outwards else 1e-6
    columns = int(low(np.clip(left - dx, 0, 1) * width - slack)), int(high(np.clip(right + dx, 0, 1) * width + slack))
    rows = int(low(np.clip(top - dy, 0, 1) * height - slack)), int(high(np.clip(bottom + dy, 0, 1) * height + slack))
    return columns[0], rows[0], columns[1], rows[1]


def _outside(seen: tuple[int, int, int, int], width: int, height: int) -> Iterable[tuple[int, int, int, int]]:
    """The parts of the picture around `seen`: four at most, some without a pixel."""
    x0, y0, x1, y1 = seen
    if x1 <= x0 or y1 <= y0:
        return ((0, 0, width, height),)
    return (0, 0, width, y0), (0, y1, width, height), (0, y0, x0, y1), (x1, y0, width, y1)
