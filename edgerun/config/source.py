"""A source as one writes it on a command line → its kind and options."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgerun.errors import ConfigError, did_you_mean
from edgerun.secret import mask
from edgerun.validate import show

_VIDEO = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".3gp", ".ogv", ".flv", ".wmv"),
    *(".mjpeg", ".mjpg", ".h264", ".h265"),
)
_IMAGE = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_WITH_HOST = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps")  # udp://, srt:// and others may listen themselves
_SOUND = (".wav", ".wave")
_TABLE = (".csv", ".tsv")
_ON_DISK = {
    "file": "a video file",
    "images": "a folder, a picture, or a glob that something matches",
    "wav": "a WAV file",
    "csv": "a table of samples",
}
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_SOURCES = (
    "rtsp://… or rtsps://…, http://… or https://… (MJPEG), /dev/video0 or a camera's number, a video file, "
    "an image, a folder or a glob of images, a .wav or .csv file, microphone or microphone:DEVICE, synthetic or "
    "synthetic:640x480@30"
)


def parse_source(text: str, folder: Path = Path()) -> tuple[str, dict[str, Any]]:
    """A source as text → (kind, options as they would stand in its table). Raises `ConfigError`.

    Relative paths are taken from `folder`, which is only looked at to tell a folder of images from a mistake.
    """
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in ("rtsp", "rtsps"):
        return "stream", {"url": text}
    if scheme in ("http", "https"):
        return "mjpeg", {"url": text}
    if re.fullmatch(r"[0-9]{1,3}", text):
        return "camera", {"device": f"/dev/video{int(text)}"}
    if text.startswith(("/dev/video", "/dev/v4l/")):
        return "camera", {"device": text}
    if " ! " in text:  # a GStreamer pipeline
        return "camera", {"device": text}
    if text.partition(":")[0] == "synthetic":
        return "synthetic", _parse_synthetic(text)
    if re.fullmatch(r"microphone(:.+)?", text):
        return "microphone", {"device": text.partition(":")[2]} if ":" in text else {}
    if text and not scheme and "\0" not in text:
        path = resolve_path(text, folder)  # asked through os.path, which takes a name too long for "not there"
        if path.suffix.lower() in _VIDEO and not os.path.isdir(path):
            return "file", {"path": str(path)}
        if path.suffix.lower() in _SOUND:
            return "wav", {"path": str(path)}
        if path.suffix.lower() in _TABLE:
            return "csv", {"path": str(path), **({"delimiter": "\t"} if path.suffix.lower() == ".tsv" else {})}
        if path.suffix.lower() in _IMAGE or re.search(r"[*?\[]", text) or os.path.isdir(path):
            return "images", {"path": str(path)}
    remedy = (
        did_you_mean(text, ["synthetic", "microphone"])
        if "/" not in text
        else None
        if scheme
        else "check the spelling of the path"
    )
    raise ConfigError("not a source", expected=_SOURCES, got=show(text), remedy=remedy)


def resolve_path(text: str | Path, folder: Path) -> Path:
    """`text` taken from `folder` unless it is absolute; a leading `~` is the user's home, where there is one."""
    path = Path(text)
    home = os.environ.get("HOME")
    if path.parts[:1] == ("~",) and home:
        return Path(home, *path.parts[1:])
    return folder / path


def camera_node(device: str | int) -> str:
    """The file that `device` (a node, a link to one, or a camera's number) stands for."""
    text = f"/dev/video{device}" if isinstance(device, int) or device.isdecimal() else device
    return os.path.realpath(text) if text.startswith("/") else text


def check_url(url: str, kind: str = "") -> None:
    """Raises `ConfigError` when `url` has to name a host and does not, or is nothing that this kind of source reads."""
    scheme, separator, rest = url.partition("://")
    if kind == "mjpeg" and scheme.lower() not in ("http", "https"):
        remedy = 'for rtsp:// and the like use { kind = "stream", url = … }'
        raise ConfigError("not an HTTP URL", expected="http://host/path", got=show(mask(url)), remedy=remedy)
    if kind == "stream" and not separator:
        remedy = 'for a file use { kind = "file", path = … }'
        raise ConfigError("not a URL", expected="rtsp://host/path", got=show(mask(url)), remedy=remedy)
    if not separator or scheme.lower() not in _WITH_HOST:
        return
    try:
        parts = urlsplit(url)
        what = "no host in the URL" if not parts.hostname else "no usable port in the URL" if parts.port == 0 else ""
    except ValueError:  # a broken IPv6 address, or a port that is no number
        what = "no usable host and port in the URL"
    if what:
        behind = rest.rpartition("@")[2]  # what is before may be a password, however it is written
        raise ConfigError(
            what,
            expected=f"{scheme.lower()}://host[:port]/path",
            got=show(f"{scheme}://{'***@' if '@' in rest else ''}{behind}"),
            remedy="a / ? or # in user or password is written %2F %3F %23" if "@" in rest else None,
        )


def check_path(kind: str, path: Path) -> None:
    """Raises `ConfigError` when a source of this kind reads `path` and nothing is there."""
    expected = _ON_DISK.get(kind)
    if expected is None:
        return
    try:
        folder = stat.S_ISDIR(os.stat(path).st_mode)
        if kind == "images" or not folder:
            return
        remedy = 'for a folder of pictures use { kind = "images", path = … }' if kind == "file" else None
        raise ConfigError("a folder", expected=expected, got=mask(str(path)), remedy=remedy)
    except OSError as error:
        what = "no such file" if error.errno in _NOT_THERE else f"cannot be looked at: {error.strerror}"
    if kind == "images" and glob.has_magic(str(path)):
        if any(glob.iglob(str(path), recursive=True)):
            return
        what = "no such file"
    endings = {"file": _VIDEO, "wav": _SOUND, "csv": _TABLE}.get(kind, (*_IMAGE, ""))
    near = [name for name in names_in(path.parent) if os.path.splitext(name)[1].lower() in endings]
    raise ConfigError(what, expected=expected, got=mask(str(path)), remedy=did_you_mean(path.name, near))


def names_in(folder: Path) -> list[str]:
    """What lies in `folder`, sorted; nothing where that cannot be told."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (OSError, ValueError):
        return []


def _parse_synthetic(text: str) -> dict[str, Any]:
    match = re.fullmatch(r"synthetic(?::(\d{1,5})x(\d{1,5})(?:@(\d{1,4}(?:\.\d+)?))?)?", text)
    if match is None:
        raise ConfigError("not a synthetic source", expected="synthetic:WIDTHxHEIGHT@FPS", got=show(text))
    options: dict[str, Any] = {"size": [int(match[1]), int(match[2])]} if match[1] else {}
    return {**options, "fps": float(match[3])} if match[3] else options
