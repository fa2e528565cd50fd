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
from edgerun.capture.connection import Patience, Stopped
from edgerun.capture.http import Response, fetch
from edgerun.capture.multipart import MultipartParser, boundary_of
from edgerun.capture.picture import decode_picture
from edgerun.capture.url import mask_url
from edgerun.errors import SourceError
from edgerun.ports import SourceContext
from edgerun.types import Grab, Image

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

    def __repr__(self) -> str:
        return f"Options(url={mask_url(self.url)!r}, …)"


class MjpegSource:
    """Live. `grab()` returns once per JPEG that arrives, in order, and leaves none out: frames that have piled up come
    one after the other at once. `captured_ns` is when the last byte was read. `stop` ends a wait within 0.2 s.
    """

    options = Options
    lossless = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._cv2 = opencv.load()
        self._context = context
        self._where = mask_url(options.url)
        self._read_s = options.read_timeout_s
        self._patience = Patience(context.clock, context.stop, self._where)
        self._frames: deque[tuple[bytes, int]] = deque()
        self._held = b""
        self._ended = False
        self._response = fetch(
            options.url,
            self._patience,
            options.connect_timeout_s,
            options.read_timeout_s,
            lambda: _tls(options),
        )
        try:
            self._parser = MultipartParser(check_answer(self._response, self._where))
        except SourceError:
            self.close()
            raise

    def grab(self) -> Grab | None:
        deadline_ns = self._patience.deadline_ns(self._read_s)
        while not self._frames:
            if self._ended:
                raise SourceError("the camera ended the stream", where=self._where)
            try:
                self._receive(deadline_ns)
            except Stopped:
                return None
        if self._context.stop.is_set():
            return None
        self._held, captured_ns = self._frames.popleft()
        return Grab(captured_ns)

    def retrieve(self, out: Image | None) -> Image:
        return decode_picture(self._cv2, self._held, out, self._where)

    def close(self) -> None:
        self._response.close()

    def _receive(self, deadline_ns: int) -> None:
        """Read what is there, waiting for it, and line up the pictures that are complete with it."""
        try:
            data = self._response.read(deadline_ns)
            now_ns = self._context.clock.mono_ns()
            self._parser.feed(data)
            while (picture := self._parser.next()) is not None:
                self._frames.append((picture, now_ns))
        except SourceError as error:
            error.where = error.where or self._where
            raise
        self._ended = not data or self._parser.ended


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
