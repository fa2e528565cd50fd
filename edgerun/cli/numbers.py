"""Numbers on a command line: argparse types whose complaints are in words."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers from 1, parted by commas; each once, in the order given."""
    return tuple(dict.fromkeys(count(part.strip()) for part in text.split(",")))


def positives(text: str) -> tuple[float, ...]:
    """Numbers above 0, parted by commas; each once, in the order given."""
    return tuple(dict.fromkeys(positive(part.strip()) for part in text.split(",")))


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels."""
    width, _, height = text.partition("x")
    try:
        return count(width), count(height)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT in pixels, got {text!r}") from None


def names(text: str) -> tuple[str, ...]:
    """Names parted by commas; at least one."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"expected names parted by commas, got {text!r}")
    return found
