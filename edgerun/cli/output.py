"""Standard output and standard error of a command: what cannot be written to them is told, never a traceback.

A reader that has gone (`| head -3`) has taken what it wanted: the rest goes nowhere and the exit code stays as it is.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import msgspec

from edgerun.errors import ConfigError, EdgerunError


def set_up() -> None:
    """Make the standard streams safe to use: characters that their encoding lacks become `?`, and 0, 1 and 2 are open.

    A process may be started without them (`>&-`); then the next file or socket would get the number, and with it
    whatever a library prints. `sys.stdout` stays None where there was none.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            _lead_nowhere(fd)
    if sys.stderr is None:  # print(file=None) would write to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not the streams of a test
            stream.reconfigure(errors="replace")


def require() -> None:
    """Raise `ConfigError` where there is no standard output: for a command that was asked for JSON."""
    if sys.stdout is None:
        raise ConfigError(
            "there is no standard output to write it to", where="--json", remedy="leave --json out, or redirect >FILE"
        )


def say(text: str) -> None:
    """Lines on standard output, if there is one. Raises `EdgerunError` when they cannot be written."""
    _write(text + "\n")


def say_json(value: Any) -> None:
    """`value` as one line of JSON in UTF-8, whatever the terminal's encoding; what JSON cannot say as its `repr`."""
    _write(msgspec.json.encode(value, enc_hook=repr) + b"\n")


def tell(text: str) -> None:
    """Lines on standard error. Where they cannot be written there is nobody left to tell."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def flush() -> None:
    """Write what Python still holds back. Raises `EdgerunError` when that is impossible."""
    _write("")


def _write(what: str | bytes) -> None:
    if sys.stdout is None:
        return
    try:
        if isinstance(what, bytes):
            sys.stdout.flush()
            rest = memoryview(what)
            while rest:  # with PYTHONUNBUFFERED the buffer is the bare file, which may take a part
                rest = rest[sys.stdout.buffer.write(rest) :]
        elif what:
            sys.stdout.write(what)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout)
    except OSError as error:
        _drop(sys.stdout)
        raise EdgerunError(f"standard output cannot be written: {error.strerror or error}") from error


def _drop(stream: TextIO) -> None:
    """Let what `stream` still holds, and the interpreter's last flush with it, go nowhere."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        _lead_nowhere(stream.fileno())


def _lead_nowhere(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != fd:
        os.dup2(nowhere, fd)
        os.close(nowhere)
