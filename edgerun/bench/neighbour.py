"""A busy neighbour: a process that keeps one CPU core at work, as another service on the device would."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

from edgerun.errors import DeviceError

_MODULE = "edgerun.bench.neighbour"
_BLOCK_BYTES = 1 << 20
"""Hashed over and over: larger than a small core's own cache, so it costs memory bandwidth too."""


@contextlib.contextmanager
def busy_neighbour() -> Iterator[int]:
    """A busy process while the block runs; gives its pid. Raises `DeviceError` when it cannot be started.

    It ends with its parent, however that ends: its standard input is closed then.
    """
    child = subprocess.Popen([sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if child.stdout.readline() != b"busy\n":
            raise DeviceError("the busy neighbour did not start", where=_MODULE, got=f"exit code {child.wait()}")
        yield child.pid
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _work() -> None:
    block = bytes(_BLOCK_BYTES)
    while True:
        hashlib.sha256(block)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    sys.stdout.write("busy\n")
    sys.stdout.flush()
    _work()
