"""What a V4L2 node can do, asked by ioctl: no library, no frame.

Structures and numbers are those of Linux, include/uapi/linux/videodev2.h; they are the same on every 64- and 32-bit
architecture that edgerun runs on, since all members used here are 32 bits wide.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Literal

import msgspec

from edgerun.errors import DeviceError

_QUERYCAP, _CAP = 0x80685600, struct.Struct("=16s32s32sIII12x")
_ENUM_FMT, _FMT = 0xC0405602, struct.Struct("=III32sII12x")
_ENUM_FRAMESIZES, _SIZE = 0xC02C564A, struct.Struct("=IIIIIIIII8x")
_ENUM_FRAMEINTERVALS, _INTERVAL = 0xC034564B, struct.Struct("=IIIIIII16x8x")

_CAPTURE, _CAPTURE_MPLANE, _META_CAPTURE = 0x1, 0x1000, 0x00800000
_OUTPUT, _OUTPUT_MPLANE, _M2M, _M2M_MPLANE = 0x2, 0x2000, 0x8000, 0x4000
_DEVICE_CAPS = 0x80000000
_DISCRETE = 1
_COMPRESSED = 0x1
_BAYER = re.compile(r"BA81|BYR2|GBRG|GRBG|RGGB|(BG|GB|BA|GR|RG)1[0246]|p[BGgR](AA|CC|EE)|[ab][BGgR]A8|PC1[BGgR]")
_MOST = 64  # formats, and sizes of one format: a driver that never ends a list is cut off

VideoKind = Literal["capture", "metadata", "output", "memory-to-memory", "other"]


class VideoSize(msgspec.Struct, frozen=True):
    """A size in pixels; with `to` the largest of a range. `max_fps` is 0 where the driver does not say."""

    width: int
    height: int
    max_fps: float = 0.0
    to: tuple[int, int] | None = None


class VideoFormat(msgspec.Struct, frozen=True):
    """`fourcc` as V4L2 writes it ("MJPG", "YUYV", "pRAA")."""

    fourcc: str
    description: str
    compressed: bool
    sizes: tuple[VideoSize, ...] = ()


class Video(msgspec.Struct, frozen=True):
    """What a node says of itself. `multiplane`: it speaks only the multi-planar interface."""

    driver: str
    card: str
    bus: str
    kind: VideoKind
    multiplane: bool = False
    formats: tuple[VideoFormat, ...] = ()


def ask(path: Path) -> Video:
    """Open the node and ask it. Raises `DeviceError`, saying why it cannot be opened or is no V4L2 device."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError("cannot be opened", where=path, got=error.strerror) from error
    try:
        return _ask(fd)
    except OSError as error:
        what = "is not a V4L2 device" if error.errno == errno.ENOTTY else "does not answer"
        raise DeviceError(what, where=path, got=error.strerror or str(error)) from error
    finally:
        os.close(fd)


def is_raw(fourcc: str) -> bool:
    """Whether it is what a bare image sensor gives: Bayer, plain, packed or compressed by the sensor's own bus.

    The names: Linux, Documentation/userspace-api/media/v4l/pixfmt-bayer.rst and the Raspberry Pi's `PC1…`.
    """
    return _BAYER.fullmatch(fourcc) is not None


def _ask(fd: int) -> Video:
    answer = bytearray(_CAP.size)
    fcntl.ioctl(fd, _QUERYCAP, answer)
    driver, card, bus, _, capabilities, device = _CAP.unpack(answer)
    can = device if capabilities & _DEVICE_CAPS else capabilities
    kind = _kind(can)
    multiplane = bool(can & _CAPTURE_MPLANE) and not can & _CAPTURE
    formats = _formats(fd, 9 if multiplane else 1) if kind == "capture" else ()
    return Video(_words(driver), _words(card), _words(bus), kind, multiplane, formats)


def _kind(can: int) -> VideoKind:
    """A codec or scaler that offers both ends on one node is no camera, whatever else it claims."""
    if can & (_M2M | _M2M_MPLANE):
        return "memory-to-memory"
    if can & (_CAPTURE | _CAPTURE_MPLANE):
        return "capture"
    if can & _META_CAPTURE:
        return "metadata"
    return "output" if can & (_OUTPUT | _OUTPUT_MPLANE) else "other"


def _formats(fd: int, buffer_type: int) -> tuple[VideoFormat, ...]:
    found = []
    for index in range(_MOST):
        answer = bytearray(_FMT.pack(index, buffer_type, 0, b"", 0, 0))
        if not _next(fd, _ENUM_FMT, answer):
            break
        _, _, flags, description, pixels, _ = _FMT.unpack(answer)
        fourcc = struct.pack("=I", pixels & 0x7FFFFFFF).decode("latin-1").rstrip()  # the top bit means big-endian
        found.append(VideoFormat(fourcc, _words(description), bool(flags & _COMPRESSED), _sizes(fd, pixels)))
    return tuple(found)


def _sizes(fd: int, pixels: int) -> tuple[VideoSize, ...]:
    found = []
    for index in range(_MOST):
        answer = bytearray(_SIZE.pack(index, pixels, 0, 0, 0, 0, 0, 0, 0))
        if not _next(fd, _ENUM_FRAMESIZES, answer):
            break
        _, _, kind, *numbers = _SIZE.unpack(answer)
        if kind == _DISCRETE:
            width, height = numbers[:2]
            found.append(VideoSize(width, height, _fastest(fd, pixels, width, height)))
            continue
        low_w, high_w, _, low_h, high_h, _ = numbers
        found.append(VideoSize(low_w, low_h, 0.0, (high_w, high_h)))
        break  # a range is the only entry of its list (VIDIOC_ENUM_FRAMESIZES)
    return tuple(found)


def _fastest(fd: int, pixels: int, width: int, height: int) -> float:
    fastest = 0.0
    for index in range(_MOST):
        answer = bytearray(_INTERVAL.pack(index, pixels, width, height, 0, 0, 0))
        if not _next(fd, _ENUM_FRAMEINTERVALS, answer):
            break
        numerator, denominator = _INTERVAL.unpack(answer)[5:7]  # of a range: the shortest interval stands first
        if numerator:
            fastest = max(fastest, denominator / numerator)
    return round(fastest, 3)


def _next(fd: int, request: int, answer: bytearray) -> bool:
    """False at the end of a list, and where the driver does not know the question."""
    try:
        fcntl.ioctl(fd, request, answer)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY, errno.ENODATA):
            return False
        raise
    return True


def _words(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace").strip()
