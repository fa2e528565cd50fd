"""RTSP cameras and other network video, through the FFmpeg inside OpenCV."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import msgspec

from edgerun.capture import opencv
from edgerun.capture.file import retrieve_converted, size_of
from edgerun.capture.reach import ask
from edgerun.capture.url import mask_url
from edgerun.errors import SourceError
from edgerun.ports import SourceContext
from edgerun.secret import MaskedText, reveal
from edgerun.types import WHOLE, Grab, Image, View

_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "rtp", "srt", "tcp")
_WAITS_THAT_COUNT = 2  # in a row: one may be another process on our core
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`transport` is RTSP's: TCP inside the control connection (no torn pictures), or UDP.

    `decode_threads` above 1 helps a codec that is too slow for its stream, at the price of that many frames of delay:
    FFmpeg's frame threads each hold one.
    """

    url: str
    open_timeout_s: _Seconds = 5.0
    read_timeout_s: _Seconds = 5.0
    transport: Literal["tcp", "udp"] = "tcp"
    decode_threads: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "url", MaskedText(self.url))

    def __repr__(self) -> str:
        return f"Options(url={self.url!r}, transport={self.transport!r}, …)"


class StreamSource:
    """Live. FFmpeg decodes in `grab()`, since a codec needs every frame; `retrieve()` converts the colours.

    What FFmpeg gathered while it was finding out the format is passed over at the first `grab()`, since it is old.
    (`OPENCV_FFMPEG_CAPTURE_OPTIONS=fflags;nobuffer` would do it too, but it is one for the whole process, costs files
    their first frames, and throws away the key frame that the rest builds on.)

    `captured_ns` is when `grab()` returned, less the CPU time it spent: FFmpeg does not say when a packet arrived, and
    what is not waiting in there is decoding. FFmpeg's waits cannot be woken; `stop` ends one after `open_timeout_s` or
    `read_timeout_s` at the latest. It is given only what has answered before (see reach.py), for which there is
    `open_timeout_s` too and which `stop` ends at once.
    """

    options = Options
    lossless = False
    holds = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._cv2 = cv2 = opencv.load()
        self._context = context
        self._where = mask_url(options.url)
        self._read_s = options.read_timeout_s
        self.frame_size = (0, 0)
        settings = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(options.open_timeout_s * 1000)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(options.read_timeout_s * 1000)),
            *(cv2.CAP_PROP_N_THREADS, options.decode_threads),
        ]
        url = reveal(options.url)
        address = ffmpeg_url(url, options.transport)
        ask(url, options.open_timeout_s, context)
        began_ns = context.clock.mono_ns()
        self._capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, settings)
        self._gathering_ms = (context.clock.mono_ns() - began_ns) / 1e6
        if not self._capture.isOpened():
            self._capture.release()
            timed_out = self._gathering_ms >= options.open_timeout_s * 1e3
            raise SourceError(
                f"no answer within {options.open_timeout_s:g} s" if timed_out else "the stream cannot be opened",
                where=self._where,
                remedy="are host, path, user and password right? Try the same URL with ffplay on this device",
            )

    def grab(self, until_ns: int | None = None) -> Grab | None:
        if self._context.stop.is_set():
            return None
        captured_ns, _ = self._next()
        if self._gathering_ms:
            captured_ns = self._pass_over_gathered(captured_ns)
            self._gathering_ms = 0.0
        return None if self._context.stop.is_set() else Grab(captured_ns)

    def _next(self) -> tuple[int, int]:
        """Have FFmpeg read and decode a frame; when it was captured, and how long there was nothing to do (ns)."""
        began_ns, cpu_ns = self._context.clock.mono_ns(), time.thread_time_ns()
        got = self._capture.grab()
        now_ns, busy_ns = self._context.clock.mono_ns(), time.thread_time_ns() - cpu_ns
        if not got:
            timed_out = now_ns - began_ns >= self._read_s * 1e9
            raise SourceError(
                f"no frame within {self._read_s:g} s" if timed_out else "the stream ended", where=self._where
            )
        return max(began_ns, now_ns - busy_ns), now_ns - began_ns - busy_ns

    def _pass_over_gathered(self, captured_ns: int) -> int:
        """Go on until frames have to be waited for; returns when the last one was captured.

        Ends as well when what came would take longer to play than there was time (a recording), and when decoding can
        hardly keep up anyway.
        """
        first_ms = shown_ms = self._shown_ms()
        began_ns, waits = self._context.clock.mono_ns(), 0
        while waits < _WAITS_THAT_COUNT and not self._context.stop.is_set():
            took_ms = (self._context.clock.mono_ns() - began_ns) / 1e6
            if shown_ms - first_ms >= self._gathering_ms + took_ms or took_ms >= 2 * self._gathering_ms:
                break
            captured_ns, waited_ns = self._next()
            previous_ms, shown_ms = shown_ms, self._shown_ms()
            waits = waits + 1 if waited_ns / 1e6 >= (shown_ms - previous_ms) / 2 else 0
        return captured_ns

    def _shown_ms(self) -> float:
        return float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC))

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        image = retrieve_converted(self._cv2, self._capture, out, self._where)
        self.frame_size = size_of(image)
        return image

    def close(self) -> None:
        self._capture.release()


def ffmpeg_url(url: str, transport: str) -> str:
    """`url` as FFmpeg is to get it; raises a final `SourceError` for a scheme that is no network video.

    The RTSP transport rides in the query (`libavformat/rtsp.c` takes `tcp` and `udp` out of it before it asks the
    server), because the other way, an environment variable, is one for all streams of the process.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in _SCHEMES:
        raise SourceError(
            "this is not the URL of a network stream",
            where=mask_url(url),
            expected=", ".join(f"{s}://" for s in _SCHEMES),
            remedy='for a file use { kind = "file", path = … }',
            final=True,
        )
    if scheme not in ("rtsp", "rtsps"):
        return url
    return f"{url}{'&' if '?' in url else '?'}{transport}"
