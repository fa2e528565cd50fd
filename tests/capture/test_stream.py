from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgerun.capture.connection import Stopped
from edgerun.capture.file import FileSource
from edgerun.capture.file import Options as FileOptions
from edgerun.capture.reach import options_request
from edgerun.capture.stamp import read_stamp
from edgerun.capture.stream import Options, StreamSource, ffmpeg_url
from edgerun.errors import SourceError
from tests.capture.scenes import context, write_video
from tests.emulators import start
from tests.emulators.pictures import jpegs
from tests.emulators.rtsp import Jpeg, packets, parse

_SMALL = ("--size", "160x96", "--fps", 50)


def test_rtsp_frames_come_in_order_and_are_not_the_old_ones() -> None:
    with start("rtsp", *_SMALL) as camera:
        source = StreamSource(Options(camera.url, open_timeout_s=60.0, read_timeout_s=60.0), context())
        numbers = []
        for _ in range(10):
            grab = source.grab()
            stamp = read_stamp(source.retrieve(None))
            assert grab is not None
            assert stamp is not None
            assert grab.captured_ns >= stamp[1]
            numbers.append(stamp[0])
        assert numbers == list(range(numbers[0], numbers[0] + 10))
        assert numbers[0] > 2  # what was gathered while opening has been passed over
        source.close()


def _drain(source: StreamSource) -> None:
    while source.grab() is not None:
        pass


@pytest.mark.parametrize("flag", ["--silent-after", "--teardown-after"])
def test_a_camera_that_goes_away(flag: str) -> None:
    with start("rtsp", *_SMALL, flag, 80) as camera:
        source = StreamSource(Options(camera.url, open_timeout_s=60.0, read_timeout_s=0.5), context())
        with pytest.raises(SourceError, match=r"no frame within 0.5 s|the stream ended") as raised:
            _drain(source)
        assert not raised.value.final
        source.close()
        source.close()


def test_a_camera_that_never_answers(capfd: pytest.CaptureFixture[str]) -> None:
    with start("rtsp", "--never-answer") as camera:
        url = camera.url.replace("//", "//me:secret@")
        with pytest.raises(SourceError, match=r"does not answer within 0.5 s; got timed out waiting") as raised:
            StreamSource(Options(url, open_timeout_s=0.5), context())
    assert not raised.value.final
    shown = str(raised.value) + repr(Options(url)) + "".join(capfd.readouterr())
    assert "me:***@" in shown
    assert "secret" not in shown


def test_a_camera_that_never_answers_holds_no_other_stream_up_and_ends_with_stop(tmp_path: Path) -> None:
    """OpenCV has one lock for all that FFmpeg opens, which a file takes again each time it begins anew."""
    raised: list[SourceError] = []
    stop = threading.Event()
    with start("rtsp", "--never-answer") as camera, relay(camera.port) as (port, connected):

        def open_camera() -> None:
            try:
                StreamSource(Options(f"rtsp://127.0.0.1:{port}/x", open_timeout_s=600.0), context(stop=stop))
            except SourceError as error:
                raised.append(error)

        opening = threading.Thread(target=open_camera)
        opening.start()
        assert connected.wait(60)
        file = FileSource(
            FileOptions(str(write_video(tmp_path / "v.avi", 4))), context(as_fast=True, loop=True, stop=stop)
        )
        numbers = []
        for _ in range(40):
            assert file.grab() is not None
            stamp = read_stamp(file.retrieve(None))
            assert stamp is not None
            numbers.append(stamp[0])
        assert numbers == list(range(4)) * 10
        assert opening.is_alive()  # all of them while the camera was still being waited for
        stop.set()
        opening.join(60)
        file.close()
    assert isinstance(raised[0], Stopped)


@contextlib.contextmanager
def relay(port: int) -> Iterator[tuple[int, threading.Event]]:
    """(its own port, an event set as soon as something from its first client has been passed on to `port`)."""
    connected = threading.Event()
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            client = held.enter_context(listener.accept()[0])
            camera = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            camera.sendall(client.recv(4096))
            connected.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], connected
        thread.join(10)


