from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edgerun.capture.camera import (
    CameraSource,
    Options,
    captured_ns,
    check_node,
    has_gstreamer,
    node_of,
    pipeline_of,
    report_difference,
    uses_gstreamer,
    v4l2_settings,
)
from edgerun.capture.pace import Silence
from edgerun.capture.picture import decode_picture
from edgerun.capture.rawjpeg import descriptors_of, open_raw
from edgerun.capture.waiting import wait_readable
from edgerun.clock import FakeClock
from edgerun.errors import SourceError
from edgerun.types import View
from edgerun.wake import Wake
from tests.capture.scenes import context


def _refused(device: str | int, **options: object) -> SourceError:
    with pytest.raises(SourceError) as raised:
        CameraSource(Options(device, **options), context())  # type: ignore[arg-type]
    return raised.value


def test_a_missing_node_may_come_back(tmp_path: Path) -> None:
    error = _refused(str(tmp_path / "video7"))
    assert not error.final
    assert "no such camera" in str(error)
    assert "/dev/v4l/by-id" in str(error)
    assert not _refused(63).final
    assert "/dev/video63" in str(_refused(63))


def test_what_is_no_camera_never_will_be(tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"x")
    for path, got in ((tmp_path, "got a folder"), (file, "got a file"), (Path("/dev/null"), "another kind of device")):
        error = _refused(str(path))
        assert error.final
        assert got in str(error)
    assert 'kind = "file"' in str(_refused(str(file)))


def test_no_permission_names_the_video_group(tmp_path: Path) -> None:
    """A real node of the V4L2 major that an ordinary user may not open."""
    node = tmp_path / "video0"
    try:
        os.mknod(node, 0o20600, os.makedev(81, 200))
    except PermissionError:
        pytest.skip("making a device node takes the right to (root, CAP_MKNOD)")
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    source = (
        "import os, sys, pathlib\n"
        "from edgerun.capture.camera import check_node\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: check_node(pathlib.Path(sys.argv[1]))\n"
        "except OSError as error: print(error.final, error)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", source, str(node)], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.startswith("False")
    assert "video group" in done.stdout
    assert "mode crw-------" in done.stdout
    check_node(node)  # root may


def test_a_node_without_a_driver_behind_it(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    try:
        os.mknod(node, 0o20666, os.makedev(81, 250))
    except PermissionError:
        pytest.skip("making a device node takes the right to (root, CAP_MKNOD)")
    error = _refused(str(node))
    assert not error.final
    assert "cannot be opened" in str(error)


def test_gstreamer_that_is_not_there_is_said_so() -> None:
    if has_gstreamer(cv2.getBuildInformation()):
        pytest.skip("this OpenCV was built with GStreamer")
    for device, backend in (("libcamerasrc ! videoconvert", "auto"), ("0", "gstreamer")):
        error = _refused(device, backend=backend)
        assert error.final
        assert "built without GStreamer" in str(error)
        assert "python3-opencv" in str(error)


def test_build_information_is_read_right() -> None:
    assert has_gstreamer("  Video I/O:\n    GStreamer:                   YES (1.20.3)\n")
    assert not has_gstreamer("    GStreamer:                   NO\n")
    assert not has_gstreamer("    FFMPEG:  YES\n")


def test_device_names() -> None:
    assert node_of("0") == Path("/dev/video0")
    assert node_of("/dev/v4l/by-id/usb-cam-index0") == Path("/dev/v4l/by-id/usb-cam-index0")
    assert uses_gstreamer("a ! b", "auto")
    assert not uses_gstreamer("a ! b", "v4l2")
    assert not uses_gstreamer("/dev/video0", "auto")
    assert pipeline_of("libcamerasrc !") == "libcamerasrc ! appsink drop=true max-buffers=1 sync=false"
    assert pipeline_of("x ! appsink sync=true") == "x ! appsink sync=true"


def test_settings_in_the_order_v4l2_needs() -> None:
    settings = v4l2_settings(cv2, Options(size=(640, 480), fps=15.0, fourcc="MJPG"))
    assert settings == [
        (cv2.CAP_PROP_FOURCC, 0x47504A4D),
        (cv2.CAP_PROP_FRAME_WIDTH, 640),
        (cv2.CAP_PROP_FRAME_HEIGHT, 480),
        (cv2.CAP_PROP_FPS, 15.0),
        (cv2.CAP_PROP_BUFFERSIZE, 2),
    ]
    assert v4l2_settings(cv2, Options()) == [(cv2.CAP_PROP_BUFFERSIZE, 2)]


class _Gives(dict):  # type: ignore[type-arg]
    """A capture whose properties are these."""


def test_what_the_camera_gives_instead_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    given = _Gives(
        {
            cv2.CAP_PROP_FRAME_WIDTH: 1280.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 720.0,
            cv2.CAP_PROP_FPS: 10.0,
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter_fourcc(*"YUYV")),
        }
    )
    with caplog.at_level(logging.WARNING):
        report_difference(cv2, given, Options(size=(640, 480), fps=30.0, fourcc="MJPG"), "cam")
        assert len(caplog.records) == 1
        text = caplog.text
        assert "size 1280×720 instead of 640×480, 10 fps instead of 30, format YUYV instead of MJPG" in text
        report_difference(cv2, given, Options(size=(1280, 720), fps=10.0, fourcc="YUYV"), "cam")
        report_difference(cv2, given, Options(), "cam")
        assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("driver_ms", "now_ns", "last_ns", "expected"),
    [
        (995.0, 1_000_000_000, 0, 995_000_000),
        (0.0, 1_000_000_000, 0, 1_000_000_000),  # no timestamp
        (1_001.0, 1_000_000_000, 0, 1_000_000_000),  # in the future
        (1_795_230_000_000.0, 10**12, 0, 10**12),  # wall time
        (5.0, 5_000_000_000, 0, 5_000_000_000),  # too old
        (995.0, 1_000_000_000, 996_000_000, 1_000_000_000),  # runs back
    ],
)
def test_which_driver_times_are_trusted(driver_ms: float, now_ns: int, last_ns: int, expected: int) -> None:
    assert captured_ns(driver_ms, now_ns, last_ns) == expected


