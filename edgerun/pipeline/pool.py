"""The buffers that a stream's pictures live in."""

from __future__ import annotations

import threading

from edgerun.types import Image

_SPARE_BUFFERS = 4  # one being written, one in the Slot, one with the worker, one with the sinks
_LOOK_EVERY = 256
"""Takes; what all of them could do without is let go."""


class BufferPool:
    """Picture buffers of one stream, used again and again; at most four lie idle. Thread-safe.

    What a burst has left over is let go one by one, else the memory of every stream would grow to that of its worst
    moment. A buffer of another shape than the one last taken back (another resolution) is let go at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Image] = []
        self._takes = self._fewest = 0

    def take(self) -> Image | None:
        """An idle buffer, or None when there is none yet."""
        with self._lock:
            taken = self._idle.pop() if self._idle else None
            self._fewest = min(self._fewest, len(self._idle))
            self._takes += 1
            if self._takes >= _LOOK_EVERY:
                if self._fewest:
                    self._idle.pop()
                self._takes, self._fewest = 0, len(self._idle)
            return taken

    def give(self, image: Image) -> None:
        """Take a buffer back."""
        with self._lock:
            if self._idle and self._idle[-1].shape != image.shape:
                self._idle.clear()
            if len(self._idle) < _SPARE_BUFFERS:
                self._idle.append(image)
