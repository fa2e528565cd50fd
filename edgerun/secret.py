"""Passwords: named in the config, looked up when needed, never shown.

A secret is `{ credential = "name" }` (a file in systemd's `$CREDENTIALS_DIRECTORY`, systemd.exec(5)),
`{ env = "NAME" }`, `{ file = "path" }`, or the plain text itself. No `repr`, `str`, log line, error or encoder gives
the text away; only `reveal()` returns it.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Literal, get_args

from edgerun.errors import ConfigError

Kind = Literal["credential", "env", "file", "plain"]
KINDS: tuple[str, ...] = get_args(Kind)

_MAX_BYTES = 65536  # of a secret's file: more is some other file
_log = logging.getLogger(__name__)


class Secret:
    """Where a password is found. Immutable; equal when it is found in the same place.

    `where` names the config's key in errors. Not a struct: an encoder that meets one raises instead of writing it.
    """

    __slots__ = ("_kind", "_text", "where")

    def __init__(self, kind: Kind, text: str, where: str = "password") -> None:
        self._kind = kind
        self._text = text
        self.where = where

    @property
    def kind(self) -> Kind:
        return self._kind

    @property
    def place(self) -> dict[str, str] | None:
        """The table that names it in the config, `{"env": "NAME"}`; None for plain text."""
        return None if self._kind == "plain" else {self._kind: self._text}

    def reveal(self) -> str:
        """The password, one trailing newline stripped. Raises `ConfigError` that says where it looked."""
        if self._kind == "plain":
            return self._text
        if self._kind == "env":
            return self._from_environment()
        path = self._path()
        try:
            with path.open("rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
            if len(content) > _MAX_BYTES:
                raise self._missing(path, f"a file of more than {_MAX_BYTES} bytes")
            text = content.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except OSError as error:
            raise self._missing(path, error.strerror or type(error).__name__) from None
        except UnicodeDecodeError:
            raise self._missing(path, "bytes that are not UTF-8 text") from None
        if not text:
            raise self._missing(path, "an empty file")
        for warning in self.warnings():
            _log.warning("%s", warning)
        return text

    def warnings(self) -> list[str]:
        """What is unwise about where it is kept."""
        if self._kind == "plain":
            return [
                f"{self.where}: the password stands in the config in plain text. Keep it in a systemd credential, "
                "{ env = … } or { file = … } instead"
            ]
        if self._kind != "file":
            return []
        path = Path(self._text)
        try:
            readable = bool(path.stat().st_mode & stat.S_IROTH)
        except OSError:
            return []
        return [f"{self.where}: {path} can be read by every user. Run: chmod o-r {path}"] if readable else []

    def _from_environment(self) -> str:
        value = os.environ.get(self._text, "").removesuffix("\n")
        if not value:
            raise ConfigError(
                "no password there",
                where=self.where,
                expected=f"the environment variable {self._text}",
                got="an empty one" if self._text in os.environ else "none of that name",
                remedy="set it, or use { credential = … } or { file = … }",
            )
        return value

    def _path(self) -> Path:
        if self._kind == "file":
            return Path(self._text)
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise ConfigError(
                "no password there",
                where=self.where,
                expected=f"$CREDENTIALS_DIRECTORY/{self._text}",
                got="no $CREDENTIALS_DIRECTORY in the environment",
                remedy=f"add LoadCredential={self._text}:/etc/edgerun/{self._text} to the unit, "
                "or use { env = … } or { file = … } outside systemd",
            )
        return Path(folder) / self._text

    def _missing(self, path: Path, got: str) -> ConfigError:
        remedy = (
            f"add LoadCredential={self._text}:/etc/edgerun/{self._text} to the unit"
            if self._kind == "credential"
            else "create it, readable by the user edgerun runs as"
        )
        return ConfigError("no password there", where=self.where, expected=f"{path}", got=got, remedy=remedy)

    def __repr__(self) -> str:
        return "Secret(***)" if self._kind == "plain" else f"Secret({self._kind}={self._text!r})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return (self._kind, self._text) == (other._kind, other._text)

    def __hash__(self) -> int:
        return hash((self._kind, self._text))

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")
