"""Cameras as real processes: `python -m tests.emulators.mjpeg --port 0`.

Each prints one JSON line with its `url` once it listens, and ends on SIGTERM.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 30.0


class Emulator(NamedTuple):
    url: str
    pid: int
    port: int


@contextmanager
def start(name: str, *args: object) -> Iterator[Emulator]:
    """Run `tests.emulators.<name>` with `args`; ends it by its own pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.emulators.{name}", *map(str, args)],
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], _START_S)
        line = process.stdout.readline() if readable else b""
        if not line:
            raise RuntimeError(f"the {name} emulator did not start; exit code {process.poll()}")
        said = json.loads(line)
        yield Emulator(said["url"], process.pid, said["port"])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
