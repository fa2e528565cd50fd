"""The pictures that the emulated cameras send: JPEGs of the synthetic pattern or of a video, stamped when made."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import cv2
import numpy as np

from edgerun.capture.stamp import draw_stamp
from edgerun.capture.synthetic import Pattern


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--frames", type=int, default=0, help="end after so many; 0: never")
    parser.add_argument("--quality", type=int, default=85)
    parser.add_argument("--video", help="send this file's frames, over and over, instead of the pattern")
    parser.add_argument("--same", action="store_true", help="after 8 frames send the last one over and over")


def size_of(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def jpegs(args: argparse.Namespace, resize_at: int = -1) -> Iterator[bytes]:
    """One JPEG per `next()`, stamped with its number and this moment; from frame `resize_at` on at half the size."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, args.quality]
    made: list[bytes] = []
    images = _video(args.video) if args.video else _patterns(size_of(args.size), resize_at)
    for number, image in enumerate(images):
        draw_stamp(image, number, time.monotonic_ns())
        made.append(cv2.imencode(".jpg", image, quality)[1].tobytes())
        yield made.pop()
        if args.same and number == 7:
            break
    while args.same:
        made = made or [cv2.imencode(".jpg", image, quality)[1].tobytes()]
        yield made[0]


def _patterns(size: tuple[int, int], resize_at: int) -> Iterator[np.ndarray]:
    number = 0
    pattern = Pattern(size, 0)
    while True:
        if number == resize_at:
            pattern = Pattern((size[0] // 2, size[1] // 2), 0)
        image = np.empty(pattern.shape, np.uint8)
        pattern.draw(image, number, 0)
        yield image
        number += 1


def _video(path: str) -> Iterator[np.ndarray]:
    while True:
        capture = cv2.VideoCapture(path)
        while True:
            got, image = capture.read()
            if not got:
                break
            yield image
        capture.release()
