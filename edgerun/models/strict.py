"""What JSON and file names must be before anything is made of them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from typing import Any

from edgerun.errors import ModelError


def check_json(content: bytes, where: object, what: str = "the manifest is not valid") -> None:
    """Raises `ModelError` unless `content` is UTF-8 JSON in which no object has a key twice and every number is one.

    Where a key stands twice, parsers differ in which they take (RFC 8259, 4): what one checked another would not run.
    """
    try:
        json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ModelError(what, where=where, expected="UTF-8 JSON with each key once", got=str(error)[:200]) from error


def check_collisions(names: Iterable[str], where: object) -> None:
    """Raises `ModelError` where two names are one on a file system that folds case (Unicode, canonical caseless
    matching), or where a file's name is also a folder of another.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault(_fold("/".join(parts[:depth])), name)
        folded = _fold(name)
        if folded in seen:
            raise _collide(seen[folded], name, where)
        seen[folded] = name
    for folded in folders.keys() & seen.keys():
        raise _collide(seen[folded], folders[folded], where)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _collide(one: str, other: str, where: object) -> ModelError:
    return ModelError(
        "two files of the bundle would be one on some file systems",
        where=where,
        expected="names that differ in more than case",
        got=f"{one!r} and {other!r}",
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")
