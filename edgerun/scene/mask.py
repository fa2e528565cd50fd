"""Privacy masks: polygons in 0..1 of the frame, and the pixels they touch.

A pixel is a square: column i of a picture W wide covers i/W to (i+1)/W. A polygon closes itself, may cross itself and
may reach beyond the frame; inside is what it winds around at all (the "nonzero" fill rule of SVG 1.1, section 11.3),
because a mask that is drawn carelessly has to hide too much rather than too little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgerun.polygon import Edge, Polygon, check_polygon, edges_of, spans
from edgerun.types import Image

_SHAPES_KEPT = 8


def coverage(polygons: Sequence[Polygon], width: int, height: int) -> NDArray[np.uint8]:
    """`height×width` uint8: 255 where a pixel is touched by a polygon, however little, else 0."""
    touched = np.zeros((height, width), np.uint8)
    for points in polygons:
        edges = edges_of(points, width, height)
        for edge in edges:
            _touch(touched, edge)
        lowest, highest = min(edge[1] for edge in edges), max(edge[3] for edge in edges)
        for row in range(max(0, math.floor(lowest)), min(height, math.ceil(highest))):
            for left, right in spans(edges, row + 0.5):
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


def _touch(touched: NDArray[np.uint8], edge: Edge) -> None:
    """Mark the pixels that an edge runs through; running along their border is not through."""
    x0, y0, x1, y1, _ = edge
    height = touched.shape[0]
    for row in range(max(0, math.floor(y0)), min(height, math.ceil(y1))):
        if y1 > y0:
            from_x, to_x = (x0 + (x1 - x0) * ((y - y0) / (y1 - y0)) for y in (max(y0, row), min(y1, row + 1)))
            left, right = min(from_x, to_x), max(from_x, to_x)
        else:
            left, right = min(x0, x1), max(x0, x1)
        touched[row, max(0, math.floor(left)) : max(0, math.ceil(right))] = 255
