"""The interpreters of the peers: what edgerun has, GStreamer's beside the system's Python, MediaPipe in its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

APT = (
    *("python3-venv", "python3-gi", "gir1.2-gstreamer-1.0", "gir1.2-gst-plugins-base-1.0"),
    *("gstreamer1.0-plugins-base", "gstreamer1.0-plugins-good"),
)
MEDIAPIPE = ("mediapipe==1.2.2",)
SAME = ("numpy", "opencv-python-headless", "ai-edge-litert")
"""In every environment at the version edgerun's has."""
SYSTEM_PYTHON = "/usr/bin/python3"
_HAS_GSTREAMER = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst
Gst.init(None)
missing = [n for n in ("souphttpsrc", "multipartdemux", "jpegdec", "appsink") if not Gst.ElementFactory.find(n)]
raise SystemExit(f"no GStreamer element {missing}" if missing else 0)
"""


class Unavailable(Exception):
    """Why a peer cannot run on this machine."""


def make(name: str, cache: Path, model: Path) -> Path:
    """The Python of the environment `name`, made where it is not there yet. Raises `Unavailable`."""
    if name == "edgerun":
        return Path(sys.executable)
    if name == "gstreamer":
        return _gstreamer(cache)
    return _mediapipe(cache, model)


def mediapipe_model(cache: Path) -> Path:
    return cache / "mediapipe-detector.tflite"


def _gstreamer(cache: Path) -> Path:
    if not Path(SYSTEM_PYTHON).exists():
        raise Unavailable(f"GStreamer's Python bindings belong to {SYSTEM_PYTHON}, which is not here")
    if _run([SYSTEM_PYTHON, "-c", _HAS_GSTREAMER]):
        _apt_install(APT)
        if said := _run([SYSTEM_PYTHON, "-c", _HAS_GSTREAMER]):
            raise Unavailable(said)
    return _venv(cache / "gstreamer", SYSTEM_PYTHON, _same(), "--system-site-packages")


def _mediapipe(cache: Path, model: Path) -> Path:
    # ai-edge-litert only writes the model anew; MediaPipe brings an interpreter, and OpenCV, of its own.
    litert = [one for one in _same() if one.startswith("ai-edge")]
    python = _venv(cache / "mediapipe", sys.executable, [*MEDIAPIPE, *litert])
    target = mediapipe_model(cache)
    script = Path(__file__).with_name("mediapipe_model.py")
    if said := _run([python, script, model / "model.tflite", model / "labels.txt", target]):
        raise Unavailable(said)
    return python


def _same() -> list[str]:
    return [f"{name}=={version(name)}" for name in SAME]


def _venv(folder: Path, base: str, packages: list[str], *flags: str) -> Path:
    """A virtual environment with `packages`; what is there already is not made again."""
    python, note = folder / "bin" / "python", folder / ".made-of"
    made_of = "\n".join([base, *packages])
    if note.exists() and note.read_text() == made_of:
        return python
    print(f"setting up {folder.name} (once) …", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    commands = (
        [base, "-m", "venv", *flags, folder],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
    )
    for command in commands:
        if said := _run(command):
            raise Unavailable(said)
    note.write_text(made_of)
    return python


def _apt_install(packages: tuple[str, ...]) -> None:
    if shutil.which("apt-get") is None:
        raise Unavailable("needs " + ", ".join(packages))
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run([*sudo, "apt-get", "-qq", *command], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise Unavailable(_last_line(done.stderr) or "apt-get failed")


def _run(command: list[object]) -> str:
    """Nothing when it went well, else what it said last."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    return "" if done.returncode == 0 else _last_line(done.stderr) or f"exit code {done.returncode}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else ""
