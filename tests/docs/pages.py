"""The commands and files of the documents, as a reader would type them.

A ```sh block is run line by line in one folder for each page; a ```toml block that begins with `# NAME.toml` is a file
in it. What stands for something of the reader's (a broker, a camera, a model of his) is replaced by what is here; a
command that does not end by itself is ended. `<!-- not run: why -->` above a block: its commands are only parsed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
PAGES = tuple(
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.relative_to(ROOT).parts[1:2] not in (("benchmarks",), ("schema",))
    and path.name not in ("cli.md", "config.md", "architecture.md")
)

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: ([^>]+?) -->\s*\Z")


class Command(NamedTuple):
    """One command: its words, the words that feed it (before a `|`), and why it is not run, if it is not."""

    page: str
    line: str
    words: tuple[str, ...]
    why_not: str | None


class File(NamedTuple):
    """A file that the page shows."""

    name: str
    text: str


def steps(page: Path) -> Iterator[Command | File]:
    """What a reader does, in the page's order."""
    text = page.read_text(encoding="utf-8")
    for block in _FENCE.finditer(text):
        kind, body = block[1], block[2]
        named = re.match(r"# ([\w-]+\.(?:toml|yml))\b", body)
        if kind in ("toml", "yaml") and named:
            yield File(named[1], body)
        if kind == "sh":
            why = _NOT_RUN.search(text[: block.start()])
            for line in body.replace("\\\n", " ").splitlines():
                yield from _command(page, line, why[1] if why else None)


def _command(page: Path, line: str, why: str | None) -> Iterator[Command]:
    lexer = shlex.shlex(re.sub(r"\$\([^)]*\)", "x", line), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = tuple(lexer)
    if words:
        yield Command(str(page.relative_to(ROOT)), line.strip(), words, why)
