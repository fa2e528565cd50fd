"""Make a config of edgerun from one of Frigate: cameras, objects, zones, masks and the broker.

What has no counterpart is told on standard error, key by key."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgerun.cli import flags, logs, output
from edgerun.cli.parser import add_common
from edgerun.cli.writing import write_text
from edgerun.errors import ConfigError

EXAMPLES = (
    "edgerun import-frigate /config/config.yml -o edgerun.toml",
    "edgerun import-frigate config.yml | less",
)

_MODEL = "ssd-mobilenet-v2-oid"
_MOST_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("file", metavar="CONFIG.yml", help="Frigate's config")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it (standard output)")
    parser.add_argument("--model", metavar="M", default=_MODEL, help=f"the detector ({_MODEL})")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Convert. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    from edgerun.models import load, read_labels
    from edgerun.models.finding import model_path
    from edgerun.setup import frigate

    target = Path(args.output) if args.output is not None else None
    if target is not None and target.exists() and not args.force:
        raise ConfigError("there is such a file", where=str(target), remedy="add --force to replace it")
    content = _read(Path(args.file))
    with _named(args.file):
        raw = frigate.parse(content)
    path = flags.find_model(args.model) or model_path(args.model)
    bundle = load(path)
    labels = bundle.labels or (read_labels(path / "labels.txt") if (path / "labels.txt").is_file() else ())
    with _named(args.file):
        made = frigate.convert(raw, args.model, labels)
    if args.json:
        left = [{"key": key, "why": why} for key, why in made.left_out]
        output.say_json({"v": 1, "config": made.text, "left_out": left})
        return 0
    for key, why in made.left_out:
        output.tell(f"not in it: {key}: {why}.")
    if target is None:
        output.say(made.text.rstrip("\n"))
        return 0
    write_text(target, made.text)
    output.say(f"{target} is written; look through it, then: edgerun check --config {target}")
    return 0


@contextmanager
def _named(file: str) -> Iterator[None]:
    """What is wrong in the file is told with its name."""
    try:
        yield
    except ConfigError as error:
        error.where = file if error.where is None else f"{file}: {error.where}"
        raise


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError("cannot be read", where=str(path), got=error.strerror or error) from error
    if len(content) > _MOST_BYTES:
        raise ConfigError("too large to be a config of Frigate", where=str(path), expected="at most 1 MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("not text in UTF-8", where=str(path), got=f"byte {error.start}") from error
