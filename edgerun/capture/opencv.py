"""Importing OpenCV with the settings a daemon needs."""

from __future__ import annotations

import os
from typing import Any

from edgerun.errors import MissingError

_SETTINGS = {
    # How long a V4L2 read waits for a frame, in seconds. OpenCV's own 10 s would keep a dead camera's thread from
    # noticing `stop` for as long; there is no property for it, and it is read once per process.
    "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT": "2",
    # OpenCV's and FFmpeg's own lines on stderr would stand beside our error of the same event, and may hold URLs with
    # their passwords. 16 is AV_LOG_ERROR, 8 AV_LOG_FATAL (libavutil/log.h).
    "OPENCV_LOG_LEVEL": "ERROR",
    "OPENCV_FFMPEG_LOGLEVEL": "8",
}


def load() -> Any:
    """The `cv2` module, imported now if it was not; raises `MissingError`.

    Settings that the operator has put into the environment are kept. They are set even if `cv2` is there already: all
    but the log level are read when the first capture is opened.
    """
    quiet = "OPENCV_LOG_LEVEL" not in os.environ
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import cv2
    except ImportError as error:
        raise MissingError(
            "OpenCV cannot be imported", got=str(error), remedy="pip install opencv-python-headless"
        ) from error
    if quiet:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    return cv2
