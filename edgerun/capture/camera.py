"""Cameras on this device: V4L2 nodes, and CSI cameras through a GStreamer pipeline."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgerun.capture import opencv
from edgerun.capture.file import retrieve_converted, size_of
from edgerun.capture.pace import Silence
from edgerun.capture.picture import decode_picture
from edgerun.capture.rawjpeg import RawJpegs, descriptors_of, open_raw
from edgerun.capture.waiting import wait_readable
from edgerun.errors import SourceError
from edgerun.ports import SourceContext
from edgerun.secret import guarded, mask, reveal
from edgerun.types import NOT_YET, WHOLE, Grab, Image, View

_log = logging.getLogger(__name__)

_V4L_MAJOR = 81  # Linux, Documentation/admin-guide/devices.txt: "81 char video4linux"
_BUFFERS = 2  # one is read while the camera fills the other; more only hold older frames
_LOOSE = "is its cable or power loose?"
_LONGEST_SILENCE_S = 2.0  # as opencv.py tells OpenCV
_WAIT_STEP_S = 0.2
_OLDEST_TRUSTED_NS = 1_000_000_000


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`device`: a node (`/dev/video0`, better `/dev/v4l/by-id/…`, which survives replugging), its index, or a GStreamer
    pipeline (`libcamerasrc ! video/x-raw,width=640,height=480 ! videoconvert`).

    `size` (width, height), `fps` and `fourcc` (`MJPG`, `YUYV`) are wishes: what the camera gives instead is logged.
    """

    device: Annotated[str, msgspec.Meta(min_length=1)] | Annotated[int, msgspec.Meta(ge=0)] = "/dev/video0"
    size: tuple[Annotated[int, msgspec.Meta(gt=0)], Annotated[int, msgspec.Meta(gt=0)]] | None = None
    fps: Annotated[float, msgspec.Meta(gt=0)] | None = None
    fourcc: Annotated[str, msgspec.Meta(min_length=4, max_length=4, pattern="^[ -~]*$")] | None = None
    backend: Literal["auto", "v4l2", "gstreamer"] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.device, str):
            msgspec.structs.force_setattr(self, "device", guarded(self.device))


class CameraSource:
    """Live. `grab()` takes a filled buffer from the driver, `retrieve()` converts it or decodes its JPEG.

    It holds where the camera sends JPEGs (`fourcc = "MJPG"`) and OpenCV lets us have them (see rawjpeg.py): then only
    what is wanted is decoded, at the scale that is wanted, and waits end with `wake`.

    `captured_ns` is the driver's timestamp where that can be trusted (monotonic, not in the future, under a second
    old), else the return of `grab()`. A read that gets nothing ends after 2 s (see opencv.py) in a `SourceError`; a
    node that is missing or refused may come back, so only a wrong `device` is final.
    """

    options = Options
    lossless = False

    def __init__(self, options: Options, context: SourceContext) -> None:
        self._cv2 = opencv.load()
        self._context = context
        self._last_ns = 0
        self.frame_size = (0, 0)
        self._raw: RawJpegs | None = None
        self._fd: int | None = None
        device = reveal(options.device) if isinstance(options.device, str) else str(options.device)
        self._gstreamer = uses_gstreamer(device, options.backend)
        if self._gstreamer:
            self._where = f"stream {context.stream}, GStreamer pipeline"
            self._capture = self._open_gstreamer(device)
        else:
            path = node_of(device)
            self._where = str(path)
            check_node(path)
            others = descriptors_of(path)
            self._capture = self._open_v4l2(path, options)
            self._fd = min(descriptors_of(path) - others, default=None)
            self._raw = open_raw(self._cv2, self._capture, self._where)
        self.holds = self._raw is not None and self._fd is not None
        self._silence = Silence(context.clock, round(_LONGEST_SILENCE_S * 1e9))
        report_difference(self._cv2, self._capture, options, self._where)

    def grab(self, until_ns: int | None = None) -> Grab | None:
        if self.holds and until_ns is not None:
            self._silence.watch()
            ready = self._wait(until_ns)
            self._silence.leave()
            if not ready:
                return None if self._context.stop.is_set() else NOT_YET
            self._silence.heard()
        if self._context.stop.is_set():
            return None
        if self._raw is not None:
            self._raw.forget()
        if not self._capture.grab():
            if self._context.stop.is_set():
                return None
            raise SourceError("the camera gave no frame", where=self._where, remedy=_LOOSE)
        now_ns = self._context.clock.mono_ns()
        driver_ms = 0.0 if self._gstreamer else float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC))
        self._last_ns = captured_ns(driver_ms, now_ns, self._last_ns)
        return Grab(self._last_ns)

    def retrieve(self, out: Image | None, view: View = WHOLE) -> Image:
        if self._raw is not None:
            image, self.frame_size = decode_picture(self._cv2, self._raw.data(), out, self._where, view)
            return image
        image = retrieve_converted(self._cv2, self._capture, out, self._where)
        self.frame_size = size_of(image)
        return image

    def close(self) -> None:
        self._fd = None
        self._capture.release()

    def _wait(self, until_ns: int) -> bool:
        """Wait for the driver to have a filled buffer; whether it has."""
        assert self._fd is not None
        clock, wake = self._context.clock, self._context.wake
        while not self._context.stop.is_set():
            left_s = self._silence.left_s()
            wait_s = min((until_ns - clock.mono_ns()) / 1e9, left_s, _WAIT_STEP_S)
            ready, woken = wait_readable(self._fd, max(0.0, wait_s), wake)
            if ready:
                return True
            if woken or clock.mono_ns() >= until_ns:
                return False
            if left_s <= 0:
                raise SourceError("the camera gave no frame", where=self._where, remedy=_LOOSE)
        return False

    def _open_v4l2(self, path: Path, options: Options) -> Any:
        cv2 = self._cv2
        capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                "the camera cannot be opened",
                where=path,
                remedy=f"is another program using it (fuser {path})? Some nodes carry metadata only: try the next one",
            )
        for name, value in v4l2_settings(cv2, options):
            capture.set(name, value)
        return capture

    def _open_gstreamer(self, pipeline: str) -> Any:
        cv2 = self._cv2
        if not has_gstreamer(cv2.getBuildInformation()):
            raise SourceError(
                "this OpenCV was built without GStreamer",
                where=self._where,
                got=f"OpenCV {cv2.__version__} from {Path(cv2.__file__).parent}",
                remedy="the pip wheels have none: use the board vendor's or distribution's OpenCV (python3-opencv) in "
                "a venv made with --system-site-packages, or a V4L2 node",
                final=True,
            )
        capture = cv2.VideoCapture(pipeline_of(pipeline), cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                "the GStreamer pipeline cannot be opened",
                where=self._where,
                got=mask(pipeline),
                remedy="try it with gst-launch-1.0, with fakesink at its end",
            )
        return capture


