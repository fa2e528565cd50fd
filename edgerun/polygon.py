"""Polygons in 0..1 of the frame.

A polygon closes itself, may cross itself and may reach beyond the frame; to a mask, inside is what it winds around at
all (the "nonzero" fill rule of SVG 1.1, section 11.3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

Point = tuple[float, float]
Polygon = Sequence[Sequence[float]]

_FARTHEST = 10.0
"""How far from 0..1 a point may lie. Beyond it somebody has written pixels."""

_THINNEST = 1e-9

Edge = tuple[float, float, float, float, int]
"""x0, y0, x1, y1 with y0 ≤ y1, and its direction in the polygon: 1 down, -1 up."""


def check_polygon(points: Polygon) -> None:
    """Raises `ValueError` with the reason in words when `points` (x, y in 0..1 of the frame) enclose nothing in it."""
    if len(points) < 3:
        raise ValueError(f"a polygon needs at least 3 points, this one has {len(points)}")
    for i, point in enumerate(points, 1):
        if len(point) != 2:
            raise ValueError(f"point {i} has {len(point)} numbers instead of 2 (x and y)")
        if not all(math.isfinite(value) for value in point):
            raise ValueError(f"point {i} is not finite: {list(point)}")
        if not all(-_FARTHEST <= value <= 1 + _FARTHEST for value in point):
            raise ValueError(f"point {i} is {list(point)}: points are shares of the frame, 0 to 1, not pixels")
    edges = edges_of(points, 1, 1)
    if not _has_area(edges):
        raise ValueError("the polygon has no area: its points lie on a line")
    around = any(left < 0.5 < right for left, right in spans(edges, 0.5))
    if not around and not any(_crosses_frame(edge) for edge in edges):
        raise ValueError("the polygon lies wholly outside the frame: 0 to 1 is the frame, left to right and top down")


def edges_of(points: Polygon, width: int, height: int) -> list[Edge]:
    """The edges of a polygon in a picture of `width`×`height`."""
    scaled = [(float(x) * width, float(y) * height) for x, y in points]
    edges = []
    for (x0, y0), (x1, y1) in zip(scaled, scaled[1:] + scaled[:1], strict=True):
        edges.append((x0, y0, x1, y1, 1) if y0 <= y1 else (x1, y1, x0, y0, -1))
    return edges


def spans(edges: Sequence[Edge], y: float) -> list[tuple[float, float]]:
    """Where the horizontal line at `y` runs inside: left and right ends."""
    crossings = sorted(
        (x0 + (x1 - x0) * ((y - y0) / (y1 - y0)), direction) for x0, y0, x1, y1, direction in edges if y0 <= y < y1
    )
    found, winding, begin = [], 0, 0.0
    for x, direction in crossings:
        if winding == 0:
            begin = x
        winding += direction
        if winding == 0 and x - begin > _THINNEST:
            found.append((begin, x))
    return found


def _has_area(edges: Sequence[Edge]) -> bool:
    heights = sorted({y for edge in edges for y in (edge[1], edge[3])})
    return any(spans(edges, (low + high) / 2) for low, high in itertools.pairwise(heights))


def _crosses_frame(edge: Edge) -> bool:
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
