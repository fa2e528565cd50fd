"""The processes of a live benchmark: the cameras, and the child that does one job and answers with one line of JSON."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

import edgerun
from edgerun.bench.camera import CameraAccount, Options
from edgerun.decoding import decode
from edgerun.errors import DeviceError, SourceError

_CAMERA_START_S = 60.0
"""It encodes its pictures first; a small board takes its time."""
_CAMERA_END_S = 5.0
_INSTALLED = ("site-packages", "dist-packages")
"""Where Python looks by itself."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class RunningCamera:
    """A camera's process. `stop` may be called once or not at all."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.url = url
        self.pid = process.pid
        self._process = process

    def stop(self) -> CameraAccount:
        """End the camera; what became of its frames. Raises `SourceError` when it does not say."""
        self._process.send_signal(signal.SIGTERM)
        try:
            out, _ = self._process.communicate(timeout=_CAMERA_END_S)
            return decode(out, CameraAccount)
        except (subprocess.TimeoutExpired, msgspec.DecodeError) as error:
            raise SourceError("the emulated camera gave no account", where=self.url, got=f"{error}") from error


@contextmanager
def open_camera(options: Options) -> Iterator[RunningCamera]:
    """An emulated camera in a process of its own, listening; it ends with the block, or with this process.

    Raises `SourceError` with the camera's own words when it does not come up.
    """
    width, height = options.size
    told = ["--fps", repr(options.fps), "--size", f"{width}x{height}", "--host", options.host, "--pattern"]
    told += [options.pattern, "--port", str(options.port), "--quality", str(options.quality), "--with-parent"]
    told += ["--clip", str(options.clip)] if options.clip is not None else []
    told += ["--seconds", repr(options.seconds)] if options.seconds is not None else []
    process = _start("edgerun.bench.camera", told)
    try:
        yield RunningCamera(process, _read_url(process))
    finally:
        _end(process)


def run_child(module: str, job: msgspec.Struct, answer: type[T], limit_s: float) -> T:
    """Run `python -m module JOB` (as JSON) to its end and read its answer, the last line of its standard output.

    Raises `DeviceError` with the child's own words when it fails or takes more than `limit_s`. It ends with the call.
    """
    process = _start(module, [msgspec.json.encode(job).decode()])
    try:
        out, err = process.communicate(timeout=limit_s)
        lines = out.splitlines()
        if process.returncode == 0 and lines:
            return decode(lines[-1], answer)
        got = _last_words(err) or f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        got = f"no answer after {limit_s:.0f} s"
    finally:
        _end(process)
    raise DeviceError("a process of the benchmark failed", where=f"python -m {module}", got=got)


def _start(module: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """`python -m module` with the same edgerun as this process, wherever it was started."""
    environment = dict(os.environ)
    home = Path(edgerun.__file__).resolve().parent.parent
    if home.name not in _INSTALLED:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def _read_url(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _CAMERA_START_S)
    line = process.stdout.readline() if readable else b""
    if line:
        url: str = msgspec.json.decode(line)["url"]
        return url
    got = "silence"
    if readable:  # it has ended
        got = _last_words(process.communicate()[1])
    raise SourceError("the emulated camera did not come up", where="python -m edgerun.bench.camera", got=got)


def _last_words(err: bytes) -> str:
    """The last line of what a process wrote to stderr: its error. All of it goes to the log, for --debug."""
    text = err.decode(errors="replace").strip()
    _log.debug("a child's stderr:\n%s", text)
    return text.rpartition("\n")[2]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_CAMERA_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