def uses_gstreamer(device: str, backend: str) -> bool:
    """`auto`: a pipeline is what has an element link (`!`) in it."""
    return backend == "gstreamer" or (backend == "auto" and "!" in device)


def pipeline_of(pipeline: str) -> str:
    """`pipeline` with OpenCV's sink at its end where it has none: the newest frame only, at once."""
    if "appsink" in pipeline:
        return pipeline
    return f"{pipeline.rstrip(' !')} ! appsink drop=true max-buffers=1 sync=false"


def node_of(device: str) -> Path:
    """The device node: `0` is /dev/video0."""
    return Path(f"/dev/video{int(device)}") if device.isdecimal() else Path(device)


def check_node(path: Path) -> None:
    """Raises a `SourceError` that says what is wrong with a V4L2 node before OpenCV says nothing at all."""
    try:
        mode = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(
            "there is no such camera",
            where=path,
            remedy="is it plugged in? ls /dev/v4l/by-id shows the cameras; a CSI camera on libcamera needs a GStreamer "
            "pipeline as its device",
        ) from error
    except OSError as error:
        raise SourceError("the camera cannot be looked at", where=path, got=error.strerror) from error
    if not stat.S_ISCHR(mode.st_mode) or os.major(mode.st_rdev) != _V4L_MAJOR:
        folder, regular = stat.S_ISDIR(mode.st_mode), stat.S_ISREG(mode.st_mode)
        raise SourceError(
            "this is not a camera",
            where=path,
            expected="a video4linux device node",
            got="a folder" if folder else "a file" if regular else "another kind of device",
            remedy='for a video use { kind = "file", path = … }, for pictures { kind = "images", path = … }'
            if folder or regular
            else "ls /dev/v4l/by-id shows the cameras",
            final=True,
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(
            "the camera may not be opened by this user",
            where=path,
            expected="read and write permission",
            got=f"mode {stat.filemode(mode.st_mode)}",
            remedy="put the user into the video group (sudo usermod -aG video USER) and log in again; for the service, "
            "SupplementaryGroups=video",
        )


def v4l2_settings(cv2: Any, options: Options) -> list[tuple[int, float]]:
    """(property, value) in the order V4L2 needs: the format decides which sizes exist, the size which rates."""
    settings: list[tuple[int, float]] = []
    if options.fourcc is not None:
        settings.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*options.fourcc)))
    if options.size is not None:
        settings.append((cv2.CAP_PROP_FRAME_WIDTH, options.size[0]))
        settings.append((cv2.CAP_PROP_FRAME_HEIGHT, options.size[1]))
    if options.fps is not None:
        settings.append((cv2.CAP_PROP_FPS, options.fps))
    settings.append((cv2.CAP_PROP_BUFFERSIZE, _BUFFERS))
    return settings


def report_difference(cv2: Any, capture: Any, options: Options, where: str) -> None:
    """Log once, as one warning, what the camera gives other than was asked for."""
    differences = []
    got = (round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    if options.size is not None and got != options.size:
        differences.append(f"size {got[0]}×{got[1]} instead of {options.size[0]}×{options.size[1]}")
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    if options.fps is not None and fps > 0 and abs(fps - options.fps) > 0.01 * options.fps:
        differences.append(f"{fps:g} fps instead of {options.fps:g}")
    fourcc = round(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
    if options.fourcc is not None and fourcc != options.fourcc.encode():
        differences.append(f"format {fourcc.decode('ascii', 'replace')} instead of {options.fourcc}")
    if differences:
        _log.warning(
            "%s: the camera gives %s (v4l2-ctl --list-formats-ext shows what it can)", where, ", ".join(differences)
        )


def captured_ns(driver_ms: float, now_ns: int, last_ns: int) -> int:
    """The driver's buffer timestamp (ms, CLOCK_MONOTONIC where it is one) if it is plausible, else `now_ns`.

    Plausible: not in the future, less than a second old, later than the previous frame's (`last_ns`).
    """
    driver_ns = round(driver_ms * 1e6)
    if last_ns < driver_ns <= now_ns and now_ns - driver_ns < _OLDEST_TRUSTED_NS:
        return driver_ns
    return now_ns


def has_gstreamer(build_information: str) -> bool:
    """Whether `cv2.getBuildInformation()` says `GStreamer: YES`."""
    lines = (line.partition(":") for line in build_information.splitlines())
    return any(name.strip() == "GStreamer" and value.strip().startswith("YES") for name, _, value in lines)
