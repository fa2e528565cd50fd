"""The pictures in a `multipart/x-mixed-replace` body, however the network cuts it (RFC 2046 §5.1 and what cameras do).

Cameras differ: with and without Content-Length, with a wrong one, with the two dashes already in the announced
boundary, with other parts (events as text) in between. A part is over at its Content-Length; without one at the JPEG's
own end marker, found by walking its segments (ITU-T T.81 annex B) so that the frame is there when its last byte is,
not when the next one's boundary comes; or else at the next boundary.
"""

from __future__ import annotations

from email.message import Message

from edgerun.errors import SourceError

_LONGEST_HEADERS = 16384
_LONGEST_PART = 16 * 1024 * 1024

_PREAMBLE, _HEADERS, _COUNTED, _OPEN, _BETWEEN = range(5)


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
    """`feed()` bytes as they come, then take pictures with `next()` until it returns None.

    `ended` is set at the closing boundary. Memory is bounded: a part over 16 MiB, headers over 16 KiB, or that much
    without any boundary raise `SourceError`.
    """

    def __init__(self, boundary: str) -> None:
        self.ended = False
        word = boundary.encode("ascii")
        # By the standard the delimiter is "--" + boundary; cameras that announce "--x" often send just "--x".
        self._candidates = (b"--" + word, word) if word.startswith(b"--") else (b"--" + word,)
        self._delimiter = b""
        self._data = bytearray()
        self._state = _PREAMBLE
        self._scanned = 0
        self._length = 0
        self._is_image = True
        self._walk = JpegWalk()

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> bytes | None:
        """The next complete picture part as it was sent (it may be empty or damaged); None: feed more first."""
        steps = {
            _PREAMBLE: self._find_first,
            _HEADERS: self._read_headers,
            _COUNTED: self._read_counted,
            _OPEN: self._read_open,
            _BETWEEN: self._find_next,
        }
        while not self.ended:
            state = self._state
            part = steps[state]()
            if part is not None and self._is_image:
                return part
            if part is None and self._state == state and not self.ended:
                return None
        return None

    def _find_first(self) -> None:
        """The first line that is a delimiter decides which one this camera uses."""
        while (end := self._data.find(b"\n", self._scanned)) >= 0:
            line = bytes(self._data[:end]).strip()
            del self._data[: end + 1]
            self._scanned = 0
            if line in self._candidates:
                self._delimiter = line
                self._state = _HEADERS
                return
        self._scanned = len(self._data)
        self._bound(_LONGEST_HEADERS, "no boundary at the start of the multipart body")

    def _read_headers(self) -> None:
        ends = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := self._data.find(mark)) >= 0]
        if self._data.startswith((b"\r\n", b"\n")):  # no headers at all
            ends = [(0, 2 if self._data.startswith(b"\r\n") else 1)]
        if not ends:
            if bytes(self._data[:2]) not in (b"", b"\r"):
                self._bound(_LONGEST_HEADERS, "the headers of a part do not end")
            return
        at, length = min(ends)
        headers = _parse_headers(bytes(self._data[:at]))
        del self._data[: at + length]
        kind = headers.get("content-type", "image/jpeg").lower()
        self._is_image = kind.startswith("image/") or kind.startswith("application/octet-stream")
        stated = headers.get("content-length", "")
        self._scanned = 0
        if stated.isdecimal():
            self._length = int(stated)
            if self._length > _LONGEST_PART:
                raise SourceError("a part is too large", expected=f"at most {_LONGEST_PART} bytes", got=stated)
            self._state = _COUNTED
        else:
            self._walk = JpegWalk()
            self._state = _OPEN

    def _read_counted(self) -> bytes | None:
        if len(self._data) < self._length:
            return None
        self._state = _BETWEEN
        return self._cut(self._length)

    def _read_open(self) -> bytes | None:
        boundary = self._find_delimiter()
        end = self._walk.find_end(self._data)
        if end is not None and (boundary is None or end <= boundary[0]):
            self._state = _BETWEEN
            return self._cut(end)
        if boundary is None:
            self._bound(_LONGEST_PART, "a part does not end")
            return None
        start, behind, closing = boundary
        part = self._cut(start)
        self._pass_delimiter(behind - start, closing)
        return part

    def _find_next(self) -> None:
        boundary = self._find_delimiter()
        if boundary is None:
            self._bound(_LONGEST_PART, "no boundary behind a part")
            return
        _, behind, closing = boundary
        self._pass_delimiter(behind, closing)

    def _find_delimiter(self) -> tuple[int, int, bool] | None:
        """(where the part before it ends, where its line ends, whether it closes the body), once the line is whole."""
        at = self._scanned
        while (at := self._data.find(self._delimiter, at)) >= 0:
            line_end = self._data.find(b"\n", at)
            tail = bytes(self._data[at + len(self._delimiter) : line_end if line_end >= 0 else None]).strip(b" \t\r")
            at_line_start = at == 0 or self._data[at - 1] == 0x0A
            closing = tail.startswith(b"--")
            if at_line_start and (closing or (not tail and line_end >= 0)):
                start = at
                if start and self._data[start - 1] == 0x0A:
                    start -= 2 if start > 1 and self._data[start - 2] == 0x0D else 1
                return start, line_end + 1 if line_end >= 0 else len(self._data), closing
            if at_line_start and line_end < 0 and tail in (b"", b"-"):  # its line is not whole yet
                self._scanned = at
                return None
            at += 1
        self._scanned = max(self._scanned, len(self._data) - len(self._delimiter))
        return None

    def _pass_delimiter(self, length: int, closing: bool) -> None:
        del self._data[:length]
        self._scanned = 0
        self._state = _HEADERS
        self.ended = closing

    def _cut(self, length: int) -> bytes:
        part = bytes(self._data[:length])
        del self._data[:length]
        self._scanned = 0
        return part

    def _bound(self, most: int, what: str) -> None:
        if len(self._data) > most:
            raise SourceError(what, got=f"{len(self._data)} bytes without", remedy="is this really an MJPEG camera?")


class JpegWalk:
    """Where a growing buffer's JPEG ends. Thumbnails in APPn segments have end markers too, so segments are skipped."""

    def __init__(self) -> None:
        self._at = 0
        self._in_scan = False
        self._is_jpeg = True

    def find_end(self, data: bytes | bytearray) -> int | None:
        """The position behind the EOI marker; None while it has not come, and for ever if this is no JPEG."""
        while self._is_jpeg and self._at + 2 <= len(data):
            if self._in_scan:
                self._at = data.find(b"\xff", self._at)
                if self._at < 0:
                    self._at = len(data)
                    return None
                if self._at + 2 > len(data):
                    return None
            marker = data[self._at + 1]
            if data[self._at] != 0xFF or (self._at == 0 and marker != 0xD8):
                self._is_jpeg = False
            elif marker == 0xD9:
                return self._at + 2
            elif marker == 0xFF:  # a fill byte
                self._at += 1
            elif marker == 0xD8 or 0xD0 <= marker <= 0xD7 or marker in (0x00, 0x01):  # SOI, RSTn, stuffing, TEM
                self._at += 2
            else:
                if self._at + 4 > len(data):
                    return None
                self._in_scan = marker == 0xDA  # SOS: entropy-coded data follows its header
                self._at += 2 + int.from_bytes(data[self._at + 2 : self._at + 4], "big")
        return None


def _parse_headers(data: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in data.decode("latin-1").splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in lines}
