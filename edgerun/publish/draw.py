"""Boxes, labels and scores drawn into a picture, legible from 320 to 1920 pixels of width."""

from __future__ import annotations

import colorsys
import hashlib
from typing import Any

import msgspec
import numpy as np

from edgerun.types import Answer, Image, Polygon

Color = tuple[int, int, int]
"""Blue, green, red, 0..255."""

_BLACK: Color = (0, 0, 0)
_WHITE: Color = (255, 255, 255)
_HEADER: Color = (40, 40, 40)
_TONES = ((0.8, 1.0), (0.45, 1.0), (0.9, 0.75))
"""Saturation and value, 0..1."""


class Style(msgspec.Struct, frozen=True):
    """Sizes for one picture width: `font_scale` as OpenCV counts it (1.0 ≈ 22 px capitals), the rest in pixels."""

    font_scale: float
    line_px: int
    text_px: int
    pad_px: int


def style_for(width: int) -> Style:
    """10 px letters at 320 px, 12 at 768, 27 at 1920: a label stays readable when the picture fills a screen."""
    font_scale = min(1.6, max(0.4, width / 1700.0))
    return Style(
        font_scale, max(2, round(width / 640.0)), max(1, round(font_scale * 1.2)), max(2, round(4 * font_scale))
    )


def label_color(label: str) -> Color:
    """The same colour for the same label in every run, drawn from some 3,000: any hue, strong, pale or deep."""
    digest = hashlib.blake2b(label.encode("utf-8", "replace"), digest_size=4).digest()
    hue, tone = divmod(int.from_bytes(digest, "little"), len(_TONES))
    red, green, blue = colorsys.hsv_to_rgb(hue % 1024 / 1024, *_TONES[tone])
    return round(blue * 255), round(green * 255), round(red * 255)


def text_color(background: Color) -> Color:
    """Black or white, whichever contrasts more with `background` (relative luminance, WCAG 2.1, gamma 2.2)."""
    blue, green, red = ((channel / 255.0) ** 2.2 for channel in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return _BLACK if luminance > 0.179 else _WHITE


def draw(image: Image, answer: Answer, *, age_ms: float | None = None, stream: str | None = None) -> None:
    """Draw `answer` into `image` (`H×W×3` uint8 BGR, C-contiguous, written in place).

    Boxes, keypoints and the outlines of segments lie in 0..1 of the picture. `stream` and `age_ms` go into the top left
    corner, with the classes below them. Raises `ValueError` for an array of another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype.name != "uint8":
        raise ValueError(f"expected an H×W×3 uint8 picture, got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    if not height or not width:
        return
    pen = _Pen(image)
    for segment in answer.segments or ():
        for polygon in segment.polygons:
            pen.outline(polygon, label_color(segment.label))
    for one in reversed(answer.detections or ()):  # the surest last, on top of the others
        track = f" #{one.track}" if one.track is not None else ""
        pen.box(one.box, f"{one.label} {one.score:.2f}{track}", label_color(one.label))
        for x, y, score in one.keypoints:
            if score > 0:  # else it lies outside the picture
                pen.point(x, y, score)
    for x, y, score in answer.keypoints or ():
        pen.point(x, y, score)
    pen.corner(_corner_lines(answer, age_ms, stream))


def _corner_lines(answer: Answer, age_ms: float | None, stream: str | None) -> list[tuple[str, Color]]:
    header = "  ".join(part for part in (stream, None if age_ms is None else f"{age_ms:.0f} ms") if part)
    lines = [(header, _HEADER)] if header else []
    lines += [(f"{one.label} {one.score:.2f}", label_color(one.label)) for one in answer.classes or ()]
    lines += [(f"{one.label} {one.share:.1%}", label_color(one.label)) for one in answer.segments or ()]
    if answer.value is not None:
        lines.append((f"{answer.value:.6g}", _HEADER))
    lines += [(f"{one.name} {one.value:.6g} {one.unit}".rstrip(), _HEADER) for one in answer.values or ()]
    return lines


class _Pen:
    """OpenCV's drawing calls for one picture, in one style."""

    def __init__(self, image: Image) -> None:
        import cv2

        self._cv2: Any = cv2
        self._image = image
        self._height, self._width = image.shape[:2]
        self._style = style_for(self._width)
        self._font = cv2.FONT_HERSHEY_SIMPLEX

    def box(self, box: tuple[float, float, float, float], text: str, color: Color) -> None:
        x0, y0 = self._pixel(box[0], box[1])
        x1, y1 = self._pixel(box[2], box[3])
        line = self._style.line_px
        self._cv2.rectangle(self._image, (x0, y0), (x1, y1), _BLACK, line + 2)
        self._cv2.rectangle(self._image, (x0, y0), (x1, y1), color, line)
        _, tall = self._size(text)
        above = y0 - tall - line
        self._text(text, x0 - line // 2, above if above >= 0 else y0 + line, color)

    def point(self, x: float, y: float, score: float) -> None:
        radius = 2 * self._style.line_px
        color: Color = (0, round(255 * min(1.0, max(0.0, score))), 255)
        self._cv2.circle(self._image, self._pixel(x, y), radius + 1, _BLACK, -1)
        self._cv2.circle(self._image, self._pixel(x, y), radius, color, -1)

    def outline(self, polygon: Polygon, color: Color) -> None:
        corners = np.array([self._pixel(x, y) for x, y in polygon], np.int32).reshape(-1, 1, 2)
        self._cv2.polylines(self._image, [corners], True, _BLACK, self._style.line_px + 2)
        self._cv2.polylines(self._image, [corners], True, color, self._style.line_px)

    def corner(self, lines: list[tuple[str, Color]]) -> None:
        y = 0
        for text, color in lines:
            self._text(text, 0, y, color)
            y += self._size(text)[1]

    def _text(self, text: str, x: int, y: int, background: Color) -> None:
        """`text` on a filled box whose top left corner is (x, y), moved so that it stays inside the picture."""
        wide, tall = self._size(text)
        x = max(0, min(x, self._width - wide))
        y = max(0, min(y, self._height - tall))
        self._cv2.rectangle(self._image, (x, y), (x + wide - 1, y + tall - 1), background, -1)
        (_, letters), _ = self._measure(text)
        origin = (x + self._style.pad_px, y + self._style.pad_px + letters)
        color = text_color(background)
        self._cv2.putText(
            self._image, text, origin, self._font, self._style.font_scale, color, self._style.text_px, self._cv2.LINE_AA
        )

    def _size(self, text: str) -> tuple[int, int]:
        (wide, letters), below = self._measure(text)
        return wide + 2 * self._style.pad_px, letters + below + 2 * self._style.pad_px

    def _measure(self, text: str) -> tuple[tuple[int, int], int]:
        measured: tuple[tuple[int, int], int] = self._cv2.getTextSize(
            text, self._font, self._style.font_scale, self._style.text_px
        )
        return measured

    def _pixel(self, x: float, y: float) -> tuple[int, int]:
        """Clipped to the picture: OpenCV overflows on coordinates far outside."""
        return (
            round(min(1.0, max(0.0, x)) * (self._width - 1)),
            round(min(1.0, max(0.0, y)) * (self._height - 1)),
        )
