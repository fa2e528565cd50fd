"""A folder, a glob or a single picture: every one is delivered, none has a deadline."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from pathlib import Path
from typing import Annotated

import msgspec

from edgerun.capture import opencv
from edgerun.capture.pace import Pace
from edgerun.capture.picture import decode_picture
from edgerun.errors import FrameError, SourceError
from edgerun.ports import SourceContext
from edgerun.types import WHOLE, Grab, Image, View

# What the OpenCV wheels read (imgcodecs, "Supported formats" of cv::imread).
SUFFIXES = frozenset(
    f".{name}"
    for name in "jpg jpeg jpe png bmp dib webp tif tiff jp2 avif gif pbm pgm ppm pnm pxm sr ras hdr".split()  # noqa: SIM905
)

_KEY_BYTES = 16


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path`: a folder (with its sub-folders), a file, or a glob (`**` goes through sub-folders).

    `fps` None: as fast as the consumer takes them.
    """

    path: str
    fps: Annotated[float, msgspec.Meta(gt=0)] | None = None


class ImagesSource:
    """Pictures in natural order (`2.jpg` before `10.jpg`); `item` is the name relative to the folder.

    The list is made once, when it is opened. A picture is read in `grab()`, whose `key` is the BLAKE2b digest of its
    bytes (16 bytes), and decoded in `retrieve()`, JPEGs at the scale that is wanted; one
    that cannot be is a `FrameError` (`read`, `decode`) and the stream goes on. EXIF orientation is applied.
    """

    options = Options
    lossless = True
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._cv2 = opencv.load()
        self._context = context
        self._root, self._items = find_pictures(options.path)
        paced = options.fps is not None and not context.as_fast
        self._interval_ns = round(1e9 / options.fps) if paced and options.fps else 0
        self._pace = Pace(context.clock, context.stop)
        self._next = 0
        self._path = self._root
        self._data: bytes | FrameError = b""
        self.frame_size = (0, 0)

    def grab(self, until_ns: int | None = None) -> Grab | None:
        if self._next == len(self._items) and self._context.loop:
            self._next = 0
        if self._next == len(self._items) or self._context.stop.is_set():
            return None
        captured_ns = self._pace.next(self._interval_ns) if self._interval_ns else self._context.clock.mono_ns()
        if captured_ns is None:
            return None
        self._next += 1
        self._path = self._root / self._items[self._next - 1]
        self._data = _read(self._path)
        data = self._data
        key = hashlib.blake2b(data, digest_size=_KEY_BYTES).digest() if isinstance(data, bytes) else None
        return Grab(captured_ns, self._items[self._next - 1], key)

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        if isinstance(self._data, FrameError):
            raise self._data
        image, self.frame_size = decode_picture(self._cv2, self._data, out, str(self._path), view)
        return image

    def close(self) -> None:
        """Nothing is held between calls."""


def _read(path: Path) -> bytes | FrameError:
    try:
        return path.read_bytes()
    except OSError as error:
        return FrameError("the picture cannot be read", where=path, got=error.strerror or str(error), reason="read")


def find_pictures(path: str) -> tuple[Path, list[str]]:
    """(folder, names relative to it in natural order); raises a final `SourceError` when there is no picture."""
    root = Path(path)
    if root.is_file():
        return root.parent, [root.name]
    if root.is_dir():
        names = [
            os.path.relpath(os.path.join(folder, name), root)
            for folder, _, files in os.walk(root)
            for name in files
            if _is_picture(name)
        ]
    elif glob.has_magic(path):
        root = _fixed_part(path)
        names = [os.path.relpath(found, root) for found in glob.glob(path, recursive=True) if os.path.isfile(found)]
    else:
        raise SourceError("no such file or folder", where=path, remedy="give a folder, a picture or a glob", final=True)
    if not names:
        raise SourceError(
            "there is no picture here", where=path, expected="files ending in .jpg, .png, .webp …", final=True
        )
    return root, sorted(names, key=natural_key)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts runs of digits by their number and everything else as text; a total order over distinct names."""
    parts = re.split(r"([0-9]+)", name)
    return (*((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p), (2, 0, name))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _fixed_part(pattern: str) -> Path:
    """The folder that a glob's first wildcard lies in."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed]) if fixed else Path()
