"""The emulated camera as a real process with real clients, and the stamping of JPEGs."""

from __future__ import annotations

import io
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.bench.camera import PATTERNS, CameraAccount, Options, Schedule, load_pictures
from edgerun.bench.processes import open_camera
from edgerun.bench.stamped import StampedJpeg, read_age_ns, read_any_scale
from edgerun.capture.stamp import draw_stamp
from edgerun.errors import SourceError

SIZE = (320, 240)


class Client:
    """Reads the multipart body as its RFC says; `receive_buffer` makes it a narrow one."""

    def __init__(self, url: str, receive_buffer: int | None = None) -> None:
        parts = urlsplit(url)
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(60)
        self.sock.connect((parts.hostname, parts.port))
        self.sock.sendall(b"GET / HTTP/1.1\r\nHost: camera\r\n\r\n")
        self._file: io.BufferedReader = self.sock.makefile("rb")
        head = self._head()
        assert head[0].startswith("HTTP/1.1 200"), head
        boundary = next(line for line in head if line.lower().startswith("content-type: multipart/x-mixed-replace"))
        self._delimiter = b"--" + boundary.partition("boundary=")[2].encode()
        assert self._file.readline().strip() == self._delimiter

    def part(self) -> bytes | None:
        """The next JPEG; None at the end of the connection. A part that is not whole fails the test."""
        head = self._head()
        if not head:
            return None
        length = int(next(line for line in head if line.startswith("Content-Length: "))[16:])
        body = self._file.read(length)
        if len(body) < length or self._file.readline() != b"\r\n":
            return None
        assert self._file.readline().strip() == self._delimiter
        return body

    def image(self) -> np.ndarray:
        body = self.part()
        assert body is not None
        return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def _head(self) -> list[str]:
        lines = []
        while (line := self._file.readline()) not in (b"\r\n", b""):
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        return lines


@contextmanager
def client(url: str, receive_buffer: int | None = None) -> Iterator[Client]:
    one = Client(url, receive_buffer)
    try:
        yield one
    finally:
        one.close()


def picture(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x * 7 + y * 3) % 256, (x * y) % 251, (y * 5) % 256], axis=-1).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(128, 700),
    height=st.integers(64, 300),
    quality=st.integers(20, 100),
    number=st.integers(0, 2**32 - 1),
    now_ns=st.integers(0, 2**63),
)
def test_a_stamped_jpeg_is_what_encoding_the_whole_stamped_picture_gives(
    width: int, height: int, quality: int, number: int, now_ns: int
) -> None:
    image = picture(width, height)
    ready = StampedJpeg(image, quality)
    ready.stamped(7, 7)  # nothing is left of an earlier stamp
    stamped = image.copy()
    draw_stamp(stamped, number, now_ns)
    parameters = ready._parameters
    assert ready.stamped(number, now_ns) == cv2.imencode(".jpg", stamped, parameters)[1].tobytes()


@pytest.mark.parametrize("flag", [cv2.IMREAD_COLOR, cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_COLOR_4])
def test_the_stamp_is_read_back_at_a_reduced_scale_too(flag: int) -> None:
    jpeg = StampedJpeg(picture(640, 480), 80).stamped(123, 456_000)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag)
    assert read_any_scale(image) == (123, 456_000)
    assert read_age_ns(image, 456_789) == 789


def test_a_picture_without_a_stamp_has_no_age() -> None:
    assert read_any_scale(picture(640, 480)) is None
    assert read_age_ns(np.zeros((4, 4, 3), np.uint8), 1) is None
    assert read_age_ns(np.zeros((480, 640), np.uint8), 1) is None


def test_a_stamp_needs_room() -> None:
    with pytest.raises(ValueError, match="128×64"):
        StampedJpeg(picture(120, 64), 80)
    with pytest.raises(SourceError, match="too small"):
        load_pictures(None, (100, 60), 80)


def test_a_file_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "not.mp4"
    path.write_bytes(b"no video" * 100)
    with pytest.raises(SourceError, match="no picture can be read"):
        load_pictures(path, SIZE, 80)


@given(fps=st.floats(0.5, 2000), pattern=st.sampled_from(PATTERNS), number=st.integers(0, 5000))
def test_due_times_rise_and_keep_the_mean_rate(fps: float, pattern: str, number: int) -> None:
    schedule = Schedule(fps, pattern)
    assert schedule.due_ns(number) <= schedule.due_ns(number + 1)
    slack_ns = {"periodic": 1, "jitter": 0.4e9 / fps + 1, "burst": 0.9e9}[pattern]
    assert abs(schedule.due_ns(number) - number * 1e9 / fps) <= slack_ns
    if pattern == "burst":  # held back, never ahead of its time
        assert schedule.due_ns(number) >= number * 1e9 / fps - 1


