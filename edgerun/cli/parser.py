"""argparse, speaking as the rest of edgerun does: errors are one paragraph, with `did you mean`."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from edgerun.errors import ConfigError, did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser that raises `ConfigError` instead of printing its usage and exiting."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **arguments)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, remedy=f"see {self.prog} --help")

    def refuse(self, words: list[str]) -> NoReturn:
        """Raise for words nobody wanted."""
        flag = words[0].partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        what = "unknown flag" if flag.startswith("-") else "unexpected argument"
        raise ConfigError(what, got=repr(words[0]), remedy=did_you_mean(flag, known) or f"see {self.prog} --help")

    def command(self, name: str) -> Parser:
        """The parser of a sub-command."""
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        parser: Parser = groups[0].choices[name]
        return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags every command has."""
    parser.add_argument("--json", action="store_true", help="the outcome as one JSON object, last line of stdout")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is done in detail")
