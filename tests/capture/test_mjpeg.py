from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgerun.capture.auth import authorization
from edgerun.capture.connection import _CONTROL_BYTES, _TIMESTAMPS
from edgerun.capture.mjpeg import MjpegSource, Options
from edgerun.capture.stamp import read_stamp
from edgerun.clock import Clock
from edgerun.errors import FrameError, SourceError
from edgerun.types import NOT_YET
from tests.capture.scenes import context, write_video
from tests.emulators import start

_SMALL = ("--size", "160x96", "--fps", 100)


def _open(url: str, stop: threading.Event | None = None, **options: object) -> MjpegSource:
    how = {"connect_timeout_s": 60.0, "read_timeout_s": 60.0, **options}
    return MjpegSource(Options(url, **how), context(stop=stop))  # type: ignore[arg-type]


def _numbers(source: MjpegSource, count: int) -> list[int]:
    numbers = []
    for _ in range(count):
        assert source.grab() is not None
        stamp = read_stamp(source.retrieve(None))
        assert stamp is not None
        numbers.append(stamp[0])
    return numbers


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--no-content-length",),
        ("--chunked",),
        ("--chunked", "--no-content-length"),
        ("--boundary", 'boundary="edgerun-frame"'),
        ("--boundary", "boundary=--edgerun-frame"),
        ("--redirect",),
        ("--burst",),
        ("--pile", 100),
        ("--pile", 100, "--no-content-length"),
    ],
    ids=str,
)
def test_every_frame_comes_once_and_in_order(flags: tuple[object, ...]) -> None:
    with start("mjpeg", *_SMALL, *flags) as camera:
        source = _open(camera.url)
        assert _numbers(source, 30) == list(range(30))
        source.close()


def test_capture_time_is_arrival(tmp_path: Path) -> None:
    with start("mjpeg", *_SMALL) as camera:
        source = _open(camera.url)
        for _ in range(10):
            grab = source.grab()
            stamp = read_stamp(source.retrieve(None))
            assert grab is not None
            assert stamp is not None
            assert grab.captured_ns >= stamp[1]
        source.close()


def test_frames_that_are_not_retrieved_are_not_decoded() -> None:
    with start("mjpeg", *_SMALL, "--corrupt-at", 2, "--empty-at", 3) as camera:
        source = _open(camera.url)
        assert sum(source.grab() is not None for _ in range(5)) == 5  # the bad ones too, without a word
        assert read_stamp(source.retrieve(None)) is not None
        source.close()


def test_bad_frames_are_failed_frames_and_the_stream_goes_on() -> None:
    with start("mjpeg", *_SMALL, "--corrupt-at", 2, "--empty-at", 4) as camera:
        source = _open(camera.url)
        outcomes = []
        for _ in range(6):
            source.grab()
            try:
                source.retrieve(None)
                outcomes.append("")
            except FrameError as error:
                outcomes.append(error.reason)
        assert outcomes == ["", "", "decode", "", "empty", ""]
        source.close()


def test_the_resolution_may_change_in_mid_stream() -> None:
    with start("mjpeg", "--size", "320x192", "--fps", 100, "--resize-at", 3) as camera:
        source = _open(camera.url)
        shapes = []
        for _ in range(5):
            source.grab()
            shapes.append(source.retrieve(None).shape[:2])
        assert shapes == [(192, 320)] * 3 + [(96, 160)] * 2
        source.close()


def test_a_video_as_camera(tmp_path: Path) -> None:
    with start("mjpeg", "--video", write_video(tmp_path / "v.avi", 4), "--fps", 100) as camera:
        source = _open(camera.url)
        assert _numbers(source, 10) == list(range(10))
        source.close()


@pytest.mark.parametrize(
    ("flags", "message", "final"),
    [
        (("--status", 404), "refused the request.*got status 404", False),
        (("--status", 503), "got status 503", False),
        (("--status", 401), "refused the user or password.*401", False),
        (("--user", "me:secret"), "refused the user or password.*401", False),
        (("--content-type", "image/jpeg"), "gives a single picture", True),
        (("--content-type", "video/mp4"), 'kind = "stream", url = "http://127', True),
        (("--content-type", "text/html"), 'kind = "stream"', False),
        (("--boundary", "x=y"), "names no boundary", False),
        (("--never-answer",), "timed out waiting for data", False),
    ],
    ids=str,
)
def test_refused_at_the_door(flags: tuple[object, ...], message: str, final: bool) -> None:
    with start("mjpeg", *_SMALL, *flags) as camera:
        with pytest.raises(SourceError, match=message) as raised:
            _open(camera.url, read_timeout_s=0.3 if flags == ("--never-answer",) else 20.0)
        assert raised.value.final is final
        assert str(camera.port) in str(raised.value)


