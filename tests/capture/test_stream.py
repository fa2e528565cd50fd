from __future__ import annotations

import socket

import pytest

from edgerun.capture.stamp import read_stamp
from edgerun.capture.stream import Options, StreamSource, ffmpeg_url
from edgerun.errors import SourceError
from tests.capture.scenes import context
from tests.emulators import start
from tests.emulators.pictures import jpegs
from tests.emulators.rtsp import Jpeg, packets, parse

_SMALL = ("--size", "160x96", "--fps", 50)


def test_rtsp_frames_come_in_order_and_are_not_the_old_ones() -> None:
    with start("rtsp", *_SMALL) as camera:
        source = StreamSource(Options(camera.url), context())
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
        source = StreamSource(Options(camera.url, read_timeout_s=0.5), context())
        with pytest.raises(SourceError, match=r"no frame within 0.5 s|the stream ended") as raised:
            _drain(source)
        assert not raised.value.final
        source.close()
        source.close()


def test_a_camera_that_never_answers(capfd: pytest.CaptureFixture[str]) -> None:
    with start("rtsp", "--never-answer") as camera:
        url = camera.url.replace("//", "//me:secret@")
        with pytest.raises(SourceError, match=r"no answer within 0.5 s") as raised:
            StreamSource(Options(url, open_timeout_s=0.5), context())
    shown = str(raised.value) + repr(Options(url)) + "".join(capfd.readouterr())
    assert "me:***@" in shown
    assert "secret" not in shown


def test_nobody_listens(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(SourceError, match="cannot be opened") as raised:
        StreamSource(Options(f"rtsp://me:secret@127.0.0.1:{port}/x"), context())
    assert not raised.value.final
    assert "secret" not in str(raised.value) + "".join(capfd.readouterr())


def test_http_video_of_any_kind() -> None:
    with start("mjpeg", *_SMALL) as camera:
        source = StreamSource(Options(camera.url), context())
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
