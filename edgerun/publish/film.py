"""One MP4 of a run: a constant frame rate, every picture at the moment it was captured."""

from __future__ import annotations

import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.clock import Clock
from edgerun.types import Image

_log = logging.getLogger(__name__)

_HELD_PICTURES = 9
_HELD_NS = 500_000_000
_HELD_BYTES = 32 << 20
"""Pictures kept in memory until the frame rate is known: a film states it at its beginning. So many pictures over at
least so long a time, or so many bytes of them."""
_FALLBACK_FPS = 10.0
_FPS_LIMITS = (1.0, 60.0)
_PAUSE_NS = 1_000_000_000
_LONGEST_GAP_NS = 10_000_000_000
"""A gap is filled by encoding its last picture again and again, in the publish thread (1 ms each at 640×480 and 6 ms
at 1920×1080 on a desktop core); and nobody wants to watch an hour of it."""
_FREE_BYTES = 8 << 20
"""Below this the film is ended while there is room for its index, without which nothing plays."""
_CHECK_EVERY_NS = 2_000_000_000


class Film:
    """One MP4. The first pictures are held back until their capture times tell the frame rate.

    A picture takes the slot of the film nearest to its capture time. It is repeated until the next one's slot, and the
    newest of those that fall on one slot is taken. A gap of more than 10 s is shortened to 10 s and logged. With
    `every` each picture takes the next slot instead: for a source that is not read at its own pace.
    """

    def __init__(self, cv2: Any, path: Path, codec: str, fps: float | None, clock: Clock, *, every: bool) -> None:
        self._cv2 = cv2
        self._path = path
        self._codec = codec
        self._fps = fps
        self._clock = clock
        self._every = every
        self._held: list[tuple[Image, int]] = []
        self._writer: Any = None
        self._size = (0, 0)
        self._ended = False
        self.shortfall: str | None = None
        """Why pictures are not in it, in words; None while all are."""
        self._checked_ns = clock.mono_ns()
        self._timeline = Timeline(_FALLBACK_FPS)
        self._waiting: Image | None = None
        self._waiting_slot = -1

    def add(self, picture: Image, captured_ns: int) -> None:
        """Take a copy of `picture`, captured at `captured_ns` (monotonic)."""
        if self._ended:
            return
        if self._writer is not None:
            self._place(picture, captured_ns)
            return
        self._held.append((picture.copy(), captured_ns))
        if self._fps is not None or self._has_seen_enough():
            self._start()

    def close(self) -> None:
        """Write what waits, and the film's index. Idempotent."""
        if not self._ended and self._held:
            self._start()
        if self._waiting is not None:
            self._write(self._waiting)
            self._waiting = None
        self._end()

    def _has_seen_enough(self) -> bool:
        if sum(picture.nbytes for picture, _ in self._held) >= _HELD_BYTES:
            return True
        return len(self._held) >= _HELD_PICTURES and self._held[-1][1] - self._held[0][1] >= _HELD_NS

    def _start(self) -> None:
        fps = self._fps if self._fps is not None else frame_rate([at_ns for _, at_ns in self._held])
        held, self._held = self._held, []
        height, width = held[0][0].shape[:2]
        self._size = (max(2, width & ~1), max(2, height & ~1))  # 4:2:0 chroma: even sides
        self._writer = open_writer(self._cv2, self._path, self._codec, fps, self._size)
        if not self._writer.isOpened():
            self._ended = True
            self.shortfall = f"{self._path}: the film cannot be written"
            _log.error("%s; the run goes on without it", self.shortfall)
            return
        _log.info("%s: %d×%d at %.2f frames/s", self._path, *self._size, fps)
        self._timeline = Timeline(fps)
        for picture, captured_ns in held:
            self._place(picture, captured_ns)

    def _place(self, picture: Image, captured_ns: int) -> None:
        slot = self._waiting_slot + 1 if self._every else self._timeline.slot(captured_ns)
        if self._timeline.shortened_s:
            _log.info("%s: a gap of %.1f s is shortened to 10 s", self._path, self._timeline.shortened_s)
        if self._waiting is None:
            self._waiting = np.empty((self._size[1], self._size[0], 3), np.uint8)
        else:
            for _ in range(slot - self._waiting_slot):
                self._write(self._waiting)
        if not self._ended:
            np.copyto(self._waiting, fit(self._cv2, picture, self._size))
        self._waiting_slot = slot

    def _write(self, picture: Image) -> None:
        now_ns = self._clock.mono_ns()
        if not self._ended and now_ns - self._checked_ns >= _CHECK_EVERY_NS:
            self._checked_ns = now_ns
            if shutil.disk_usage(self._path.parent).free < _FREE_BYTES:
                self.shortfall = f"{self._path}: the disk is full; the film ends here"
                _log.error("%s, the run goes on", self.shortfall)
                self._end()
        if not self._ended:
            self._writer.write(picture)

    def _end(self) -> None:
        self._ended = True
        if self._writer is not None:
            self._writer.release()
            self._writer = None


class Timeline:
    """Capture times → slots of a film of `fps` frames a second, from 0 and never backwards.

    Gaps are added up from the first picture on, so that nothing is lost by rounding.
    """

    def __init__(self, fps: float) -> None:
        self.shortened_s = 0.0
        """The length of the gap before the last picture where it was too long, else 0."""
        self._fps = fps
        self._newest_ns: int | None = None
        self._at_ns = 0  # of the film

    def slot(self, captured_ns: int) -> int:
        """The slot nearest to `captured_ns`."""
        if self._newest_ns is None:
            self._newest_ns = captured_ns
        gap_ns = max(0, captured_ns - self._newest_ns)
        self.shortened_s = gap_ns / 1e9 if gap_ns > _LONGEST_GAP_NS else 0.0
        self._newest_ns += gap_ns
        self._at_ns += min(gap_ns, _LONGEST_GAP_NS)
        return round(self._at_ns * self._fps / 1e9)


def frame_rate(times_ns: list[int]) -> float:
    """Frames per second of pictures captured at `times_ns`: intervals over their sum, within 1..60; 10 when unknown.

    A median would take the rate inside a burst for the rate of the whole; one pause among the pictures would make a
    plain mean far too low, so no interval counts more than a second.
    """
    intervals = [max(0, later - earlier) for earlier, later in itertools.pairwise(times_ns)]
    span_ns = sum(min(interval, _PAUSE_NS) for interval in intervals)
    if not span_ns:
        return _FALLBACK_FPS
    low, high = _FPS_LIMITS
    return min(high, max(low, len(intervals) * 1e9 / span_ns))


def fit(cv2: Any, picture: Image, size: tuple[int, int]) -> Image:
    """`picture` in a film of `size` (width, height): as it is, an odd row or column cut off, or, when the source has
    changed its resolution, scaled with black bars.
    """
    wide, tall = size
    height, width = picture.shape[:2]
    if (max(2, width & ~1), max(2, height & ~1)) == size and width >= 2 and height >= 2:
        return picture[:tall, :wide]
    scale = min(wide / width, tall / height)
    inside = (max(1, round(width * scale)), max(1, round(height * scale)))
    out = np.zeros((tall, wide, 3), np.uint8)
    x, y = (wide - inside[0]) // 2, (tall - inside[1]) // 2
    out[y : y + inside[1], x : x + inside[0]] = cv2.resize(picture, inside, interpolation=cv2.INTER_AREA)
    return out


def open_writer(cv2: Any, path: Path, codec: str, fps: float, size: tuple[int, int]) -> Any:
    """OpenCV's writer of `path`; whether it works, its `isOpened` says."""
    return cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, size)
