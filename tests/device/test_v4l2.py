"""Asking a V4L2 node: against a driver's answers made with the kernel's own structures (v4l2_camera.c, preloaded)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgerun.device import v4l2
from edgerun.device.v4l2 import Video, VideoFormat, VideoSize
from edgerun.errors import DeviceError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None or not Path("/usr/include/linux/videodev2.h").exists():
        pytest.skip("the test camera needs gcc and the kernel's headers")
    built = tmp_path_factory.mktemp("camera") / "camera.so"
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", str(HERE / "v4l2_camera.c"), "-o", str(built), "-ldl"]
    subprocess.run(command, check=True)
    return built


def asked(library: Path, mode: str, tmp_path: Path) -> Video:
    """What `ask` makes of the test camera, in a process that has it preloaded."""
    node = tmp_path / "video0"
    node.touch()
    code = (
        "import sys, msgspec; from pathlib import Path; from edgerun.device import v4l2; "
        "sys.stdout.buffer.write(msgspec.json.encode(v4l2.ask(Path(sys.argv[1]))))"
    )
    environ = {**os.environ, "LD_PRELOAD": str(library), "V4L2_CAMERA": str(node), "MODE": mode}
    words = [sys.executable, "-c", code, str(node)]
    done = subprocess.run(words, capture_output=True, env=environ, timeout=60, check=True)
    return msgspec.json.decode(done.stdout, type=Video)


def test_a_webcam(library: Path, tmp_path: Path) -> None:
    assert asked(library, "uvc", tmp_path) == Video(
        driver="uvcvideo",
        card="Cámara 1",
        bus="usb-0000:00:14.0-1",
        kind="capture",
        formats=(
            VideoFormat("YUYV", "YUYV 4:2:2", False, (VideoSize(640, 480, 60.0),)),
            VideoFormat("MJPG", "Motion-JPEG", True, (VideoSize(640, 480, 60.0), VideoSize(1920, 1080, 30.0))),
        ),
    )


def test_a_range_of_sizes(library: Path, tmp_path: Path) -> None:
    video = asked(library, "range", tmp_path)
    assert video.formats[0] == VideoFormat("pRAA", "YUYV 4:2:2", False, (VideoSize(32, 16, 0.0, (4056, 3040)),))
    assert v4l2.is_raw(video.formats[0].fourcc)


@pytest.mark.parametrize(("mode", "kind"), [("m2m", "memory-to-memory"), ("metadata", "metadata")])
def test_a_codec_and_a_cameras_second_node_are_no_cameras(library: Path, tmp_path: Path, mode: str, kind: str) -> None:
    video = asked(library, mode, tmp_path)
    assert (video.kind, video.formats) == (kind, ())


def test_a_list_without_end_is_cut_off(library: Path, tmp_path: Path) -> None:
    assert len(asked(library, "endless", tmp_path).formats) == 64


def test_what_is_no_v4l2_node_is_told(tmp_path: Path) -> None:
    file = tmp_path / "video0"
    with pytest.raises(DeviceError, match=r"cannot be opened.*No such file"):
        v4l2.ask(file)
    file.touch()
    with pytest.raises(DeviceError, match="is not a V4L2 device"):
        v4l2.ask(file)


@pytest.mark.parametrize("fourcc", ["RG10", "pBAA", "BA81", "GRBG", "RG16", "PC1R", "pgAA"])
def test_bare_sensor_data(fourcc: str) -> None:
    assert v4l2.is_raw(fourcc)


@pytest.mark.parametrize("fourcc", ["YUYV", "MJPG", "GREY", "RGB3", "BGR3", "BGR4", "NV12", "H264", "Y16", "RGBP"])
def test_pictures(fourcc: str) -> None:
    assert not v4l2.is_raw(fourcc)
