"""Why `auto` left an accelerator out, kept for the next start: finding out may take a minute of compiling shaders."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgerun.infer.board import Board

_log = logging.getLogger(__name__)

_MOST_CHARACTERS = 1000


class Verdicts:
    """One file per verdict below `folder`; None keeps nothing. `key` names model, runtime and board.

    A verdict holds for the drivers that the board has: any package that is installed or updated makes it ask anew.
    """

    def __init__(self, folder: Path | None, key: Sequence[bytes], board: Board) -> None:
        self._folder = folder
        self._key = (*key, board.drivers().encode())

    def why_not(self, kind: str) -> str | None:
        """Why the accelerator was left out the last time, or None."""
        path = self._path(kind)
        try:
            kept = path.read_text(encoding="utf-8") if path is not None else ""
            return kept[:_MOST_CHARACTERS] or None
        except (OSError, UnicodeDecodeError):
            return None

    def keep(self, kind: str, reason: str) -> None:
        """Remember why. What cannot be written is found out again."""
        path = self._path(kind)
        if path is None:
            return
        try:
            write_whole(path, reason.encode())
        except OSError as error:
            _log.debug("%s: the verdict is not kept: %s", path, error)

    def _path(self, kind: str) -> Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256()
        for part in (*self._key, kind.encode()):
            digest.update(hashlib.sha256(part).digest())
        return self._folder / "proof" / f"{digest.hexdigest()[:40]}.verdict"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of the cache, its folders too: another process that reads it meanwhile finds all of it, or what was
    there before. Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.replace(file.name, path)
        except OSError:
            with suppress(OSError):
                os.unlink(file.name)
            raise
