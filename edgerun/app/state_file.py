"""Small things that are kept across restarts, each in a JSON file of the state folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from edgerun.decoding import decode

_log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)


class StateFile(Generic[T]):
    """One struct in one file. Used by one thread.

    Neither a file that cannot be read nor one that cannot be written stops anything: it is logged, `lost` saying what
    follows from the first, `unkept` what from the second.
    """

    def __init__(self, path: Path, content: type[T], *, lost: str, unkept: str) -> None:
        self._path, self._type, self._lost, self._unkept = path, content, lost, unkept
        self._written: bytes | None = None
        self._complained = False

    def read(self) -> T | None:
        """What was kept; None where nothing ever was, or nothing that can be used."""
        try:
            raw = self._path.read_bytes()
            content = decode(raw, self._type)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:  # msgspec's are ValueErrors
            _log.warning("%s cannot be used, %s: %s", self._path, self._lost, error)
            return None
        self._written = raw
        return content

    def write(self, content: T) -> None:
        """Keep it, where it is another than before: a new file takes the old one's place whole."""
        raw = msgspec.json.encode(content) + b"\n"
        if raw == self._written:
            return
        beside = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            if not self._complained:
                _log.warning("%s, %s cannot be written: %s", self._unkept, self._path, error)
            self._complained = True
            return
        self._written = raw
