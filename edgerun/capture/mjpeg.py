"""HTTP cameras that send JPEGs one after the other (`multipart/x-mixed-replace`), read by ourselves.

FFmpeg decodes every frame it grabs. Here `grab()` is the arrival of a JPEG's last byte and decoding is put off until
`retrieve()`, so a frame that nobody wants costs microseconds.
"""

from __future__ import annotations

import ssl
from collections import deque
from typing import Annotated

import msgspec

from edgerun.capture import opencv
from edgerun.capture.connection import Patience
from edgerun.capture.http import Response, fetch
from edgerun.capture.multipart import MultipartParser, boundary_of
from edgerun.capture.pace import Silence
from edgerun.capture.picture import decode_picture
from edgerun.capture.url import mask_url
from edgerun.errors import SourceError
from edgerun.ports import SourceContext
from edgerun.secret import MaskedText, reveal
from edgerun.types import NOT_YET, WHOLE, Grab, Image, View

_WAIT_STEP_S = 0.2
_MOST_AT_ONCE = 4 * 1024 * 1024  # a sender faster than we read must not keep us from looking at the clock
_Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`url` may hold user and password (Basic and Digest). `read_timeout_s` bounds the time from frame to frame.

    `tls_verify` off accepts any certificate; `tls_ca` is a PEM file with the authority that signed the camera's.
    """

    url: str
    connect_timeout_s: _Seconds = 5.0
    read_timeout_s: _Seconds = 5.0
    tls_verify: bool = True
    tls_ca: str | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "url", MaskedText(self.url))

    def __repr__(self) -> str:
        return f"Options(url={self.url!r}, …)"


class MjpegSource:
    """Live, holds. `grab()` returns once per JPEG that arrives, in order, and leaves none out: frames that have piled
    up come one after the other at once.

    `captured_ns` is when the last byte came, by the kernel's own time stamp, even if it was read later; over TLS, when
    it was read. (Where several frames piled up unread, the older of them may get the date of a younger one: the kernel
    keeps one for what it has joined together.) Whenever it looks it reads all that is there. `stop` ends a wait
    within 0.2 s, at once with `wake`.
    """

    options = Options
    lossless = False
    holds = True

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._cv2 = opencv.load()
        self._context = context
        self._where = mask_url(options.url)
        self._arrivals: deque[tuple[int, int]] = deque()  # (bytes of the body, when they were there)
        self.frame_size = (0, 0)
        self._ended = False
        self._response = fetch(
            reveal(options.url),
            Patience(context.clock, context.stop, self._where),
            options.connect_timeout_s,
            options.read_timeout_s,
            lambda: _tls(options),
        )
        try:
            self._parser = MultipartParser(check_answer(self._response, self._where))
        except SourceError:
            self.close()
            raise
        self._drained_ns = context.clock.mono_ns()
        self._silence = Silence(context.clock, round(options.read_timeout_s * 1e9))

    def grab(self, until_ns: int | None = None) -> Grab | None:
        self._silence.watch()
        try:
            return self._grab(until_ns)
        except SourceError as error:
            error.where = error.where or self._where
            raise
        finally:
            self._silence.leave()

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        image, self.frame_size = decode_picture(self._cv2, self._parser.held, out, self._where, view)
        return image

    def close(self) -> None:
        self._response.close()

    def _grab(self, until_ns: int | None) -> Grab | None:
        clock, stop = self._context.clock, self._context.stop
        wake = self._context.wake if until_ns is not None else None
        woken = looked = False
        while not stop.is_set():
            if self._parser.next():
                self._silence.heard()
                return Grab(self._arrived_ns())
            if self._ended or self._parser.ended:
                raise SourceError("the camera ended the stream")
            if looked and until_ns is not None and (woken or clock.mono_ns() >= until_ns):
                return NOT_YET
            looked = True
            if self._look():
                continue
            now_ns = clock.mono_ns()
            if until_ns is not None and (woken or now_ns >= until_ns):
                return NOT_YET
            wait_s = min(self._silence.left_s(), _WAIT_STEP_S)
            if wait_s <= 0:
                raise SourceError("timed out waiting for data", remedy="is it reachable from this device?")
            if until_ns is not None:
                wait_s = min(wait_s, (until_ns - now_ns) / 1e9)
            looked = False
            woken = self._response.connection.wait(wait_s, wake, self._parser.missing)
        return None

    def _look(self) -> bool:
        """Read all that is there without waiting; whether that was anything."""
        clock, parser = self._context.clock, self._parser
        began = parser.received
        self._arrivals.clear()  # no picture ended in what came before
        while parser.received - began < _MOST_AT_ONCE:
            room = parser.room()
            got = self._response.read_into(room)
            now_ns = clock.mono_ns()
            if got is None:
                self._drained_ns = now_ns
                break
            count, age_ns = got
            if not count:
                self._ended = True
                return True
            parser.filled(count)
            # What is read now was not there when everything had been read: a wall clock that jumps cannot deny that.
            self._drained_ns = max(self._drained_ns, now_ns - age_ns)
            self._arrivals.append((parser.received, self._drained_ns))
            if not self._response.may_have_more(count, len(room)):
                break
        return parser.received > began

    def _arrived_ns(self) -> int:
        while self._arrivals[0][0] < self._parser.held_end:
            self._arrivals.popleft()
        return self._arrivals[0][1]


def check_answer(response: Response, where: str) -> str:
    """The boundary of the multipart body that `response` begins; raises `SourceError` when it is anything else."""
    if response.status == 401:
        raise SourceError(
            "the camera refused the user or password",
            where=where,
            got=f"status 401 {response.reason}".strip(),
            remedy="put them into the URL: http://user:password@host/path",
        )
    if response.status != 200:
        raise SourceError(
            "the camera refused the request",
            where=where,
            expected="status 200",
            got=f"status {response.status} {response.reason}".strip(),
        )
    content_type = response.headers.get("content-type", "")
    try:
        boundary = boundary_of(content_type)
    except SourceError as error:
        error.where = where
        raise
    if boundary is not None:
        return boundary
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        raise SourceError(
            "this URL gives a single picture, not a stream",
            where=where,
            expected="multipart/x-mixed-replace",
            got=kind,
            remedy="ask the camera for its MJPEG address",
            final=True,
        )
    raise SourceError(
        "this URL does not give an MJPEG stream",
        where=where,
        expected="multipart/x-mixed-replace",
        got=kind or "no content type",
        remedy=f'for any other video use {{ kind = "stream", url = "{where}" }}',
        final=kind.startswith(("video/", "audio/", "application/vnd.apple.mpegurl")),
    )


def _tls(options: Options) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
    except OSError as error:
        raise SourceError(
            "the authority's certificate cannot be read",
            where=options.tls_ca,
            got=error.strerror or str(error),
            remedy="tls_ca names a PEM file",
            final=True,
        ) from error
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
