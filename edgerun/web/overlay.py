"""What is drawn into live pictures besides boxes: zones, masks, and the ways that objects came."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgerun.types import Answer, Image

Point = tuple[float, float]

_TRAIL = 24
"""Points of an object's way that are kept."""
_FORGET_NS = 2_000_000_000
_DARK = (0, 0, 0)
_ZONE = (255, 220, 120)
_BUSY = (80, 200, 255)
"""Blue, green, red."""
_TRACKS = 64


class Shapes(msgspec.Struct, frozen=True):
    """Outlines in one stream's pictures, 0..1: zones by name, and the parts that are blacked out."""

    zones: Mapping[str, Sequence[Point]] = {}
    masks: Sequence[Sequence[Point]] = ()


class Overlay:
    """One stream's. Used by one thread; remembers ways only as long as it is asked to draw."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._trails: dict[int, tuple[int, deque[Point]]] = {}

    def draw(self, image: Image, answer: Answer, captured_ns: int) -> None:
        """Draw into `image` (`H×W×3` uint8 BGR), in place: zones with somebody in them stand out."""
        import cv2

        height, width = image.shape[:2]
        line = max(1, round(width / 480))
        occupied = {name for one in answer.detections or () for name in one.zones}
        for name, polygon in self._shapes.zones.items():
            self._zone(cv2, image, name, polygon, _BUSY if name in occupied else _ZONE, line)
        for track, (seen_ns, _) in list(self._trails.items()):
            if not 0 <= captured_ns - seen_ns <= _FORGET_NS:
                del self._trails[track]
        for one in answer.detections or ():
            if one.track is None or len(self._trails) >= _TRACKS:
                continue
            _, way = self._trails.get(one.track, (0, deque[Point](maxlen=_TRAIL)))
            way.append(((one.box[0] + one.box[2]) / 2, one.box[3]))
            self._trails[one.track] = (captured_ns, way)
            if len(way) > 1:
                points = _pixels(way, width, height)
                cv2.polylines(image, [points], False, _DARK, line + 2, cv2.LINE_AA)
                cv2.polylines(image, [points], False, _BUSY, line, cv2.LINE_AA)

    def _zone(
        self, cv2: Any, image: Image, name: str, polygon: Sequence[Point], color: tuple[int, int, int], line: int
    ) -> None:
        height, width = image.shape[:2]
        points = _pixels(polygon, width, height)
        cv2.polylines(image, [points], True, _DARK, line + 2, cv2.LINE_AA)
        cv2.polylines(image, [points], True, color, line, cv2.LINE_AA)
        scale = min(1.2, max(0.4, width / 1700))
        (wide, tall), below = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        x, y = (
            int(value) for value in points[points[:, 0, 1].argmax(), 0]
        )  # its lowest: boxes have their labels on top
        x, y = min(max(0, x), max(0, width - wide - 8)), min(max(tall + below + 6, y), height)
        cv2.rectangle(image, (x, y - tall - below - 6), (x + wide + 8, y), _DARK, -1)
        cv2.putText(image, name, (x + 4, y - below - 2), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)


def _pixels(points: Sequence[Point] | deque[Point], width: int, height: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Within twice the picture: OpenCV overflows on coordinates far outside."""
    scaled = np.clip(np.array(points, np.float64), -1.0, 2.0) * (width - 1, height - 1)
    return np.rint(scaled).astype(np.int32).reshape(-1, 1, 2)
