"""A V4L2 camera's JPEGs as the driver gives them, so that only those that are wanted get decoded."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.capture.jpeg import is_cut_short, read_header
from edgerun.errors import FrameError
from edgerun.types import Image

_MJPG = int.from_bytes(b"MJPG", "little")


class RawJpegs:
    """The compressed side of an OpenCV V4L2 capture whose colour conversion is off.

    OpenCV gives a frame's driver buffer back when it is retrieved, and versions of it read outside their buffers when
    asked again (`CvCaptureCAM_V4L::retrieveFrame`), so what was retrieved is kept here.
    """

    def __init__(self, capture: Any, where: str) -> None:
        self._capture = capture
        self._where = where
        self._kept: Image | None = None

    def forget(self) -> None:
        """Another frame has been grabbed."""
        self._kept = None

    def data(self) -> memoryview:
        """The grabbed frame's bytes; raises `FrameError`."""
        if self._kept is None:
            got, raw = self._capture.retrieve()
            if not got or raw is None or raw.dtype != np.uint8:
                raise FrameError("the camera's buffer cannot be read", where=self._where, reason="decode")
            self._kept = np.ascontiguousarray(raw).reshape(-1)
        return self._kept.data


def open_raw(cv2: Any, capture: Any, where: str) -> RawJpegs | None:
    """Turn OpenCV's own decoding off where the camera sends JPEGs (`MJPG`); None, and on again, where that gives none.

    Takes the camera's first frame to see. A driver may call its frames MJPG and send fields, or frames without an end.
    """
    if round(capture.get(cv2.CAP_PROP_FOURCC)) != _MJPG or not capture.set(cv2.CAP_PROP_CONVERT_RGB, 0):
        return None
    raw = RawJpegs(capture, where)
    try:
        first = raw.data() if capture.grab() else memoryview(b"")
    except FrameError:
        first = memoryview(b"")
    if read_header(first) is not None and not is_cut_short(first):
        return raw
    capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)
    return None


def descriptors_of(node: Path, folder: Path = Path("/proc/self/fd")) -> set[int]:
    """This process's file descriptors of a device node: OpenCV does not tell the one it waits on. Empty: unknown."""
    try:
        device = node.stat().st_rdev
        names = os.listdir(folder)
    except OSError:
        return set()
    return {int(name) for name in names if name.isdecimal() and _is_open_on(int(name), device)}


def _is_open_on(fd: int, device: int) -> bool:
    try:
        mode = os.fstat(fd)
    except OSError:  # closed since
        return False
    return stat.S_ISCHR(mode.st_mode) and mode.st_rdev == device
