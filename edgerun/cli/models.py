"""Look into model files, keep the device's models, and sign them.

`inspect` shows what edgerun understands of a model, from where, and what has still to be given. `fetch` and `add` put
models into the device's store, `activate` and `rollback` say which version runs, and `keygen`, `sign` and `trust` say
whose models are taken. `edgerun models ACTION --help` shows an action's flags."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgerun.cli import flags, logs, models_keys, models_store, output
from edgerun.cli.parser import Parser, add_common
from edgerun.errors import ConfigError, did_you_mean
from edgerun.registry import kinds

if TYPE_CHECKING:
    from edgerun.security.sealing import SealingKey

EXAMPLES = (
    "edgerun models inspect detector.tflite",
    "edgerun models inspect net.onnx --pixels 0..1 --labels names.txt",
    "edgerun models inspect detector.onnx --json | jq .needs",
    *models_store.EXAMPLES.values(),
    *models_keys.EXAMPLES.values(),
)


_MAX_SIDE = 16384


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, each with its flags."""
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", required=True, parser_class=Parser
    )
    inspect = actions.add_parser(
        "inspect",
        help="what is understood of a model, from where, and what it still needs",
        description="What edgerun understands of a model, from where, and what it still needs. Nothing is run.",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[:3]),
    )
    inspect.add_argument("model", metavar="MODEL", help="a bundle, .tflite, .onnx, or the name of a model kept here")
    inspect.add_argument("--decoder", metavar="KIND", help=f"how its outputs are read: {', '.join(kinds('decoder'))}")
    inspect.add_argument("--labels", metavar="FILE", help="one label a line, instead of the model's own")
    inspect.add_argument(
        "--pixels", metavar="RANGE", help="what a float model's pixels become: 0..255, 0..1, -1..1 or imagenet"
    )
    inspect.add_argument("--size", metavar="WxH", type=_size, help="the picture's size where the file leaves it open")
    flags.add_model_key(inspect)
    inspect.add_argument("--config", metavar="FILE", help="whose [security] model_key opens a sealed model")
    inspect.set_defaults(do=_inspect)
    add_common(inspect)
    models_store.add(actions)
    models_keys.add(actions)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit code. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    code: int = args.do(args)
    return code


def _inspect(args: argparse.Namespace) -> int:
    from edgerun.cli.inspect_text import as_dict, as_lines
    from edgerun.models import Given, inspect, load, read_labels
    from edgerun.models.finding import model_path

    given = Given(
        decoder=args.decoder,
        labels=read_labels(Path(args.labels)) if args.labels is not None else None,
        pixels=args.pixels,
        size=args.size,
    )
    if args.decoder is not None and args.decoder not in kinds("decoder"):
        raise ConfigError(
            "unknown decoder kind",
            where="--decoder",
            expected=", ".join(kinds("decoder")),
            got=repr(args.decoder),
            remedy=did_you_mean(args.decoder, kinds("decoder")),
        )
    path = model_path(args.model)
    found = inspect(load(path, _sealing_key(args)), given)
    if args.json:
        output.say_json({"v": 1, "path": str(path), **as_dict(found)})
    else:
        output.say("\n".join(as_lines(found, str(path))))
    return 0


def _sealing_key(args: argparse.Namespace) -> SealingKey | None:
    """What `--model-key` names, else the config's."""
    from edgerun.config.part import load_part
    from edgerun.security.sealing import SealingKey

    secret = flags.model_key(args)
    if secret is None and args.config is not None:
        secret = load_part(Path(args.config), flags.options_of).security.model_key
    return None if secret is None else SealingKey.read(secret)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= _MAX_SIDE and 0 < int(height) <= _MAX_SIDE):
        raise argparse.ArgumentTypeError(f"not a size; expected WIDTHxHEIGHT, such as 640x480; got {text!r}")
    return int(width), int(height)
