"""Polygons in 0..1 of the frame."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_polygon(points: Sequence[Sequence[float]]) -> None:
    """Raises `ValueError` with the reason in words when `points` (x, y in 0..1 of the frame) enclose nothing in it."""
    if len(points) < 3:
        raise ValueError(f"a polygon needs at least 3 points, this one has {len(points)}")
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError("not finite")
