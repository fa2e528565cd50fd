"""Privacy masks: polygons in 0..1 of the frame, and the pixels they touch.

A pixel is a square: column i of a picture W wide covers i/W to (i+1)/W. A polygon closes itself, may cross itself and
may reach beyond the frame; inside is what it winds around at all (the "nonzero" fill rule of SVG 1.1, section 11.3),
because a mask that is drawn carelessly has to hide too much rather than too little.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgerun.types import Image

Point = tuple[float, float]
Polygon = Sequence[Sequence[float]]

FARTHEST = 10.0
"""How far from 0..1 a point may lie. Beyond it somebody has written pixels."""

_SHAPES_KEPT = 8
_THINNEST = 1e-9


def check_polygon(points: Polygon) -> None:
    """Raises `ValueError` with the reason in words when `points` (x, y in 0..1 of the frame) enclose nothing in it."""
    if len(points) < 3:
        raise ValueError(f"a polygon needs at least 3 points, this one has {len(points)}")
    for i, point in enumerate(points, 1):
        if len(point) != 2:
            raise ValueError(f"point {i} has {len(point)} numbers instead of 2 (x and y)")
        if not all(math.isfinite(value) for value in point):
            raise ValueError(f"point {i} is not finite: {list(point)}")
        if not all(-FARTHEST <= value <= 1 + FARTHEST for value in point):
            raise ValueError(f"point {i} is {list(point)}: points are shares of the frame, 0 to 1, not pixels")
    edges = _edges(points, 1, 1)
    if not _has_area(edges):
        raise ValueError("the polygon has no area: its points lie on a line")
    around = any(left < 0.5 < right for left, right in _spans(edges, 0.5))
    if not around and not any(_crosses_frame(edge) for edge in edges):
        raise ValueError("the polygon lies wholly outside the frame: 0 to 1 is the frame, left to right and top down")


def coverage(polygons: Sequence[Polygon], width: int, height: int) -> NDArray[np.uint8]:
    """`height×width` uint8: 255 where a pixel is touched by a polygon, however little, else 0."""
    touched = np.zeros((height, width), np.uint8)
    for points in polygons:
        edges = _edges(points, width, height)
        for edge in edges:
            _touch(touched, edge)
        lowest, highest = min(edge[1] for edge in edges), max(edge[3] for edge in edges)
        for row in range(max(0, math.floor(lowest)), min(height, math.ceil(highest))):
            for left, right in _spans(edges, row + 0.5):
                touched[row, max(0, math.floor(left)) : max(0, math.ceil(right))] = 255
    return touched


class Blackout:
    """Blacks out the `polygons` in pictures of any resolution; every pixel that one of them touches is 0 afterwards.

    Raises `ValueError` like `check_polygon`. Not for two threads at once.
    """

    def __init__(self, polygons: Sequence[Polygon]) -> None:
        for points in polygons:
            check_polygon(points)
        self._polygons = tuple(tuple((float(x), float(y)) for x, y in points) for points in polygons)
        self._outlines: dict[tuple[int, int], Sequence[NDArray[np.int32]]] = {}

    def apply(self, image: Image) -> None:
        """Black out, in place: `image` is `H×W×3` or `H×W` uint8 with contiguous rows, else `ValueError`.

        Allocates only at the first picture of a resolution; what the outlines were computed from is not kept.
        """
        if not self._polygons or image.size == 0:
            return
        import cv2

        shape = image.shape[:2]
        outlines = self._outlines.get(shape)
        if outlines is None:
            outlines = self._adapt(image)
        if not outlines:
            return
        try:
            cv2.fillPoly(image, outlines, (0, 0, 0))
        except cv2.error as error:
            raise ValueError(
                f"this picture cannot be masked in place: it is {image.shape} {image.dtype}, strides {image.strides}, "
                f"{'' if image.flags.writeable else 'not '}writable; expected contiguous rows of H×W×3 or H×W uint8"
            ) from error

    def _adapt(self, image: Image) -> Sequence[NDArray[np.int32]]:
        """The outlines for pictures of this shape.

        They are traced around the covered pixels, not rounded from the polygons: filled, they give exactly those
        pixels, while a rounded polygon leaves some of the pixels on its edge as they are.
        """
        import cv2

        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(f"a mask needs a picture of H×W×3 or H×W uint8, this one is {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        touched = coverage(self._polygons, width, height)
        outlines, _ = cv2.findContours(touched, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        if len(self._outlines) >= _SHAPES_KEPT:
            self._outlines.clear()
        self._outlines[height, width] = outlines
        return outlines


_Edge = tuple[float, float, float, float, int]
"""x0, y0, x1, y1 with y0 ≤ y1, and its direction in the polygon: 1 down, -1 up."""


def _edges(points: Polygon, width: int, height: int) -> list[_Edge]:
    scaled = [(float(x) * width, float(y) * height) for x, y in points]
    edges = []
    for (x0, y0), (x1, y1) in zip(scaled, scaled[1:] + scaled[:1], strict=True):
        edges.append((x0, y0, x1, y1, 1) if y0 <= y1 else (x1, y1, x0, y0, -1))
    return edges


def _spans(edges: Sequence[_Edge], y: float) -> list[tuple[float, float]]:
    """Where the horizontal line at `y` runs inside: left and right ends."""
    crossings = sorted(
        (x0 + (x1 - x0) * ((y - y0) / (y1 - y0)), direction) for x0, y0, x1, y1, direction in edges if y0 <= y < y1
    )
    spans, winding, begin = [], 0, 0.0
    for x, direction in crossings:
        if winding == 0:
            begin = x
        winding += direction
        if winding == 0 and x - begin > _THINNEST:
            spans.append((begin, x))
    return spans


def _has_area(edges: Sequence[_Edge]) -> bool:
    heights = sorted({y for edge in edges for y in (edge[1], edge[3])})
    return any(_spans(edges, (low + high) / 2) for low, high in itertools.pairwise(heights))


def _crosses_frame(edge: _Edge) -> bool:
    """Whether an edge has a part within the unit square, its border excluded (Liang and Barsky, 1984)."""
    x0, y0, x1, y1, _ = edge
    enter, leave = 0.0, 1.0
    for start, step in ((x0, x1 - x0), (y0, y1 - y0)):
        if step == 0:
            if not 0 < start < 1:
                return False
            continue
        low, high = sorted((-start / step, (1 - start) / step))
        enter, leave = max(enter, low), min(leave, high)
    return enter < leave


def _touch(touched: NDArray[np.uint8], edge: _Edge) -> None:
    """Mark the pixels that an edge runs through; running along their border is not through."""
    x0, y0, x1, y1, _ = edge
    height = touched.shape[0]
    slope = (x1 - x0) / (y1 - y0) if y1 > y0 else 0.0
    for row in range(max(0, math.floor(y0)), min(height, math.ceil(y1))):
        if y1 > y0:
            ends = (x0 + slope * (max(y0, row) - y0), x0 + slope * (min(y1, row + 1) - y0))
            # Rounding must not carry a steep slope beyond the edge's own ends.
            left, right = max(min(ends), min(x0, x1)), min(max(ends), max(x0, x1))
        else:
            left, right = min(x0, x1), max(x0, x1)
        touched[row, max(0, math.floor(left)) : max(0, math.ceil(right))] = 255