def _drain(source: MjpegSource) -> None:
    while source.grab() is not None:
        source.retrieve(None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--silent-after", 2), "timed out waiting for data"),
        (("--half-frame-at", 2), "ended the stream"),
        (("--frames", 3), "ended the stream"),
        (("--frames", 3, "--chunked"), "ended the stream"),
        (("--garbage",), "no boundary at the start"),
    ],
    ids=str,
)
def test_lost_in_mid_stream(flags: tuple[object, ...], message: str) -> None:
    with start("mjpeg", *_SMALL, *flags) as camera:
        source = _open(camera.url, read_timeout_s=1.0 if "--silent-after" in flags else 60.0)
        with pytest.raises(SourceError, match=message) as raised:
            _drain(source)
        assert not raised.value.final
        assert str(raised.value).startswith(camera.url)
        source.close()


def test_every_frame_before_the_end_is_delivered() -> None:
    with start("mjpeg", *_SMALL, "--frames", 7) as camera:
        source = _open(camera.url)
        assert _numbers(source, 7) == list(range(7))
        source.close()


@pytest.mark.parametrize("flags", [("--silent-after", 0), ("--never-answer",)], ids=str)
def test_stop_ends_a_wait_for_a_silent_camera(flags: tuple[object, ...]) -> None:
    with start("mjpeg", *_SMALL, *flags) as camera:
        stop, entered = threading.Event(), threading.Event()
        outcome: list[object] = []

        def body() -> None:
            entered.set()
            try:
                source = _open(camera.url, stop, read_timeout_s=3600.0)
                outcome.append(source.grab())
                source.close()
            except SourceError as error:
                outcome.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        assert entered.wait(30)
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
        assert outcome
        assert outcome[0] is None or "stopped" in str(outcome[0])


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # it is nobody else's meanwhile
        with pytest.raises(SourceError, match=r"cannot connect; got Connection refused"):
            _open(f"http://127.0.0.1:{unused.getsockname()[1]}/")


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(SourceError, match=r"cannot be found|timed out looking up") as raised:
        _open("http://me:secret@no-such-host.invalid/", connect_timeout_s=1.0)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["ftp://cam/", "http://", "http://cam:port/", "cam", "http://[::1/"])
def test_not_a_url(url: str) -> None:
    with pytest.raises(SourceError, match=r"not an HTTP URL|not a URL") as raised:
        _open(url)
    assert raised.value.final


@pytest.mark.parametrize("way", [(), ("--digest",)], ids=["basic", "digest"])
def test_user_and_password_from_the_url(way: tuple[str, ...]) -> None:
    with start("mjpeg", *_SMALL, "--user", "me:p@ss", *way) as camera:
        source = _open(camera.url.replace("//", "//me:p%40ss@"))
        assert _numbers(source, 3) == [0, 1, 2]
        source.close()
        with pytest.raises(SourceError, match="401") as raised:
            _open(camera.url.replace("//", "//me:wrong-one@"))
        assert "wrong-one" not in str(raised.value)


