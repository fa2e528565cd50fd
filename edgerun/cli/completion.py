"""Print the completion script of a shell; what it completes is this version's commands and flags."""

from __future__ import annotations

import argparse

from edgerun.cli import output
from edgerun.cli.parser import add_common
from edgerun.errors import MissingError

EXAMPLES = (
    "edgerun completion bash > ~/.local/share/bash-completion/completions/edgerun",
    "edgerun completion zsh > ~/.zfunc/_edgerun",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print the script. Raises `MissingError` without shtab, which writes it."""
    try:
        import shtab
    except ImportError as error:
        raise MissingError(
            "shtab is not installed", where="completion", remedy="pip install 'edgerun[completion]'"
        ) from error
    from edgerun.cli.main import make_parser

    output.say(shtab.complete(make_parser(whole=True), shell=args.shell).rstrip("\n"))
    return 0
