"""Whatever picture there is, made small and grey for a gate."""

from __future__ import annotations

import numpy as np

from edgerun.ports import Gate
from edgerun.types import GreyImage, Image, Motion

WIDTH = 128
"""Pixels; the height follows the picture's. A person across the street is some ten of them high."""


class Glance:
    """A gate that takes pictures of any size, `H×W×3` BGR or `H×W` grey, and shows them to `gate` at `WIDTH`."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._shape: tuple[int, ...] = ()
        self._small: Image = np.empty(0, np.uint8)
        self._grey: GreyImage = self._small

    def look(self, grey: Image, captured_ns: int) -> Motion:
        """See `ports.Gate`; here a BGR picture will do too.

        Resized by bilinear interpolation, which the gate's own smoothing makes up for.
        """
        import cv2

        if grey.shape != self._shape:
            self._adapt(grey.shape)
        if grey.shape[:2] != self._small.shape[:2]:
            cv2.resize(grey, (self._small.shape[1], self._small.shape[0]), dst=self._small)
            grey = self._small
        if grey.ndim == 3:
            grey = cv2.cvtColor(grey, cv2.COLOR_BGR2GRAY, dst=self._grey)
        return self._gate.look(grey, captured_ns)

    def _adapt(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        height, width = shape[:2]
        small = (max(1, round(height * WIDTH / width)), WIDTH) if width > WIDTH else (height, width)
        self._small = np.empty((*small, *shape[2:]), np.uint8)
        self._grey = np.empty(small, np.uint8)
