"""A video file, played at its real rate like a camera, or read as fast as the consumer takes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.capture import opencv
from edgerun.capture.pace import Pace
from edgerun.errors import FrameError, SourceError
from edgerun.ports import SourceContext
from edgerun.types import WHOLE, Grab, Image, View

_FPS_UNKNOWN = 25.0  # what FFmpeg assumes for a raw stream without timing
_LONGEST_GAP_MS = 10_000.0  # a longer hole between two timestamps is taken for a damaged one
_SNIFF_BYTES = 4096
_TEXT_BYTES = frozenset((*range(32, 127), *range(128, 256), 9, 10, 12, 13, 27))


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` of the video. Looping and pacing are the stream's (`--loop`, `--as-fast`)."""

    path: str


class FileSource:
    """FFmpeg (in OpenCV) reads the file; `grab()` decodes, `retrieve()` converts the colours.

    Live: a frame's `captured_ns` is when it was due by the file's own timestamps (see `pace.Pace`). A frame that is
    late is delivered at once, so when the consumer is slow the file plays on at its real rate and nothing is left out.
    `as_fast`: lossless, no pacing. `item` is the frame's position from 0, again from 0 after each loop.
    Raises a final `SourceError` when the file is missing, not a video, or has no frames.
    """

    options = Options
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._cv2 = opencv.load()
        self._path = options.path
        self._context = context
        self.lossless = context.as_fast
        self._pace = Pace(context.clock, context.stop)
        check_video_path(Path(options.path))
        self._shown_ms = 0.0
        self._position = 0
        self._recorded_ns = 0
        self.frame_size = (0, 0)
        self._open()

    def grab(self, until_ns: int | None = None) -> Grab | None:
        if self._context.stop.is_set() or not self._advance():
            return None
        shown_ms = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC))
        interval_ns = _interval_ns(shown_ms - self._shown_ms, self._fps) if self._position else round(1e9 / self._fps)
        self._shown_ms = shown_ms
        captured_ns = self._context.clock.mono_ns() if self.lossless else self._pace.next(interval_ns)
        if captured_ns is None:
            return None
        self._position += 1
        self._recorded_ns += interval_ns
        return Grab(captured_ns, str(self._position - 1), recorded_ns=self._recorded_ns if self.lossless else None)

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        where = f"{self._path}, frame {self._position - 1}"
        image = retrieve_converted(self._cv2, self._capture, out, where)
        self.frame_size = size_of(image)
        return image

    def close(self) -> None:
        self._capture.release()

    def _open(self) -> None:
        """Open at the first frame and take hold of it, so that a file without any is noticed at the start."""
        cv2 = self._cv2
        self._capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise SourceError(
                "this is not a video that FFmpeg can open",
                where=self._path,
                remedy="play it with ffplay to see why, or use a folder of pictures",
                final=True,
            )
        self._first_held = bool(self._capture.grab())
        if not self._first_held:
            self.close()
            raise SourceError("the video has no frames", where=self._path, expected="at least one", final=True)
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._fps = fps if math.isfinite(fps) and 0.01 <= fps <= 1000.0 else _FPS_UNKNOWN

    def _advance(self) -> bool:
        """Take hold of the next frame, from the beginning again when looping."""
        if self._first_held:
            self._first_held = False
            return True
        if self._capture.grab():
            return True
        if not self._context.loop or not self._capture.isOpened():
            return False
        # Opened anew rather than sought back: raw and damaged files do not seek, and others may land a key frame off.
        self._capture.release()
        self._position = 0
        self._open()
        self._first_held = False
        return True


def retrieve_converted(cv2: Any, capture: Any, out: Image | None, where: str) -> Image:
    """The frame that an OpenCV capture holds, BGR, in `out` where it fits; raises `FrameError`.

    OpenCV writes into the array it is given when shape and type are right, and returns that very array.
    """
    target = out if out is not None and out.flags.c_contiguous else None
    try:
        got, image = capture.retrieve(target)
    except cv2.error as error:
        text = str(error).strip().splitlines()[0]
        raise FrameError("the frame cannot be converted", where=where, got=text, reason="decode") from error
    if not got or image is None:
        raise FrameError("the frame cannot be decoded", where=where, reason="decode")
    if image.size == 0:
        raise FrameError("the frame has no pixels", where=where, got=f"shape {image.shape}", reason="empty")
    if image.ndim == 2:  # a grey camera
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    converted: Image = np.ascontiguousarray(image)
    return converted


def size_of(image: Image) -> tuple[int, int]:
    """Width and height of a picture, pixels."""
    return image.shape[1], image.shape[0]


def check_video_path(path: Path) -> None:
    """Raises a final `SourceError` that says what is wrong with the path before FFmpeg guesses."""
    if not path.exists():
        raise SourceError(
            "no such file", where=path, remedy="check the path; it is relative to where edgerun runs", final=True
        )
    if path.is_dir():
        raise SourceError(
            "this is a folder",
            where=path,
            expected="a video file",
            remedy='for a folder of pictures use { kind = "images", path = … }',
            final=True,
        )
    if not path.is_file():
        raise SourceError("this is not a regular file", where=path, expected="a video file", final=True)
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFF_BYTES)
    except OSError as error:
        raise SourceError("the file cannot be read", where=path, got=error.strerror, final=True) from error
    if not head:
        raise SourceError("the file is empty", where=path, expected="a video", got="0 bytes", final=True)
    if _TEXT_BYTES.issuperset(head) and _is_utf8(head):  # FFmpeg's tty demuxer would play it as a video of letters
        raise SourceError("this is a text file", where=path, expected="a video", final=True)


def _interval_ns(step_ms: float, fps: float) -> int:
    """The time to the next frame: by the timestamps where they make sense, else by the frame rate."""
    if 0.0 < step_ms <= _LONGEST_GAP_MS:
        return round(step_ms * 1e6)
    return round(1e9 / fps)


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # a character cut at the end of the sample
    return True
