"""Frame number and time drawn into a picture, so that a program can read them back at the other end of a camera link.

128 bits — frame number (32), monotonic capture time in ns (64), CRC-32 of both (32), most significant bit first — as
16×8 blocks of 8×8 pixels in the top left corner, white = 1. The blocks lie on the 8×8 grid of JPEG's transform (ITU-T
T.81), each is one flat DCT block without chroma, so they survive any quality setting and 4:2:0 subsampling.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from edgerun.types import Image

_BLOCK = 8
_COLUMNS, _ROWS = 16, 8
STAMP_WIDTH = _BLOCK * _COLUMNS
STAMP_HEIGHT = _BLOCK * _ROWS

_FIELDS = struct.Struct(">IQ")
_CHECK = struct.Struct(">I")


def draw_stamp(image: Image, frame_no: int, captured_ns: int) -> None:
    """Draw both into the top left 128×64 pixels of `image` (`H×W×3` uint8, changed in place).

    `frame_no` counts modulo 2³². Raises `ValueError` when the picture is too small.
    """
    height, width = image.shape[:2]
    if width < STAMP_WIDTH or height < STAMP_HEIGHT:
        raise ValueError(f"a stamp needs {STAMP_WIDTH}×{STAMP_HEIGHT} pixels; the picture has {width}×{height}")
    fields = _FIELDS.pack(frame_no & 0xFFFFFFFF, captured_ns)
    bits = np.unpackbits(np.frombuffer(fields + _CHECK.pack(zlib.crc32(fields)), np.uint8)).reshape(_ROWS, _COLUMNS)
    pixels = (bits * np.uint8(255)).repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
    image[:STAMP_HEIGHT, :STAMP_WIDTH] = pixels[:, :, None]


def read_stamp(image: Image) -> tuple[int, int] | None:
    """(frame_no, captured_ns) of a stamped picture (`H×W×3` uint8), None where there is no intact stamp."""
    if image.ndim != 3 or image.shape[0] < STAMP_HEIGHT or image.shape[1] < STAMP_WIDTH:
        return None
    corner = image[:STAMP_HEIGHT, :STAMP_WIDTH].reshape(_ROWS, _BLOCK, _COLUMNS, _BLOCK, image.shape[2])
    # The inner 4×4 pixels of each block: codecs that predict across blocks blur the rims.
    means = corner[:, 2:6, :, 2:6].mean(axis=(1, 3, 4))
    data = np.packbits((means > 127.5).astype(np.uint8)).tobytes()
    fields, check = data[: _FIELDS.size], data[_FIELDS.size :]
    if _CHECK.unpack(check)[0] != zlib.crc32(fields):
        return None
    frame_no, captured_ns = _FIELDS.unpack(fields)
    return frame_no, captured_ns
