"""The pictures in a `multipart/x-mixed-replace` body, however the network cuts it (RFC 2046 §5.1 and what cameras do).

Cameras differ: with and without Content-Length, with a wrong one, with the two dashes already in the announced
boundary, with other parts (events as text) in between. A part is over at its Content-Length; without one at the JPEG's
own end marker, found by walking its segments (ITU-T T.81 annex B) so that the frame is there when its last byte is,
not when the next one's boundary comes; or else at the next boundary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from email.message import Message

from edgerun.capture.jpeg import JpegWalk
from edgerun.errors import SourceError

_LONGEST_HEADERS = 16384
_LONGEST_PART = 16 * 1024 * 1024
_CAPACITY = 1024 * 1024  # three pictures of 1080p: what waits while this process does not come to read
_ROOM = 64 * 1024
_CALM = 64
"""A buffer that a backlog made larger is made anew when, so many times in a row, the usual one would have done."""

_TYPE = re.compile(rb"^[ \t]*content-type[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^[ \t]*content-length[ \t]*:[ \t]*([0-9]{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_GAPS = (b"\r\n\r\n", b"\n\n")
_Step = Callable[["MultipartParser"], tuple[int, int] | None]


def boundary_of(content_type: str) -> str | None:
    """The boundary parameter of a multipart content type; None when it is not multipart.

    Raises `SourceError` when it is but names no usable boundary.
    """
    message = Message()
    message["content-type"] = content_type
    if message.get_content_maintype() != "multipart":
        return None
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not boundary.strip() or not boundary.isascii():
        raise SourceError(
            "the multipart answer names no boundary",
            expected='Content-Type: multipart/x-mixed-replace; boundary="…"',
            got=repr(content_type[:120]),
        )
    return boundary.strip()


class MultipartParser:
    """Read into `room()`, say so with `filled()`, then take pictures with `next()` until it returns None.

    The bytes stay where they were read to: a picture is a span of the one buffer, which is kept (`held`) until `next()`
    gives another. `ended` is set at the closing boundary. Memory is bounded: a part over 16 MiB, headers over 16 KiB,
    or that much without any boundary raise `SourceError`.
    """

    def __init__(self, boundary: str) -> None:
        self.ended = False
        word = boundary.encode("ascii")
        # By the standard the delimiter is "--" + boundary; cameras that announce "--x" often send just "--x".
        self._candidates = (b"--" + word, word) if word.startswith(b"--") else (b"--" + word,)
        self._delimiter = b""
        self._data = bytearray(_CAPACITY)
        self._calm = 0
        self._before = 0  # bytes of the body that were moved out in front of the buffer
        self._begin = self._end = self._scanned = 0  # what is not parsed yet; no delimiter begins before `_scanned`
        self._held = (0, 0)
        self._length = 0
        self._is_image = True
        self._walk = JpegWalk()
        # Not bound: what refers to itself keeps its buffer until Python's collector comes, which may take hours.
        self._step: _Step = MultipartParser._find_first

    @property
    def received(self) -> int:
        """Bytes of the body that have been filled in."""
        return self._before + self._end

    @property
    def held(self) -> memoryview:
        """The picture that `next()` gave last, as it was sent (it may be empty or damaged); valid until `room()`."""
        return memoryview(self._data)[self._held[0] : self._held[1]]

    @property
    def held_end(self) -> int:
        """Where in the body (bytes) the held picture ends."""
        return self._before + self._held[1]

    @property
    def missing(self) -> int:
        """How many more bytes must come at least before there can be another picture."""
        if self._step is MultipartParser._read_counted:
            return max(1, self._length - (self._end - self._begin))
        return 1

    def room(self) -> memoryview:
        """Where to read the next bytes to: at least one, at most 64 KiB."""
        if len(self._data) - self._end < _ROOM:
            self._make_room()
        return memoryview(self._data)[self._end : self._end + _ROOM]

    def filled(self, count: int) -> None:
        """`count` bytes have been written into `room()`."""
        self._end += count

    def feed(self, data: bytes) -> None:
        """Copy `data` in."""
        for at in range(0, len(data), _ROOM):
            piece = data[at : at + _ROOM]
            self.room()[: len(piece)] = piece
            self.filled(len(piece))

    def next(self) -> bool:
        """Take the next complete picture part: it is `held` now. False: fill in more first."""
        while not self.ended:
            step = self._step
            part = step(self)
            if part is not None and self._is_image:
                self._held = part
                return True
            if part is None and self._step is step and not self.ended:
                return False
        return False

    def _make_room(self) -> None:
        first = self._held[0] if self._held[1] > self._held[0] else self._begin
        kept = self._end - first
        old = memoryview(self._data)
        if kept + 2 * _ROOM > len(self._data):
            self._data = bytearray(2 * (kept + _ROOM))
            self._calm = 0
        elif len(self._data) > _CAPACITY:
            self._calm = self._calm + 1 if kept + 2 * _ROOM <= _CAPACITY else 0
            if self._calm == _CALM:
                self._data = bytearray(_CAPACITY)
                self._calm = 0
        memoryview(self._data)[:kept] = old[first : self._end]
        self._before += first
        self._begin -= first
        self._scanned -= first
        self._held = (self._held[0] - first, self._held[1] - first) if self._held[1] > self._held[0] else (0, 0)
        self._end = kept

    def _find_first(self) -> None:
        """The first line that is a delimiter decides which one this camera uses."""
        while (end := self._data.find(b"\n", self._scanned, self._end)) >= 0:
            line = bytes(self._data[self._begin : end]).strip()
            self._begin = self._scanned = end + 1
            if line in self._candidates:
                self._delimiter = line
                self._step = MultipartParser._read_headers
                return
        self._scanned = self._end
        self._bound(_LONGEST_HEADERS, "no boundary at the start of the multipart body")

    def _read_headers(self) -> None:
        begin, end = self._begin, self._end
        if begin == end:
            return
        if self._data.startswith((b"\r\n", b"\n"), begin, end):  # no headers at all
            ends = [(begin, 2 if self._data[begin] == 0x0D else 1)]
        else:
            marks = (
                (self._data.find(mark, begin, min(end, begin + _LONGEST_HEADERS + 4)), len(mark)) for mark in _GAPS
            )
            ends = [(at, length) for at, length in marks if at >= 0]
        if not ends:
            if bytes(self._data[begin : min(begin + 2, end)]) not in (b"", b"\r"):
                self._bound(_LONGEST_HEADERS, "the headers of a part do not end")
            return
        at, length = min(ends)
        kind = _TYPE.search(self._data, begin, at)
        stated = _LENGTH.search(self._data, begin, at)
        self._begin = self._scanned = at + length
        self._is_image = kind is None or kind[1].lower().startswith((b"image/", b"application/octet-stream"))
        if stated is not None:
            self._length = int(stated[1])
            if self._length > _LONGEST_PART:
                raise SourceError("a part is too large", expected=f"at most {_LONGEST_PART} bytes", got=self._length)
            self._step = MultipartParser._read_counted
        else:
            self._walk = JpegWalk()
            self._step = MultipartParser._read_open

    def _read_counted(self) -> tuple[int, int] | None:
        if self._end - self._begin < self._length:
            return None
        self._step = MultipartParser._find_next
        return self._cut(self._begin + self._length)

    def _read_open(self) -> tuple[int, int] | None:
        boundary = self._find_delimiter()
        length = self._walk.find_end(self._data, self._begin, self._end)
        if length is not None and (boundary is None or self._begin + length <= boundary[0]):
            self._step = MultipartParser._find_next
            return self._cut(self._begin + length)
        if boundary is None:
            self._bound(_LONGEST_PART, "a part does not end")
            return None
        start, behind, closing = boundary
        part = self._cut(start)
        self._pass_delimiter(behind, closing)
        return part

    def _find_next(self) -> None:
        boundary = self._find_delimiter()
        if boundary is None:
            self._bound(_LONGEST_PART, "no boundary behind a part")
            return
        self._pass_delimiter(boundary[1], boundary[2])

    def _find_delimiter(self) -> tuple[int, int, bool] | None:
        """(where the part before it ends, where its line ends, whether it closes the body), once the line is whole."""
        data, begin, end = self._data, self._begin, self._end
        at = self._scanned
        while (at := data.find(self._delimiter, at, end)) >= 0:
            line_end = data.find(b"\n", at, end)
            tail = bytes(data[at + len(self._delimiter) : line_end if line_end >= 0 else end]).strip(b" \t\r")
            at_line_start = at == begin or data[at - 1] == 0x0A
            closing = tail.startswith(b"--")
            if at_line_start and (closing or (not tail and line_end >= 0)):
                start = at
                if start > begin and data[start - 1] == 0x0A:
                    start -= 2 if start > begin + 1 and data[start - 2] == 0x0D else 1
                return start, line_end + 1 if line_end >= 0 else end, closing
            if at_line_start and line_end < 0 and tail in (b"", b"-"):  # its line is not whole yet
                self._scanned = at
                return None
            at += 1
        self._scanned = max(self._scanned, end - len(self._delimiter))
        return None

    def _pass_delimiter(self, behind: int, closing: bool) -> None:
        self._begin = self._scanned = behind
        self._step = MultipartParser._read_headers
        self.ended = closing

    def _cut(self, end: int) -> tuple[int, int]:
        part = (self._begin, end)
        self._begin = self._scanned = end
        return part

    def _bound(self, most: int, what: str) -> None:
        if (left := self._end - self._begin) > most:
            raise SourceError(what, got=f"{left} bytes without", remedy="is this really an MJPEG camera?")
