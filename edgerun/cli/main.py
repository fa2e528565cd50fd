"""Which commands there are, and how errors become exit codes.

Nothing heavy is imported before a command is chosen: `edgerun --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from edgerun import __version__
from edgerun.cli import output
from edgerun.cli.parser import Parser
from edgerun.errors import ConfigError, ConfigErrors, DeviceError, EdgerunError, SourceError, did_you_mean

COMMANDS = {
    "demo": ("edgerun.cli.demo", "the bundled detector on a bundled clip of a street"),
    "run": ("edgerun.cli.run", "the daemon: cameras in, detections out"),
    "init": ("edgerun.cli.init", "write a first config: camera, model and broker are detected, or asked for"),
    "check": ("edgerun.cli.check", "validate a config and its models without starting"),
    "doctor": ("edgerun.cli.doctor", "what this device has, what is wrong with it, and what to do about it"),
    "models": ("edgerun.cli.models", "look into model files; fetch, sign, keep and roll back the device's models"),
    "service": ("edgerun.cli.service", "edgerun as a service of systemd: install it, take it away, see how it is"),
    "bench": ("edgerun.cli.bench", "latency, throughput, CPU, memory and energy of a model; ages of a whole pipeline"),
    "convert": (
        "edgerun.cli.convert",
        "a smaller, faster model that is proved before it ships: quantise, judge, measure, bundle",
    ),
    "batch": ("edgerun.cli.batch", "recordings through a model, many at once, every frame accounted for"),
    "worker": ("edgerun.cli.worker", "take other devices' frames from a shared subscription, answer with results"),
    "watch": ("edgerun.cli.watch", "live terminal view of one device or a fleet from its MQTT topics"),
    "fleet": ("edgerun.cli.fleet", "many devices at once: how they are, and rollouts of models in stages"),
    "explain": ("edgerun.cli.explain", "which part of a picture carried a model's result, as a heat-map"),
    "import-frigate": ("edgerun.cli.import_frigate", "a config of edgerun from one of Frigate"),
    "completion": ("edgerun.cli.completion", "a shell's completion script"),
    "tune": ("edgerun.cli.tune", "the best runtime, accelerator, threads and batch on this machine, as config lines"),
    "control": ("edgerun.cli.control", "tell the running daemon what to do; make access tokens and keys"),
    "audit": ("edgerun.cli.audit", "what was changed on this device and by whom, and whether that record is whole"),
}
"""Command → (module, what it does). A module has `EXAMPLES`, `add_arguments(parser)` and `run(args) -> int`."""

DONE, FAILED, USAGE, MISSING, INTERRUPTED = 0, 1, 2, 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    output.set_up()
    try:
        try:
            code = _dispatch(words)
        except SystemExit as ended:  # argparse has shown its help
            code = int(ended.code or DONE)
        output.flush()
    except EdgerunError as error:
        code = exit_code(error)
        print_error(error, debug)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001  the last one to see it: told in one paragraph
        code = FAILED
        what = f"a fault of edgerun's own: {type(error).__name__}: {error}"
        print_error(EdgerunError(what, remedy="please report it with what --debug shows"), debug)
    return code


def exit_code(error: EdgerunError) -> int:
    """2 the operator's mistake · 4 something is missing on this device · 1 the rest.

    A source that is final is a file or option that the operator named; any other may come back.
    """
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, SourceError):
        return USAGE if error.final else FAILED
    return MISSING if isinstance(error, DeviceError) else FAILED


def print_error(error: EdgerunError, debug: bool = False) -> None:
    """One paragraph for each mistake, on standard error; before it the traceback being handled when `debug`."""
    if debug:
        output.tell(traceback.format_exc().rstrip())
    print_errors(error.errors if isinstance(error, ConfigErrors) else (error,))


def print_errors(errors: Sequence[EdgerunError]) -> None:
    """A paragraph for each; to a person at a terminal then the pages that help."""
    for one in errors:
        text = str(one)
        output.tell(f"edgerun: {text if text.endswith(('.', '?', '!')) else text + '.'}")
    if sys.stderr.isatty():
        from edgerun.cli import docs

        for line in docs.lines(errors):
            output.tell(line)


def make_parser(command: str | None = None, *, whole: bool = False) -> Parser:
    """The parser; only `command` has its own flags, since each command's module is imported to know them, or all have
    when it is wanted `whole`.
    """
    parser = Parser(prog="edgerun", description="Edge inference runtime: camera in, fresh, accounted-for answers out.")
    parser.add_argument("--version", action="version", version=f"edgerun {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for name, (_, what) in COMMANDS.items():
        if name != command and not whole:
            commands.add_parser(name, help=what)
            continue
        module = load_command(name)
        epilog = "examples:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES)
        chosen = commands.add_parser(name, help=what, description=module.__doc__, epilog=epilog)
        module.add_arguments(chosen)
    parser.epilog = "edgerun COMMAND --help shows a command's flags.\n\nexamples:\n  edgerun demo\n" + (
        "  edgerun run --model detector.tflite --source /dev/video0 --broker mqtt://localhost"
    )
    return parser


def load_command(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(COMMANDS[name][0])


def _dispatch(words: list[str]) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        raise ConfigError(
            "unknown command",
            expected="one of " + ", ".join(COMMANDS),
            got=repr(command),
            remedy=did_you_mean(command, COMMANDS) or "see edgerun --help",
        )
    parser = make_parser(command)
    args, unknown = parser.parse_known_args(words)
    if command is None:
        if unknown:
            parser.refuse(unknown, words)
        parser.print_help(sys.stderr)
        return USAGE
    if unknown:
        parser.command(command).refuse(unknown, words)
    if args.json:
        output.require()
    code: int = load_command(command).run(args)
    return code
