"""What is known of a model and from where, what had to be assumed, and what has still to be given."""

from __future__ import annotations

from typing import Any

import msgspec

from edgerun.errors import ModelError


class Known(msgspec.Struct, frozen=True):
    """One fact: `origin` is where it comes from, in words."""

    key: str
    value: Any
    origin: str


class Need(msgspec.Struct, frozen=True):
    """Something the model does not tell and nobody may guess: the flag or the manifest's key that gives it.

    `optional`: it runs without, and the results are poorer for it.
    """

    what: str
    flag: str | None
    key: str | None
    error: ModelError
    optional: bool = False


class Ledger:
    """Gathers while a model is being understood."""

    def __init__(self) -> None:
        self.known: list[Known] = []
        self.assumed: list[str] = []
        self.needs: list[Need] = []

    def note(self, key: str, value: Any, origin: str) -> Any:
        """Keep a fact; returns its value."""
        self.known.append(Known(key, value, origin))
        return value

    def assume(self, key: str, value: Any, words: str) -> Any:
        """Keep something that nothing states; returns its value."""
        self.assumed.append(words)
        return self.note(key, value, "assumed")

    def need(self, what: str, flag: str | None, key: str | None, error: ModelError, *, optional: bool = False) -> None:
        """Keep something that is missing."""
        self.needs.append(Need(what, flag, key, error, optional))
