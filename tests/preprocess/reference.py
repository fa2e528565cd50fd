"""The preprocessor written out one number at a time."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgerun.types import TensorSpec


def round_away(value: float) -> int:
    return floor(value + 0.5) if value >= 0 else -floor(-value + 0.5)


def fitted(image: NDArray[np.uint8], width: int, height: int, fit: str) -> NDArray[np.uint8]:
    """`image` in the input's size, BGR: sides in proportion, in the middle, bars of grey 114."""
    h, w = image.shape[:2]
    if fit == "stretch":
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if fit == "crop":
        scale = max(width / w, height / h)
        cw, ch = min(w, max(1, round(width / scale))), min(h, max(1, round(height / scale)))
        x, y = (w - cw) // 2, (h - ch) // 2
        part = image[y : y + ch, x : x + cw].copy()
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    scale = min(width / w, height / h)
    iw, ih = min(width, max(1, round(w * scale))), min(height, max(1, round(h * scale)))
    x, y = (width - iw) // 2, (height - ih) // 2
    out = np.full((height, width, 3), 114, np.uint8)
    out[y : y + ih, x : x + iw] = cv2.resize(image, (iw, ih), interpolation=cv2.INTER_LINEAR)
    return out


def tensor_of(
    image: NDArray[np.uint8],
    spec: TensorSpec,
    layout: str,
    color: str,
    fit: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> NDArray[Any]:
    height, width = spec.shape[1:3] if layout == "NHWC" else spec.shape[2:4]
    bgr = fitted(image, width, height, fit)
    if color == "GRAY":
        picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)[:, :, None]
    else:
        picture = bgr[:, :, ::-1] if color == "RGB" else bgr
    out = np.zeros(spec.shape, spec.dtype)
    for y in range(height):
        for x in range(width):
            for c in range(picture.shape[2]):
                m, s = mean[c % len(mean)], std[c % len(std)]
                value: float = (int(picture[y, x, c]) - m) / s
                if np.dtype(spec.dtype).kind in "iu":
                    limits = np.iinfo(spec.dtype)
                    scale, zero = (spec.scale[0], spec.zero_point[0]) if spec.scale else (1.0, 0)
                    value = min(limits.max, max(limits.min, round_away(value / scale) + zero))
                out[(0, y, x, c) if layout == "NHWC" else (0, c, y, x)] = value
    return out