def test_nobody_listens(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # it is nobody else's meanwhile
        port = unused.getsockname()[1]
        for scheme in ("rtsp", "rtsps", "http"):
            with pytest.raises(SourceError, match="cannot connect; got Connection refused") as raised:
                StreamSource(Options(f"{scheme}://me:secret@127.0.0.1:{port}/x"), context())
            assert not raised.value.final
            assert f"{scheme}://me:***@127.0.0.1:{port}/x" in str(raised.value)
            assert "secret" not in str(raised.value) + "".join(capfd.readouterr())


@contextlib.contextmanager
def answering(reply: bytes, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that says `reply` to whatever is said to it and hangs up: its port, and what it was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client = tls.wrap_socket(client, server_side=True) if tls else client
                with client:
                    asked.append(client.recv(4096))
                    client.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"RTSP/1.0 200 OK\r\n\r\n", "the stream cannot be opened"),  # FFmpeg's turn: any of these is an answer
        (b"RTSP/1.0 401 Unauthorized\r\n\r\n", "the stream cannot be opened"),
        (b"RTSP/1.0 405 Method Not Allowed\r\n\r\n", "the stream cannot be opened"),
        (b"RTSP/1.0 501 Not Implemented", "the stream cannot be opened"),
        (b"RTSP/1.0 404 Not Found\r\n\r\n", "the camera has no such stream; got status 404 Not Found"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"the answer is not RTSP.*got 'HTTP/1.1 400 Bad Request'"),
        (b"RTSP/1.0 maybe\r\n", "the answer is not RTSP"),
        (b"", "the answer is not RTSP.*a closed connection"),
    ],
    ids=repr,
)
def test_what_a_camera_may_answer(reply: bytes, message: str) -> None:
    with answering(reply) as (port, asked):
        with pytest.raises(SourceError, match=message) as raised:
            StreamSource(Options(f"rtsp://me:secret@127.0.0.1:{port}/a b?channel=1", open_timeout_s=60.0), context())
        assert not raised.value.final
    assert asked[0].split(b"\r\n") == [
        b"OPTIONS rtsp://127.0.0.1:%d/a%%20b?channel=1 RTSP/1.0" % port, b"CSeq: 1", b"User-Agent: edgerun", b"", b""
    ]  # fmt: skip


def test_half_an_answer_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as camera:
        url = f"rtsp://127.0.0.1:{camera.getsockname()[1]}/"
        raised: list[SourceError] = []

        def open_camera() -> None:
            try:
                StreamSource(Options(url, open_timeout_s=1.0), context())
            except SourceError as error:
                raised.append(error)

        opening = threading.Thread(target=open_camera)
        opening.start()
        client, _ = camera.accept()
        with client:
            client.sendall(b"RTSP/1.0 2")
            opening.join(20)
    assert "does not answer within 1 s" in str(raised[0])


def test_rtsps_takes_any_certificate_and_leaves_tls_it_does_not_speak_to_ffmpeg(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=elsewhere",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    not_found, plain = b"RTSP/1.0 404 Not Found\r\n\r\n", b"RTSP/1.0 400 Bad Request\r\n\r\n"
    with answering(not_found, tls) as (port, _), pytest.raises(SourceError, match="no such stream"):
        StreamSource(Options(f"rtsps://127.0.0.1:{port}/", open_timeout_s=60.0), context())
    with answering(plain) as (port, _), pytest.raises(SourceError, match="the stream cannot be opened"):
        StreamSource(Options(f"rtsps://127.0.0.1:{port}/", open_timeout_s=60.0), context())


def test_the_host_of_a_request_may_be_an_ipv6_address() -> None:
    assert options_request(urlsplit("rtsp://u:p@[::1]:8554")).startswith(b"OPTIONS rtsp://[::1]:8554 RTSP/1.0\r\n")


@pytest.mark.parametrize("url", ["rtsp://", "rtsp:///x", "rtsp://me:pa/ss@cam/", "http://[::1/"])
def test_a_url_without_a_usable_host(url: str) -> None:
    with pytest.raises(SourceError, match="not a usable URL") as raised:
        StreamSource(Options(url), context())
    assert raised.value.final
    assert "pa/ss" not in str(raised.value)


def test_http_video_of_any_kind() -> None:
    with start("mjpeg", *_SMALL) as camera:
        source = StreamSource(Options(camera.url, open_timeout_s=60.0, read_timeout_s=60.0), context())
        assert source.grab() is not None
        assert read_stamp(source.retrieve(None)) is not None
        source.close()


@pytest.mark.parametrize(
    ("url", "transport", "passed"),
    [
        ("rtsp://cam/1", "tcp", "rtsp://cam/1?tcp"),
        ("rtsps://cam/1?channel=2", "udp", "rtsps://cam/1?channel=2&udp"),
        ("http://cam/1", "tcp", "http://cam/1"),
    ],
)
def test_the_transport_rides_in_the_query(url: str, transport: str, passed: str) -> None:
    assert ffmpeg_url(url, transport) == passed


@pytest.mark.parametrize("url", ["video.mp4", "/dev/video0", "file:///etc/passwd", "gopher://cam"])
def test_not_the_url_of_a_stream(url: str) -> None:
    with pytest.raises(SourceError, match='kind = "file"') as raised:
        StreamSource(Options(url), context())
    assert raised.value.final


def test_packets_put_together_again_are_the_scan() -> None:
    """RFC 2435 §3.1: offsets are contiguous, the marker is on the last packet, the tables are in the first."""
    data = next(jpegs(parse(["--size", "320x240"])))
    jpeg = Jpeg(data)
    scan = b""
    sent = list(packets(data, 0, 0))
    for number, packet in enumerate(sent):
        body = packet[12:]
        assert int.from_bytes(body[1:4], "big") == len(scan)
        assert (body[6], body[7]) == (40, 30)
        scan += body[8 + (4 + 128 if number == 0 else 0) :]
        assert bool(packet[1] & 0x80) == (number == len(sent) - 1)
    assert scan == jpeg.scan