@pytest.mark.parametrize(
    "bad", [{"size": [0, 480]}, {"size": [640]}, {"fps": 0}, {"fourcc": "MJPEG"}, {"backend": "dshow"}, {"gain": 3}]
)
def test_bad_options(bad: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, Options)


class _Driver:
    """What OpenCV's V4L2 capture does with a camera that sends `frames`; as strict as its worst version."""

    def __init__(self, frames: list[bytes], fourcc: str = "MJPG", can_give_raw: bool = True) -> None:
        self.frames, self.can_give_raw = frames, can_give_raw
        self.properties = {cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter_fourcc(*fourcc)), cv2.CAP_PROP_CONVERT_RGB: 1.0}
        self.buffer: bytes | None = None

    def get(self, name: int) -> float:
        return self.properties[name]

    def set(self, name: int, value: float) -> bool:
        if self.can_give_raw:
            self.properties[name] = value
        return self.can_give_raw

    def grab(self) -> bool:
        self.buffer = self.frames.pop(0) if self.frames else None
        return self.buffer is not None

    def retrieve(self) -> tuple[bool, np.ndarray]:
        assert self.buffer is not None, "retrieved twice: reads outside the buffers"
        data, self.buffer = self.buffer, None
        return True, np.frombuffer(data, np.uint8).reshape(1, -1)


_JPEG = bytes(cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1])


def test_jpegs_are_taken_raw_and_may_be_looked_at_more_than_once() -> None:
    driver = _Driver([_JPEG, _JPEG + b"\x00" * 100, _JPEG])
    raw = open_raw(cv2, driver, "cam")
    assert raw is not None
    assert driver.get(cv2.CAP_PROP_CONVERT_RGB) == 0
    assert driver.grab()
    raw.forget()
    for view, shape in ((View(), (48, 64, 3)), (View((32, 24)), (24, 32, 3)), (View((8, 6), grey=True), (6, 8))):
        image, size = decode_picture(cv2, raw.data(), None, "cam", view)
        assert image.shape == shape
        assert size == (64, 48)


@pytest.mark.parametrize(
    "driver",
    [
        _Driver([b"\x00" * 64 * 48 * 2]),
        _Driver([_JPEG[:-40]]),
        _Driver([]),
        _Driver([_JPEG], fourcc="YUYV"),
        _Driver([_JPEG], can_give_raw=False),
    ],
    ids=["no JPEG", "cut short", "no frame", "another format", "conversion stays on"],
)
def test_what_gives_no_jpegs_is_left_to_opencv(driver: _Driver) -> None:
    assert open_raw(cv2, driver, "cam") is None
    assert driver.get(cv2.CAP_PROP_CONVERT_RGB) == 1


def test_a_jpeg_without_huffman_tables_is_one_all_the_same() -> None:
    """UVC cameras leave the standard ones out (USB Video Class 1.1, Motion-JPEG payload); libjpeg-turbo knows them."""
    at, bare = 2, bytearray(_JPEG[:2])
    while _JPEG[at + 1] != 0xDA:
        length = 2 + int.from_bytes(_JPEG[at + 2 : at + 4], "big")
        bare += b"" if _JPEG[at + 1] == 0xC4 else _JPEG[at : at + length]
        at += length
    bare += _JPEG[at:]
    assert len(bare) < len(_JPEG) - 400
    assert np.array_equal(decode_picture(cv2, bytes(bare), None, "")[0], decode_picture(cv2, _JPEG, None, "")[0])


def test_the_descriptor_that_was_opened_on_a_node_is_found() -> None:
    node = Path("/dev/null")
    before = descriptors_of(node)
    with node.open("rb") as opened:
        assert descriptors_of(node) - before == {opened.fileno()}
    assert descriptors_of(Path("/dev/no-such-node")) == set()


def test_waiting_tells_data_from_wake() -> None:
    wake = Wake()
    reader, writer = os.pipe()
    try:
        assert wait_readable(reader, 0.0, wake) == (False, False)
        wake.set()
        assert wait_readable(reader, 60.0, wake) == (False, True)
        os.write(writer, b"x")
        assert wait_readable(reader, 60.0, wake) == (True, True)
        assert wait_readable(reader, 60.0, None) == (True, False)
    finally:
        os.close(reader)
        os.close(writer)
        wake.close()


def test_silence_counts_only_while_somebody_waits() -> None:
    clock = FakeClock()
    silence = Silence(clock, 2_000_000_000)
    for _ in range(3):
        clock.advance(10.0)  # away
        silence.watch()
        clock.advance(0.5)
        silence.leave()
    silence.watch()
    assert silence.left_s() == pytest.approx(0.5)
    silence.heard()
    assert silence.left_s() == pytest.approx(2.0)
