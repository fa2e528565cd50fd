"""An emulated live camera (HTTP, MJPEG) in a process of its own, whose pictures say when they were made.

`python -m edgerun.bench.camera --fps 100 --size 768x576` prints one line of JSON with its `url` once it listens. The
top left 128×64 pixels of each picture hold the frame's number and the CLOCK_MONOTONIC nanoseconds at which it was made
(`edgerun.capture.stamp`), so any program on the same machine can tell a picture's age from its pixels alone.

Live as a camera is: frames are due at absolute times; the send buffer holds about one frame, and what a client does not
take is dropped for this client, whole frames at a time, never queued. A frame that the machine had no time to make when
it was due is `missed`, not made late. One thread serves all clients; making a frame costs about 20 µs.

It ends on SIGTERM, SIGINT, after --seconds, or when standard input ends (--with-parent), and then prints its account as
one line of JSON: frames due = `emitted + missed`; for each client `sent` (whole) and `dropped`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgerun.bench.stamped import StampedJpeg
from edgerun.errors import EdgerunError, MissingError, SourceError

BOUNDARY = b"edgerun-frame"
PATTERNS = ("periodic", "jitter", "burst")
_MOST_PICTURES = 300
_PAUSE_NS = 450_000_000
_LINK_NS = 2_000_000
"""Between frames of a burst: what a link of 300 Mbit/s needs for 75 kB."""
_LONGEST_REQUEST = 65536
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: edgerun bench\r\nCache-Control: no-store\r\nConnection: close\r\n"
    b"Content-Type: multipart/x-mixed-replace; boundary=" + BOUNDARY + b"\r\n\r\n--" + BOUNDARY + b"\r\n"
)


class Options(msgspec.Struct, frozen=True):
    """What the camera is; `size` is width and height in pixels, `quality` JPEG's 1 to 100."""

    fps: float = 30.0
    size: tuple[int, int] = (768, 576)
    clip: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    quality: int = 80
    pattern: str = "periodic"
    seconds: float | None = None
    with_parent: bool = False


class ClientAccount(msgspec.Struct):
    """What one client was given, in whole frames: `sent + dropped` = frames emitted while it was there (a frame that
    was on its way when it left counts as dropped).
    """

    sent: int = 0
    dropped: int = 0


class CameraAccount(msgspec.Struct, frozen=True):
    """The account of a camera's life. `sent` and `dropped` are sums over `clients`; `cpu_s` is the process's own."""

    emitted: int
    missed: int
    sent: int
    dropped: int
    clients: tuple[ClientAccount, ...]
    cpu_s: float


