"""A TOML file → its tables, and the line each key stands on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from edgerun.errors import ConfigError, ConfigErrors
from edgerun.validate import join


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
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?\s*([^\[\]#]+?)\s*\]", line)
        key = re.match(r"\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_\"'-]+)*)\s*=", line)
        name = (header or key)[1] if header or key else None  # type: ignore[index]
        if name is None:
            continue
        place = "" if header else table
        for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", name):
            place = join(place, part.strip("\"'"))
            lines.setdefault(place, number)
        table = place if header else table
    return lines
