"""Passwords: named in the config, looked up when needed, never shown.

A secret is `{ credential = "name" }` (a file in systemd's `$CREDENTIALS_DIRECTORY`, systemd.exec(5)),
`{ env = "NAME" }`, `{ file = "path" }`, or the plain text itself. No `repr`, `str`, log line, error or encoder gives
the text away; only `reveal()` returns it.

A camera's address, a pipeline or a command may have a password inside: that is a `MaskedText` or a `HiddenText`, text
to whoever uses it and masked wherever it is shown. `mask` is for text that comes from elsewhere.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, NoReturn, Self, get_args

from edgerun.errors import ConfigError

Kind = Literal["credential", "env", "file", "plain"]
KINDS: tuple[str, ...] = get_args(Kind)

_MAX_BYTES = 65536  # of a secret's file: more is some other file
_log = logging.getLogger(__name__)

# RFC 3986 §3.2: the authority runs from "//" to the next "/", "?" or "#", the user information in it to its "@". But
# operators paste passwords unescaped, with any of these and blanks in them, so everything up to the last "@" that has
# a plausible host behind it is looked at. In doubt too much is masked. One "/" is left where a path was made of it.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*:/{1,2})((?:(?![A-Za-z][A-Za-z0-9+.\-]*:/{1,2})[^\r\n])*)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._\-]+)(:[0-9]*)?(?=[/?#\s'\",;)]|$)")
_NAMES = (
    r"(?:[A-Za-z0-9]+[-_.])*(?:password|passwd|passwort|passphrase|passcode|pass|psw|pwd|pw|token|secret|api-?key|key"
    r"|auth|authorization|credentials?|cookies?|signature|sig|session(?:[-_]?id)?)"
)
_QUOTED = r"(?:\\?\"(?:[^\"\\]|\\.)*\"?|\\?'(?:[^'\\]|\\.)*'?)"
_IN_QUERY = re.compile(rf"([?&;]{_NAMES}=)[^&#\s'\"]+", re.IGNORECASE)
_NAMED = re.compile(rf"((?<![A-Za-z0-9_.\-?&;]){_NAMES}\s*=\s*)({_QUOTED}|[^\s,;'\"]+)", re.IGNORECASE)
_FLAGGED = re.compile(
    rf"((?<!\S)(?:--?(?:{_NAMES}|user|login|header)|-[uHP])(?:\s*=\s*|\s+))({_QUOTED}|\S+)", re.IGNORECASE
)
_HEADER = re.compile(r"(\b(?:proxy-)?(?:authorization|cookie|x-[a-z-]*(?:key|token))\s*[:=])[^\r\n]+", re.IGNORECASE)
_MASK = "***"


def mask(text: str) -> str:
    """`text` with what may be a password replaced: `rtsp://user:secret@cam/1` → `rtsp://user:***@cam/1`.

    In any text, a library's error message too: passwords in addresses (a user name alone may be a token and is masked
    too), values of names such as `password`, `user-pw` or `token` in queries, pipelines and arguments, and headers
    that log in. Everything else is left as it is; masked text stays as it is.
    """
    text = _URL.sub(_mask_user, text)
    text = _IN_QUERY.sub(rf"\1{_MASK}", text)
    text = _HEADER.sub(rf"\1{_MASK}", text)
    text = _FLAGGED.sub(rf"\1{_MASK}", text)
    return _NAMED.sub(rf"\1{_MASK}", text)


def _mask_user(match: re.Match[str]) -> str:
    scheme, rest = match[1], match[2]
    ends = [i for i, letter in enumerate(rest) if letter == "@" and _may_end_user(rest[:i])]
    if not ends:
        return scheme + rest
    at = next((i for i in reversed(ends) if _HOST.match(rest, i + 1)), ends[-1])
    user, colon, _ = rest[:at].partition(":")
    return f"{scheme}{user}:{_MASK}{rest[at:]}" if colon else f"{scheme}{_MASK}{rest[at:]}"


def _may_end_user(before: str) -> bool:
    """Not so for an "@" in the path or text behind a host that no colon follows."""
    return ":" in re.split(r"[/?#\s]", before, maxsplit=1)[0] or not re.search(r"[/?#\s]", before)


class MaskedText(str):
    """Text that may hold a password. To programs it is the text; `repr`, `str` and `format` show it masked, msgspec
    raises instead of writing it, and it is not pickled. `reveal` gives it as plain text.
    """

    def __new__(cls, text: str) -> Self:
        return super().__new__(cls, reveal(text))

    @property
    def shown(self) -> str:
        """As it may be seen."""
        return mask(reveal(self))

    def __repr__(self) -> str:
        return repr(self.shown)

    def __str__(self) -> str:
        return self.shown

    def __format__(self, spec: str) -> str:
        return format(self.shown, spec)

    def __copy__(self) -> MaskedText:
        return self

    def __deepcopy__(self, memo: Any) -> MaskedText:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("text that may hold a password is not pickled")


class HiddenText(MaskedText):
    """Text of which nothing is shown: where a password stands in it cannot be told."""

    @property
    def shown(self) -> str:
        return _MASK


def reveal(text: str) -> str:
    """`text` itself, whatever it shows."""
    return str.__str__(text)


def guarded(text: str) -> str:
    """`text`, masked where it is shown if there is something in it to mask."""
    return MaskedText(text) if type(text) is str and mask(text) != text else text


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

    def handed(self) -> tuple[Kind, str]:
        """How a process that this one starts finds it, `Secret(*handed)`: never the text itself, which where it is
        plain goes by a variable of the environment that the two share.
        """
        if self._kind != "plain":
            return self._kind, self._text
        name = f"EDGERUN_HANDED_{token_hex(8)}"
        os.environ[name] = self._text
        return "env", name

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