def test_a_burst_is_a_pause_and_then_all_at_once() -> None:
    due = [Schedule(100, "burst").due_ns(number) / 1e9 for number in range(100)]
    gaps = [b - a for a, b in itertools.pairwise(due)]
    assert min(gaps) == pytest.approx(0.002)
    assert sum(gap > 0.3 for gap in gaps) == 2
    with pytest.raises(ValueError, match="unknown pattern"):
        Schedule(100, "sometimes")


def test_frames_arrive_stamped_with_rising_numbers_and_true_times() -> None:
    asked_ns = time.monotonic_ns()
    with open_camera(Options(fps=100, size=SIZE)) as camera, client(camera.url) as one:
        seen = []
        for _ in range(30):
            image = one.image()
            stamp = read_any_scale(image)
            assert stamp is not None
            assert image.shape == (SIZE[1], SIZE[0], 3)
            assert asked_ns < stamp[1] <= time.monotonic_ns()
            seen.append(stamp)
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(seen))
        account = camera.stop()
    assert account.emitted + account.missed > seen[-1][0]
    assert account.sent >= 30
    assert account.clients[0].sent == account.sent


def test_a_client_that_stops_reading_loses_whole_frames_and_the_others_go_on() -> None:
    with (
        open_camera(Options(fps=200, size=SIZE)) as camera,
        client(camera.url, 4096) as slow,
        client(camera.url) as one,
    ):
        first = read_any_scale(slow.image())
        numbers = [stamp[0] for stamp in (read_any_scale(one.image()) for _ in range(100)) if stamp is not None]
        late = []
        while not late or late[-1][0] <= numbers[-1]:  # every part on the way there is whole, or `image` fails
            stamp = read_any_scale(slow.image())
            assert stamp is not None
            late.append(stamp)
        account = camera.stop()
    assert first is not None
    assert len(numbers) == 100
    slow_numbers = [first[0], *(number for number, _ in late)]
    assert slow_numbers == sorted(set(slow_numbers))
    lost = slow_numbers[-1] - slow_numbers[0] + 1 - len(slow_numbers)
    assert lost >= 50, "nothing is queued but what the buffers of both ends hold"
    slow_account, one_account = account.clients
    assert slow_account.dropped + account.missed >= lost
    assert slow_account.dropped > one_account.dropped
    assert account.sent == slow_account.sent + one_account.sent


def test_a_client_that_leaves_does_not_disturb() -> None:
    with open_camera(Options(fps=100, size=SIZE)) as camera, client(camera.url) as stays:
        with client(camera.url) as leaves:
            leaves.image()
        assert [read_any_scale(stays.image()) is not None for _ in range(20)] == [True] * 20
        assert len(camera.stop().clients) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_ends_on_a_signal_with_its_account(number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgerun.bench.camera", "--fps", "50", "--size", "320x240", "--pattern", "jitter"],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said["pid"] == process.pid
        assert (said["fps"], said["size"], said["pattern"]) == (50, [320, 240], "jitter")
        with client(said["url"]) as one:
            one.image()
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
        account = msgspec.json.decode(out, type=CameraAccount)
        assert process.returncode == 0
        assert account.sent >= 1
        assert account.emitted >= account.sent + account.dropped
    finally:
        process.kill()
        process.communicate()


def test_it_ends_with_its_parent_and_after_its_time() -> None:
    """Standard input that ends is a parent that died."""
    for told in (["--with-parent", "--seconds", "600"], ["--seconds", "0.2"]):
        process = subprocess.run(
            [sys.executable, "-m", "edgerun.bench.camera", "--size", "320x240", *told],
            input=b"",
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert len(process.stdout.splitlines()) == 2


def test_a_camera_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    absent = open_camera(Options(clip=tmp_path / "absent.mp4"))
    with pytest.raises(SourceError, match=r"did not come up.*no picture can be read"), absent:
        pytest.fail("a camera without a clip came up")
    with open_camera(Options(size=SIZE)) as first:
        second = open_camera(Options(size=SIZE, port=urlsplit(first.url).port or 0))
        with pytest.raises(SourceError, match=r"did not come up.*in use"), second:
            pytest.fail("two cameras listen on one port")