def test_digest_as_in_rfc_7616() -> None:
    challenge = (
        'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    for algorithm, response in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        sent = authorization(("Mufasa", "Circle of Life"), challenge.format(algorithm), "/dir/index.html", cnonce)
        assert f'response="{response}"' in sent


def test_options_do_not_show_the_password() -> None:
    assert "secret" not in repr(Options("http://me:secret@cam/"))


def _certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("the openssl program is not installed")
    return cert, key


def test_tls(tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    with start("mjpeg", *_SMALL, "--tls", cert, key) as camera:
        with pytest.raises(SourceError, match="certificate is not trusted"):
            _open(camera.url)
        for options in ({"tls_verify": False}, {"tls_ca": str(cert)}):
            source = _open(camera.url, **options)
            assert _numbers(source, 5) == list(range(5))
            source.close()
        with pytest.raises(SourceError, match="authority's certificate cannot be read") as raised:
            _open(camera.url, tls_ca=str(tmp_path / "none.pem"))
        assert raised.value.final


def test_what_piles_up_for_a_slow_reader_is_bounded() -> None:
    """A reader that does not read meets flow control after a few frames, not seconds of old pictures."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        opened: list[MjpegSource] = []
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread = threading.Thread(target=lambda: opened.append(_open(url)))
        thread.start()
        camera, _ = listener.accept()
        with camera:
            camera.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            camera.recv(4096)
            camera.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n--f\r\n")
            thread.join(20)
            camera.setblocking(False)
            sent = 0
            while sent < 2**20 and select.select([], [camera], [], 0.5)[1]:
                sent += camera.send(b"x" * 4096)
            assert 0 < sent < 2**19
        opened[0].close()


@pytest.mark.parametrize("lie", [-40, 40, 5000])
def test_a_camera_that_lies_about_content_length_costs_frames_but_not_the_stream(lie: int) -> None:
    with start("mjpeg", *_SMALL, "--lie", lie) as camera:
        source = _open(camera.url)
        good, last = 0, -1
        for _ in range(30):
            assert source.grab() is not None
            try:
                stamp = read_stamp(source.retrieve(None))
            except FrameError:
                continue
            if stamp is not None:
                assert stamp[0] > last
                good, last = good + 1, stamp[0]
        assert good >= 10
        source.close()


@pytest.fixture
def dating_kernel() -> Iterator[None]:
    """The kernel begins to date packets some time after the first socket asks for it, and ends with the last that did:
    one that has been given a date is kept meanwhile.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        reader = stack.enter_context(socket.socket())
        reader.setsockopt(socket.SOL_SOCKET, _TIMESTAMPS, 1)
        reader.settimeout(30)
        reader.connect(listener.getsockname())
        writer = stack.enter_context(listener.accept()[0])
        pause, deadline = threading.Event(), time.monotonic() + 60
        dates: list[object] = []
        while not dates:
            assert time.monotonic() < deadline, "this kernel does not date what comes by TCP"
            writer.sendall(b"x")
            dates = reader.recvmsg(1, _CONTROL_BYTES)[1]
            pause.wait(0.005)
        yield


def test_a_frame_that_was_read_late_is_dated_when_it_came(dating_kernel: None) -> None:
    """The reader was kept from its core: what it then finds is as old as it is."""
    jpeg = bytes(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1])
    part = b"Content-Length: %d\r\n\r\n%s\r\n--f\r\n" % (len(jpeg), jpeg)
    clock = context().clock
    with socket.create_server(("127.0.0.1", 0)) as listener:
        opened: list[MjpegSource] = []
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread = threading.Thread(target=lambda: opened.append(_open(url)))
        thread.start()
        camera, _ = listener.accept()
        with camera:
            camera.recv(4096)
            camera.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=f\r\n\r\n--f\r\n")
            camera.sendall(part)
            thread.join(20)
            source = opened[0]
            assert source.grab() is not None
            assert source.grab(clock.mono_ns()) is NOT_YET
            before_ns = clock.mono_ns()
            camera.sendall(part)
            after_ns = clock.mono_ns()
            threading.Event().wait(0.15)
            grab = source.grab()
            assert grab is not None
            assert before_ns <= grab.captured_ns <= after_ns + 20_000_000
            source.close()


def test_tls_frames_that_were_decrypted_already_are_not_waited_for(tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    with start("mjpeg", "--size", "160x96", "--pile", 20, "--tls", cert, key) as camera:
        source = _open(camera.url, tls_verify=False)
        assert _numbers(source, 40) == list(range(40))
        source.close()


def test_a_silent_camera_is_noticed_in_small_steps_too() -> None:
    with start("mjpeg", *_SMALL, "--silent-after", 2) as camera:
        source, clock = _open(camera.url, read_timeout_s=0.4), context().clock
        with pytest.raises(SourceError, match="timed out waiting for data"):
            _grab_in_steps(source, clock, 10_000)
        source.close()


def _grab_in_steps(source: MjpegSource, clock: Clock, most: int) -> None:
    for _ in range(most):
        source.grab(clock.mono_ns() + 5_000_000)
