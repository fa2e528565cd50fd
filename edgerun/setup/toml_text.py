"""Values as TOML writes them (TOML 1.0): what `tomllib` reads back as the same."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def value(one: Any) -> str:
    """`one` (text, number, truth, list or table of such) on one line."""
    if isinstance(one, bool):
        return "true" if one else "false"
    if isinstance(one, float) and not math.isfinite(one):
        return "nan" if math.isnan(one) else "inf" if one > 0 else "-inf"
    if isinstance(one, int | float):
        return repr(one)
    if isinstance(one, Mapping):
        return "{ " + ", ".join(f"{key(name)} = {value(each)}" for name, each in one.items()) + " }" if one else "{}"
    if isinstance(one, Sequence) and not isinstance(one, str):
        return "[" + ", ".join(value(each) for each in one) + "]"
    return json.dumps(str(one), ensure_ascii=False).replace("\x7f", "\\u007f")


def key(name: str) -> str:
    """`name` as a key: bare where it may be."""
    return name if _BARE.fullmatch(name) else value(name)


def table(path: Sequence[str], values: Mapping[str, Any]) -> str:
    """The lines of one table; what is None is left out."""
    head = ".".join(key(part) for part in path)
    lines = [f"[{head}]", *(f"{key(name)} = {value(one)}" for name, one in values.items() if one is not None)]
    return "\n".join(lines)
