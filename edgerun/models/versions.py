"""Names and versions of models in the store: what they may look like, and which version is the newer one."""

from __future__ import annotations

import re

from edgerun.errors import ModelError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_BEFORE = {"dev": 0, "a": 1, "alpha": 1, "b": 2, "beta": 2, "c": 3, "rc": 3, "pre": 3, "preview": 3}
_AFTER = {"post": 5, "rev": 5, "r": 5, "p": 5}
_OTHER, _END, _NUMBER = 1, 4, 6

Key = tuple[tuple[int, int, str], ...]


def check_name(name: str, where: object) -> str:
    """`name` when a model in the store may be called so. Raises `ModelError`."""
    if NAME.fullmatch(name) is None:
        raise ModelError(
            "a model of this name cannot be kept in the store",
            where=where,
            expected="1 to 63 of the characters a-z 0-9 _ -, the first no - or _",
            got=repr(name[:80]),
            remedy="make the bundle with such a name (edgerun convert --name)",
        )
    return name


def check_version(version: str, where: object) -> str:
    """`version` when it can be a folder's name and be compared. Raises `ModelError`."""
    taken = version.lower().startswith("state.json")
    if _VERSION.fullmatch(version) is None or ".." in version or version.endswith(".") or taken:
        raise ModelError(
            "not a usable version",
            where=where,
            expected="such as 2, 1.4.0, 1.5.0rc1 or 2026.11.21",
            got=repr(version[:80]),
        )
    return version


def order(version: str) -> Key:
    """What versions are sorted by: numbers as numbers, `1.0` equal to `1.0.0`, `dev` < `a` < `b` < `rc` < the release
    < `post` (PEP 440), other words behind a hyphen before the release (Semantic Versioning 2.0.0, 11); what follows a
    `+` does not count.
    """
    text = version.partition("+")[0].lower()
    text = text[1:] if re.match(r"v\d", text) else text
    release, rest = re.fullmatch(r"((?:\d+(?:\.\d+)*)?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    numbers = [int(part) for part in release.split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    parts = [(_NUMBER, number, "") for number in numbers]
    for word, number in re.findall(r"([a-z]+)|(\d+)", rest):
        if number:
            parts.append((_NUMBER, int(number), ""))
        else:
            parts.append(
                (_BEFORE.get(word, _AFTER.get(word, _OTHER)), 0, "" if word in {**_BEFORE, **_AFTER} else word)
            )
    return (*parts, (_END, 0, ""))
