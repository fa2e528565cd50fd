"""The bundled detector on a bundled clip of a real street, played over and over at its real rate.

No camera, no broker, no network. One line per result: time, stream, age, what was seen, what was dropped; and a status
page with live pictures, whose address is told first. --source and --model look at something else; --broker publishes
too, as device demo-HOSTNAME."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

import msgspec

from edgerun.cli import flags, output
from edgerun.cli.run import serve
from edgerun.config import Config, DeviceConfig, Secret, default_device_id
from edgerun.config.web import DEFAULT_PORT, WebConfig
from edgerun.errors import MissingError
from edgerun.web.binding import reserve

EXAMPLES = (
    "edgerun demo",
    "edgerun demo --seconds 10 --save street.mp4",
    "edgerun demo --source /dev/video0 --broker mqtt://localhost --no-page",
)

_MODEL = "ssd-mobilenet-v2-oid"
_CLIP = "clips/street.mp4"
_HOST = "127.0.0.1"

add_arguments = flags.add_arguments


def run(args: argparse.Namespace) -> int:
    """Run the demo until it ends."""
    if args.no_page or args.quiet:  # where nobody is told the address, nobody comes
        return serve(read_config, args)
    token = secrets.token_urlsafe(32)

    def with_page(args: argparse.Namespace) -> Config:
        config = read_config(args)
        if config.web is not None:
            return config
        listen = f"{_HOST}:{reserve(_HOST, DEFAULT_PORT)}"
        return msgspec.structs.replace(config, web=WebConfig(listen, Secret("plain", token)))

    def show_address(config: Config) -> None:
        if config.web is not None and config.web.token == Secret("plain", token):
            output.tell(f"status page: http://{config.web.listen}/#token={token}")

    return serve(with_page, args, show_address)


def read_config(args: argparse.Namespace) -> Config:
    """What to show. Raises `ConfigErrors`, `MissingError` when the installation lacks the clip or the model."""
    device = ("demo-" + default_device_id())[:63]
    if args.config is not None:
        return msgspec.structs.replace(flags.read_config(args), device=DeviceConfig(id=device))
    if args.source is None:
        args.source = [str(_bundled() / _CLIP)]
        args.loop = True
    if args.model is None:
        args.model = [str(_bundled() / _MODEL)]
    return flags.read_flags(args, {"id": device})


def _bundled() -> Path:
    """The folder of what ships with edgerun; a model of that name in the store is not it."""
    from edgerun.models.bundle import find_bundled

    model = find_bundled(_MODEL)
    if model is None or not (model.parent / _CLIP).is_file():
        raise MissingError(
            "the demo's files are not in this installation",
            where="edgerun demo",
            expected=f"the model {_MODEL} and {_CLIP}",
            remedy="install edgerun again (pip install --force-reinstall edgerun), or use edgerun run with a --model "
            "and a --source",
        )
    return model.parent
