"""Names that Home Assistant keeps: ids out of labels, and texts inside its templates."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable


def slug(text: str) -> str:
    """`text` as part of an id: a-z, 0-9 and _. What cannot be told from it any more is told by a checksum."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return plain if re.fullmatch(r"[a-zA-Z0-9]+(?:[ _-][a-zA-Z0-9]+)*", text) else f"{plain}_{_sum(text)}".strip("_")


def slugs(texts: Iterable[str]) -> dict[str, str]:
    """Text → slug, each its own: of those that are alike, all but the first get a checksum."""
    out: dict[str, str] = {}
    taken: set[str] = set()
    for text in texts:
        made = slug(text)
        if made in taken and text not in out:
            made = f"{made}_{_sum(text)}"
        out.setdefault(text, made)
        taken.add(made)
    return out


def quoted(text: str) -> str:
    """`text` as a string of Jinja, which reads it as Python does; one line, whatever it holds."""
    out = "".join(c if c.isprintable() and c not in "\\'" else _escaped(c) for c in text)
    return f"'{out}'"


def lookup(*keys: str) -> str:
    """A Jinja expression: what lies in the payload's JSON under these keys, none where one of them is missing."""
    *groups, last = keys
    return "value_json" + "".join(f".get({quoted(key)}, {{}})" for key in groups) + f".get({quoted(last)})"


def shown(text: str, longest: int = 60) -> str:
    """`text` as a name for people: printable, not too long."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)[:longest]


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
