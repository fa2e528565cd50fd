"""What a JPEG says of itself, read without decoding it (ITU-T T.81 annex B; Exif 2.32 §4.6)."""

from __future__ import annotations

from typing import NamedTuple

Bytes = bytes | bytearray | memoryview

_START = b"\xff\xd8"
_END = b"\xff\xd9"  # T.81 table B.1: SOI and EOI
# Table B.1: the frame headers SOF0-SOF15 are C0-CF without DHT (C4), JPG (C8) and DAC (CC).
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ONE_SCAN = frozenset((0xC0, 0xC1))  # sequential, Huffman
_STANDALONE = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))  # stuffing, TEM, RSTn, SOI: no length behind them
_EXIF = b"Exif\x00\x00"
_ORIENTATION = 0x0112
_LONGEST_WALK = 200  # segments; a real header has a dozen


class JpegHeader(NamedTuple):
    """`width` and `height` as stored, pixels; `orientation` as in Exif (1: as stored; 5-8 lie on their side)."""

    width: int
    height: int
    components: int
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown, pixels."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: Bytes) -> JpegHeader | None:
    """The header of a JPEG up to its frame header; None when `data` is no JPEG or damaged before that."""
    if bytes(data[:2]) != _START:
        return None
    orientation, at = 1, 2
    for _ in range(_LONGEST_WALK):
        if at + 4 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        body = at + 4
        if marker in _FRAME_HEADERS:
            if length < 8 or body + 6 > len(data):
                return None
            height, width = data[body + 1] << 8 | data[body + 2], data[body + 3] << 8 | data[body + 4]
            return JpegHeader(width, height, data[body + 5], orientation) if width and height else None
        if marker in (0xD9, 0xDA):  # the picture began without a frame header
            return None
        if marker == 0xE1 and bytes(data[body : body + 6]) == _EXIF:
            orientation = _orientation(bytes(data[body + 6 : at + 2 + length]))
        at += 2 + length
    return None


def is_cut_short(data: Bytes) -> bool:
    """Whether this is a JPEG without its end marker. Cameras pad behind it, phones append trailers of their own."""
    if bytes(data[:2]) != _START or _END in bytes(data[-64:]):
        return False
    whole = data if isinstance(data, bytes | bytearray) else bytes(data)
    return JpegWalk().find_end(whole) is None


class JpegWalk:
    """Where a growing buffer's JPEG ends. Thumbnails in APPn segments have end markers too, so segments are skipped."""

    def __init__(self) -> None:
        self._at = 0
        self._in_scan = False
        self._is_jpeg = True
        self._components = 0  # of a frame whose components may come in a single scan
        self._last_scan = False

    def find_end(self, data: bytes | bytearray, begin: int = 0, end: int | None = None) -> int | None:
        """The position behind the EOI marker of the JPEG at `begin`, counted from there.

        None while it has not come, and for ever if this is no JPEG. `begin` may change from call to call, what lies
        behind it may only grow.
        """
        stop = len(data) if end is None else end
        at = begin + self._at
        found = None
        while self._is_jpeg and at + 2 <= stop:
            if self._last_scan:  # in entropy-coded data every FF is stuffed, so this can only be the end
                end_at = data.find(_END, at, stop)
                found = end_at + 2 - begin if end_at >= 0 else None
                at = max(at, stop - 1) if end_at < 0 else end_at
                break
            if self._in_scan:
                at = data.find(b"\xff", at, stop)
                if at < 0:
                    at = stop
                    break
                if at + 2 > stop:
                    break
            marker = data[at + 1]
            if data[at] != 0xFF or (at == begin and marker != 0xD8):
                self._is_jpeg = False
            elif marker == 0xD9:
                found = at + 2 - begin
                break
            elif marker == 0xFF:  # a fill byte
                at += 1
            elif marker in _STANDALONE:
                at += 2
            else:
                if at + (10 if marker in _ONE_SCAN else 5) > stop:
                    break
                if marker in _ONE_SCAN:
                    self._components = data[at + 9]
                self._in_scan = marker == 0xDA  # SOS: entropy-coded data follows its header
                self._last_scan = self._in_scan and data[at + 4] == self._components
                at += 2 + (data[at + 2] << 8 | data[at + 3])
        self._at = at - begin
        return found


def _orientation(tiff: bytes) -> int:
    """The orientation (1-8) in an Exif block's first directory; 1 when it has none or makes no sense."""
    if tiff[:4] not in (b"II*\x00", b"MM\x00*"):
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], "little" if tiff[:2] == b"II" else "big")

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), 64)):
        at = directory + 2 + 12 * entry
        if number(at, 2) == _ORIENTATION:
            value = number(at + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
