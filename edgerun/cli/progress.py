"""What is being done just now, for a person who looks on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CLEAR_LINE = "\r\x1b[K"  # ECMA-48: carriage return, erase in line


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that shows a text in one line of standard error, cleared at the end; nothing unless a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return

    def show(text: str) -> None:
        sys.stderr.write(f"{_CLEAR_LINE}{text[:100]} …")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write(_CLEAR_LINE)
        sys.stderr.flush()