class Schedule:
    """When frame `number` is due, in ns after the start: pure, rising with the number.

    `periodic`: every 1/fps. `jitter`: that, moved by up to ±40 % of the interval. `burst`: nothing for 450 ms, then all
    that the interval had, 2 ms apart (closer where the rate asks for it), as RTSP and Wi-Fi cameras do.
    """

    def __init__(self, fps: float, pattern: str) -> None:
        if pattern not in PATTERNS:
            raise ValueError(f"unknown pattern {pattern!r}; there is {', '.join(PATTERNS)}")
        self._interval_ns = 1e9 / fps
        self._pattern = pattern

    def due_ns(self, number: int) -> int:
        at = number * self._interval_ns
        if self._pattern == "jitter":
            at += random.Random(number).uniform(-0.4, 0.4) * self._interval_ns
        elif self._pattern == "burst":
            window = int(at // _PAUSE_NS)
            first = -(-window * _PAUSE_NS // self._interval_ns)
            at = (window + 1) * _PAUSE_NS + (number - first) * min(_LINK_NS, 0.5 * self._interval_ns)
        return max(0, round(at))


class _Client:
    """One connection: the request as far as it has come, then the rest of the frame that is on its way."""

    def __init__(self, sock: socket.socket, buffer: int) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.sock = sock
        self.account = ClientAccount()
        self.streaming = False
        self.gone = False
        self._request = b""
        self._rest = memoryview(b"")
        self._counts = False

    @property
    def waiting(self) -> bool:
        return bool(self._rest)

    def offer(self, part: bytes) -> None:
        """Send `part`, or drop it while the one before is still on its way."""
        if not self.streaming or self.gone:
            return
        if self._rest:
            self.account.dropped += 1
            return
        self._rest, self._counts = memoryview(part), True
        self.send()

    def send(self) -> None:
        """As much of what is on its way as the socket takes."""
        try:
            while self._rest:
                self._rest = self._rest[self.sock.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
            return
        if self._counts:
            self._counts = False
            self.account.sent += 1

    def receive(self) -> None:
        """The request, or the end of the connection."""
        try:
            data = self.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.gone = True
        elif not self.streaming:
            self._request += data
            self.gone = len(self._request) > _LONGEST_REQUEST
            if b"\r\n\r\n" in self._request:
                self.streaming = True
                self._rest = memoryview(_ANSWER)
                self.send()

    def close(self) -> None:
        if self._counts:
            self._counts = False
            self.account.dropped += 1
        self._rest = memoryview(b"")
        self.sock.close()


class Camera:
    """The camera: listens when constructed, serves in `run`. Raises `SourceError` for a clip that gives no picture."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._schedule = Schedule(options.fps, options.pattern)
        self._pictures = load_pictures(options.clip, options.size, options.quality)
        self._buffer = len(self._pictures[0].stamped(0, 0)) // 2  # Linux doubles it: socket(7)
        self._listener = socket.create_server((options.host, options.port))
        self._listener.setblocking(False)
        self._clients: list[_Client] = []
        self._accounts: list[ClientAccount] = []
        self._emitted = self._missed = 0

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"http://{host}:{port}/"

    def run(self, wake: Sequence[int]) -> None:
        """Serve until one of the descriptors `wake` is readable or the time is up."""
        began_ns = time.monotonic_ns()
        seconds = self._options.seconds
        until_ns = began_ns + round(seconds * 1e9) if seconds is not None else None
        number = 0
        while True:
            now_ns = time.monotonic_ns()
            if until_ns is not None and now_ns >= until_ns:
                return
            due_ns = began_ns + self._schedule.due_ns(number)
            if now_ns < due_ns:
                if self._serve(min(due_ns, until_ns or due_ns) - now_ns, wake):
                    return
                continue
            if began_ns + self._schedule.due_ns(number + 1) <= now_ns:
                self._missed += 1
            else:
                self._emit(number)
                if self._serve(0, wake):
                    return
            number += 1

    def account(self) -> CameraAccount:
        """What became of every frame. Ends the connections."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self._listener.close()
        return CameraAccount(
            self._emitted,
            self._missed,
            sum(one.sent for one in self._accounts),
            sum(one.dropped for one in self._accounts),
            tuple(self._accounts),
            round(time.process_time(), 3),
        )

    def _emit(self, number: int) -> None:
        picture = self._pictures[number % len(self._pictures)]
        jpeg = picture.stamped(number, time.monotonic_ns())
        self._emitted += 1
        head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
        part = b"".join((head, jpeg, b"\r\n--", BOUNDARY, b"\r\n"))
        for client in self._clients:
            client.offer(part)

    def _serve(self, most_ns: int, wake: Sequence[int]) -> bool:
        """Look after the clients for at most `most_ns`; True when it is time to end."""
        by_fd = {client.sock.fileno(): client for client in self._clients}
        reading = [self._listener.fileno(), *wake, *by_fd]
        writing = [fd for fd, client in by_fd.items() if client.waiting]
        readable, writable, _ = select.select(reading, writing, [], max(0, most_ns) / 1e9)
        if any(fd in readable for fd in wake):
            return True
        if self._listener.fileno() in readable:
            self._accept()
        for fd in writable:
            by_fd[fd].send()
        for fd in readable:
            if fd in by_fd:
                by_fd[fd].receive()
        for client in [one for one in self._clients if one.gone]:
            client.close()
            self._clients.remove(client)
        return False

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has gone again
            sock, _ = self._listener.accept()
            client = _Client(sock, self._buffer)
            self._clients.append(client)
            self._accounts.append(client.account)


def load_pictures(
    clip: Path | None, size: tuple[int, int], quality: int, most: int = _MOST_PICTURES
) -> list[StampedJpeg]:
    """The clip's first pictures, `most` of them, scaled to `size`; without a clip, those of the bundled street.

    Raises `SourceError` when the clip gives no picture or the size is too small, `MissingError` without the street.
    """
    import cv2

    path = clip if clip is not None else bundled_clip()
    capture = cv2.VideoCapture(str(path))
    pictures: list[StampedJpeg] = []
    try:
        while len(pictures) < most:
            got, image = capture.read()
            if not got:
                break
            pictures.append(StampedJpeg(cv2.resize(image, size, interpolation=cv2.INTER_AREA), quality))
    except ValueError as error:
        raise SourceError("the size is too small", where=path, got=error, final=True) from error
    finally:
        capture.release()
    if not pictures:
        raise SourceError("no picture can be read from this clip", where=path, expected="a video file", final=True)
    return pictures


def bundled_clip() -> Path:
    """The street that ships with edgerun. Raises `MissingError`."""
    from edgerun.models.bundle import find_bundled

    model = find_bundled("ssd-mobilenet-v2-oid")
    path = model.parent / "clips" / "street.mp4" if model is not None else None
    if path is None or not path.is_file():
        raise MissingError(
            "the bundled clip is not in this installation",
            expected="clips/street.mp4 beside the bundled models",
            remedy="name a clip, or install edgerun again (pip install --force-reinstall edgerun)",
        )
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the camera until it is told to end; returns the exit code."""
    options = _parse(argv)
    ending, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # the descriptor tells
    try:
        camera = Camera(options)
    except (EdgerunError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    says = {"url": camera.url, "pid": os.getpid(), **msgspec.to_builtins(options, enc_hook=str)}
    _tell(msgspec.json.encode(says))
    camera.run([ending.fileno(), *([sys.stdin.fileno()] if options.with_parent else [])])
    _tell(msgspec.json.encode(camera.account()))
    return 0


def _tell(line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def _parse(argv: Sequence[str] | None) -> Options:
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m edgerun.bench.camera", description="An emulated live camera.")
    parser.add_argument("--fps", type=_positive, default=default.fps, help="frames a second (default %(default)g)")
    parser.add_argument("--size", type=_size, default=default.size, help="WIDTHxHEIGHT (default 768x576)")
    parser.add_argument("--clip", type=Path, help="a video file to show over and over (default: the bundled street)")
    parser.add_argument("--host", default=default.host, help="where to listen (default %(default)s)")
    parser.add_argument("--port", type=int, default=default.port, help="0 takes a free one (default)")
    parser.add_argument("--quality", type=int, choices=range(1, 101), default=default.quality, metavar="1..100")
    parser.add_argument("--pattern", choices=PATTERNS, default=default.pattern)
    parser.add_argument("--seconds", type=_positive, help="end after so many")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    return Options(**vars(parser.parse_args(argv)))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, got {text}")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
