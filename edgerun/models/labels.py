"""Label files: one name a line, or numbered lines."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from edgerun.errors import ConfigError, ModelError

UNNAMED = "???"
"""The name of a class that the file passes over, as in TensorFlow's own label maps."""

MAX_BYTES = 16 << 20
_MAX_CLASSES = 1 << 20
_LONGEST = 200
_NUMBERED = re.compile(r"(\d{1,7})(?:\s*[:,]\s*|\s+)(\S.*)")


def parse_labels(content: bytes, where: object) -> tuple[str, ...]:
    """The names in `content`, class 0 first.

    Plain: line i names class i. Numbered ("0 background", "0: background", "0, background"), when every line is and the
    numbers rise from 0 or 1: the number says the class, and classes passed over are called "???". UTF-8, with or
    without a byte order mark; empty lines at the end do not count. Raises `ModelError`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ModelError(
            "the labels are not text", where=f"{where}:{line}", expected="UTF-8, one label a line"
        ) from error
    if re.match(r"\s*item\s*\{", text):
        raise ModelError(
            "the labels are a TensorFlow label map", where=where, expected="one label a line", got="item { … } records"
        )
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not any(lines):
        raise ModelError("no labels", where=where, expected="one label a line", got=f"{len(content)} bytes without one")
    numbered = [_NUMBERED.fullmatch(line) for line in lines if line]
    if all(numbered):
        numbers = [int(match[1]) for match in numbered if match]
        if numbers[0] <= 1 and all(a < b for a, b in itertools.pairwise(numbers)):
            return check_labels(_numbered({int(match[1]): match[2] for match in numbered if match}, where), where)
    return check_labels(tuple(line or UNNAMED for line in lines), where)


def check_labels(names: Sequence[str], where: object) -> tuple[str, ...]:
    """`names` when they can be printed, published and looked up. Two classes may share a name: ImageNet has two cranes.

    Raises `ModelError` for control characters, names longer than 200 characters and more than 2^20 of them.
    """
    if len(names) > _MAX_CLASSES:
        raise ModelError("too many labels", where=where, expected=f"≤ {_MAX_CLASSES}", got=len(names))
    for at, name in enumerate(names):
        if len(name) > _LONGEST or any(unicodedata.category(one) in ("Cc", "Cs") and one != "\t" for one in name):
            raise ModelError(
                f"the name of class {at} cannot be used",
                where=where,
                expected=f"text of at most {_LONGEST} characters without control characters",
                got=repr(name[:60]) + (f" … {len(name)} characters" if len(name) > _LONGEST else ""),
            )
    return tuple(names)


def read_labels(path: Path) -> tuple[str, ...]:
    """The names in the file at `path` (what `--labels` names). Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError("too large for labels", where=path, expected=f"≤ {MAX_BYTES} bytes")
        return parse_labels(content, path)
    except OSError as error:
        raise ConfigError(
            "the labels cannot be read",
            where=path,
            expected="a text file with one label a line",
            got=error.strerror or str(error),
        ) from error
    except ModelError as error:
        raise ConfigError(error.what, where=error.where, expected=error.expected, got=error.got) from error


def _numbered(names: dict[int, str], where: object) -> tuple[str, ...]:
    last = max(names)
    if last >= _MAX_CLASSES:
        raise ModelError("a class number is too large", where=where, expected=f"< {_MAX_CLASSES}", got=last)
    return tuple(names.get(number, UNNAMED) for number in range(last + 1))
