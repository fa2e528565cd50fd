"""The buffers that a stream's pictures live in."""

from __future__ import annotations

import threading

from edgerun.types import Image

_SPARE_BUFFERS = 4  # one being written, one in the Slot, one with the worker, one with the sinks


class BufferPool:
    """Picture buffers of one stream, used again and again; at most four lie idle. Thread-safe.

    A buffer of another shape than the one last taken back (the camera changed its resolution) is let go.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Image] = []

    def take(self) -> Image | None:
        """An idle buffer, or None when there is none yet."""
        with self._lock:
            return self._idle.pop() if self._idle else None

    def give(self, image: Image) -> None:
        """Take a buffer back."""
        with self._lock:
            if self._idle and self._idle[-1].shape != image.shape:
                self._idle.clear()
            if len(self._idle) < _SPARE_BUFFERS:
                self._idle.append(image)
