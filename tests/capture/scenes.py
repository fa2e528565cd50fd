"""What the tests of the sources share: contexts and video files."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np

from edgerun.capture.synthetic import Pattern
from edgerun.clock import Clock, SystemClock
from edgerun.ports import SourceContext
from edgerun.wake import Wake


def context(
    clock: Clock | None = None,
    *,
    as_fast: bool = False,
    loop: bool = False,
    stop: threading.Event | None = None,
    wake: Wake | None = None,
) -> SourceContext:
    return SourceContext("dock", clock or SystemClock(), stop or threading.Event(), as_fast, loop, wake)


def write_video(path: Path, frames: int, fps: float = 10.0, size: tuple[int, int] = (160, 96)) -> Path:
    """Motion JPEG in AVI, each frame stamped with its number."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    pattern = Pattern(size, 0)
    image = np.empty(pattern.shape, np.uint8)
    for number in range(frames):
        pattern.draw(image, number, number)
        writer.write(image)
    writer.release()
    return path


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = (160, 96)) -> Path:
    pattern = Pattern(size, 0)
    image = np.empty(pattern.shape, np.uint8)
    for number, name in enumerate(names):
        pattern.draw(image, number, number)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)
    return folder
