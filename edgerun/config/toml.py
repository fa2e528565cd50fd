"""A TOML file → its tables, and the line each key stands on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from edgerun.errors import ConfigError, ConfigErrors
from edgerun.validate import QUOTED, join

_PART = rf"{QUOTED}|'[^']*'|[A-Za-z0-9_-]+"
_HEADER = re.compile(rf"\s*\[\[?\s*((?:{_PART})(?:\s*\.\s*(?:{_PART}))*)\s*\]")
_KEY = re.compile(rf"\s*((?:{_PART})(?:\s*\.\s*(?:{_PART}))*)\s*=")


def read_toml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's tables, and for each dotted key the line it stands on. Raises `ConfigErrors`."""
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
        return tomllib.loads(text), key_lines(text)
    except OSError as error:
        problem = ConfigError("cannot be read", where=path, expected="a TOML file", got=error.strerror or str(error))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = ConfigError("not a text file", where=f"{path}:{line}", expected="UTF-8 text")
    except RecursionError:
        problem = ConfigError("nested too deeply", where=path)
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        what, _, place = str(error).partition(" (at ")
        found = re.match(r"line (\d+), column (\d+)", place)
        if re.search(r"overwrite|twice|already|duplicate", what, re.IGNORECASE):
            what = "a key or table given twice"
        else:
            what = f"not valid TOML: {what[:1].lower()}{what[1:]}"
        problem = ConfigError(what, where=f"{path}:{found[1]}" if found else path)
    raise ConfigErrors([problem]) from None


def key_lines(text: str) -> dict[str, int]:
    """Dotted key → its line, counted from 1, as far as a look at each line's beginning tells."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        header = _HEADER.match(line)
        found = header or _KEY.match(line)
        if found is None:
            continue
        place = "" if header else table
        for part in re.findall(_PART, found[1]):
            place = join(place, _plain(part))
            lines.setdefault(place, number)
        table = place if header else table
    return lines


def _plain(part: str) -> str:
    """A key without its quotes and escapes, which only tomllib knows all of."""
    try:
        return str(next(iter(tomllib.loads(f"{part} = 0"))))
    except ValueError:  # inside a text of several lines, where it is no key
        return part
