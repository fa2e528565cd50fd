"""Run a model for other devices: their frames come from a shared subscription, one worker of the group gets each.

A device sends its frames with engine = "remote" in its [models.NAME] table. Both ends need the same model file: a frame
for another version is refused. One frame is inferred at a time, --in-flight of them are held so that the next is there.
SIGTERM ends it when what it holds is answered. docs/workers.md has the whole."""

from __future__ import annotations

import argparse
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgerun.cli import flags, logs, output
from edgerun.cli.parser import add_common
from edgerun.errors import ConfigError
from edgerun.secret import Secret

if TYPE_CHECKING:
    from edgerun.broker.options import BrokerOptions
    from edgerun.clock import Clock
    from edgerun.config import ModelConfig
    from edgerun.worker import Service

EXAMPLES = (
    "edgerun worker --broker mqtt://broker.example --group site --model ssd-mobilenet-v2-oid",
    "edgerun worker --broker mqtts://broker.example --group site --model detector.tflite --id jetson-2 --in-flight 4",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "--broker", metavar="URL", required=True, help="mqtt://[user:password@]host[:port], mqtts://, ws://, wss://"
    )
    parser.add_argument("--model", metavar="M", required=True, help="a bundle, .tflite, .onnx or bundled model's name")
    parser.add_argument("--group", metavar="G", default="edgerun", help="each frame goes to one worker of it (edgerun)")
    parser.add_argument("--id", metavar="ID", help="this worker's name, unlike any other's (HOST-worker)")
    parser.add_argument("--in-flight", metavar="N", type=int, default=2, help="frames held at a time (2)")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (2, or 1 on a single core)")
    parser.add_argument("--accelerators", metavar="A,B", help="tried in this order (cpu)")
    parser.add_argument("--decoder", metavar="KIND", help="how the model's outputs are read, where it does not say")
    parser.add_argument("--labels", metavar="FILE", help="one label a line, instead of the model's own")
    parser.add_argument("--pixels", metavar="P", help="0..1, 0..255, -1..1 or imagenet, where the model does not say")
    parser.add_argument("--prefix", metavar="P", default="edgerun", help="the first level of every topic (edgerun)")
    parser.add_argument("--ca-file", metavar="FILE", help="certificates (PEM) to trust instead of the system's")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose)
    from edgerun.app.opening import open_model
    from edgerun.clock import SystemClock
    from edgerun.worker import Answerer, Service, ServiceOptions

    if not 1 <= args.in_flight <= 1024:
        raise ConfigError("not a number of frames", where="--in-flight", expected="1 to 1024", got=args.in_flight)
    if not args.group or set(args.group) & set("/+#\0"):
        raise ConfigError("not a group's name", where="--group", expected="no / + # or NUL", got=repr(args.group))
    broker = _broker(args)
    model = open_model(_model(args))
    clock = SystemClock()
    try:
        answerer = Answerer(model, broker.client_id)
        service = Service(answerer, ServiceOptions(broker, args.group, args.in_flight), clock)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: service.stop())
        if not args.json:
            info = model.engine.info
            output.tell(
                f"{broker.client_id}: {model.bundle.name} {model.bundle.version} on {info.accelerator}, about"
                f" {service.capacity:.0f} frames a second, group {args.group}"
            )
        _serve(service, clock)
    finally:
        model.engine.close()
    stats = service.stats()
    if args.json:
        output.say_json({"v": 1, **msgspec.structs.asdict(stats)})
    else:
        refused = "".join(f", {count} refused ({why})" for why, count in sorted(stats.refused.items()))
        output.say(f"{stats.taken} frames taken, {stats.answered} answered{refused}")
    return 0


def _serve(service: Service, clock: Clock) -> None:
    """Until it is told to stop; under a service manager (or with `RUNTIME_DIRECTORY` set) with a control socket."""
    from edgerun.control.local import default_path
    from edgerun.worker.probing import Probing

    path = default_path()
    if path is None:
        service.run()
        return
    probing = Probing(path, service, clock)
    try:
        service.run(probing.turn)
    finally:
        probing.close()


def _model(args: argparse.Namespace) -> ModelConfig:
    """Raises `ConfigErrors` for flags that make none."""
    from edgerun.config import build

    path = flags.find_model(args.model) or Path(args.model).resolve()
    labels = str(Path(args.labels).resolve()) if args.labels is not None else None
    model = {"path": str(path), "threads": args.threads, "decoder": args.decoder, "labels": labels}
    model["pixels"] = args.pixels
    if args.accelerators is not None:
        model["accelerators"] = [name for name in args.accelerators.split(",") if name]
    raw = {
        "models": {"main": {key: value for key, value in model.items() if value is not None}},
        "streams": {"main": {"model": "main", "source": "synthetic"}},
    }
    return build(raw, flags.options_of).models["main"]


def _broker(args: argparse.Namespace) -> BrokerOptions:
    from edgerun.broker.options import BrokerOptions
    from edgerun.config.build import split_credentials
    from edgerun.config.mqtt import broker_url, topic_prefix
    from edgerun.config.structs import default_device_id

    name = args.id if args.id is not None else f"{default_device_id()[:56]}-worker"
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ConfigError("not an id", where="--id", expected="1 to 64 of a-z A-Z 0-9 . _ -", got=repr(name))
    url, username, password = split_credentials(args.broker)
    try:
        broker_url(url)
        topic_prefix(args.prefix)
    except ValueError as error:
        raise ConfigError("not usable", where="--broker or --prefix", got=error) from error
    ca_file = Path(args.ca_file) if args.ca_file is not None else None
    if ca_file is not None and not os.path.isfile(ca_file):
        raise ConfigError("no such file", where="--ca-file", expected="a PEM file", got=args.ca_file)
    secret = Secret("plain", password) if password else None
    return BrokerOptions(
        url=url, client_id=name, username=username, password=secret, prefix=args.prefix, ca_file=ca_file
    )
