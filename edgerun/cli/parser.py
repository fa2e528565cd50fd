"""argparse, speaking as the rest of edgerun does: errors are one paragraph, with `did you mean`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgerun.cli import output
from edgerun.errors import ConfigError, did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser that raises `ConfigError` instead of printing its usage and exiting."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **arguments)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, remedy=f"see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version; argparse's own method keeps quiet about what could not be written."""
        show = output.say if file is not None and file is sys.stdout else output.tell
        show(message.removesuffix("\n"))

    def refuse(self, unknown: Sequence[str], words: Sequence[str]) -> NoReturn:
        """Raise for the `unknown` ones of the command line's `words`."""
        flag = unknown[0].partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        what = "unknown flag" if flag.startswith("-") else "unexpected argument"
        remedy = _quote_the_pattern(unknown[0], words) or did_you_mean(flag, known) or f"see {self.prog} --help"
        raise ConfigError(what, got=repr(unknown[0]), remedy=remedy)

    def command(self, name: str) -> Parser:
        """The parser of a sub-command."""
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        parser: Parser = groups[0].choices[name]
        return parser


def _quote_the_pattern(word: str, words: Sequence[str]) -> str | None:
    """A remedy where the shell has made the file `word` and others of a pattern after `--source`."""
    at = words.index(word)
    while at > 0 and not words[at].startswith("-"):
        at -= 1
    if words[at].partition("=")[0] != "--source" or not Path(word).exists():
        return None
    pattern = Path(word).with_name("*" + Path(word).suffix)
    return f"quote a pattern, or the shell takes it: --source '{pattern}'"


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags every command has."""
    parser.add_argument("--json", action="store_true", help="the outcome as one JSON object, last line of stdout")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is done in detail")
