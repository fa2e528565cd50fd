"""Run a model for other devices: their frames come from a shared subscription, one worker of the group gets each.

A device sends its frames with engine = "remote" in its [models.NAME] table. Both ends need the same model file: a frame
for another version is refused. One frame is inferred at a time, --in-flight of them are held so that the next is there.
SIGHUP has it read its model again and serve with that from the next frame on; SIGTERM ends it when what it holds is
answered. docs/workers.md has the whole."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgerun.cli import broker_flags, flags, logs, output
from edgerun.cli.parser import add_common
from edgerun.errors import ConfigError

if TYPE_CHECKING:
    from edgerun.app.opening import LoadedModel
    from edgerun.broker.options import BrokerOptions
    from edgerun.clock import Clock
    from edgerun.config import ModelConfig
    from edgerun.worker import Renewing, Service

EXAMPLES = (
    "edgerun worker --broker mqtt://broker.example --group site --model ssd-mobilenet-v2-oid",
    "edgerun worker --broker mqtts://broker.example --group site --model detector.tflite --id jetson-2 --in-flight 4",
    "edgerun worker --broker mqtts://site@broker.example --password credential=mqtt --model ssd-mobilenet-v2-oid",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    broker_flags.add_arguments(parser)
    parser.add_argument("--model", metavar="M", required=True, help="a bundle, .tflite, .onnx or bundled model's name")
    parser.add_argument("--group", metavar="G", default="edgerun", help="each frame goes to one worker of it (edgerun)")
    parser.add_argument("--id", metavar="ID", help="this worker's name, unlike any other's (HOST-worker)")
    parser.add_argument("--in-flight", metavar="N", type=int, default=2, help="frames held at a time (2)")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (2, or 1 on a single core)")
    parser.add_argument("--accelerators", metavar="A,B", help="tried in this order (cpu)")
    parser.add_argument("--decoder", metavar="KIND", help="how the model's outputs are read, where it does not say")
    parser.add_argument("--labels", metavar="FILE", help="one label a line, instead of the model's own")
    parser.add_argument("--pixels", metavar="P", help="0..1, 0..255, -1..1 or imagenet, where the model does not say")
    flags.add_model_key(parser)
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose)
    from edgerun.clock import SystemClock
    from edgerun.worker import Answerer, Renewing, Service, ServiceOptions

    if not 1 <= args.in_flight <= 1024:
        raise ConfigError("not a number of frames", where="--in-flight", expected="1 to 1024", got=args.in_flight)
    if not args.group or set(args.group) & set("/+#\0"):
        raise ConfigError("not a group's name", where="--group", expected="no / + # or NUL", got=repr(args.group))
    broker = _broker(args)
    model = _open(args)
    clock, service = SystemClock(), None
    try:
        answerer = Answerer(model, broker.client_id)
        service = Service(answerer, ServiceOptions(broker, args.group, args.in_flight), clock)
        renewing = Renewing(service, partial(_open, args))
        _heed_signals(service, renewing)
        if not args.json:
            info = model.engine.info
            output.tell(
                f"{broker.client_id}: {model.bundle.name} {model.bundle.version} on {info.accelerator}, about"
                f" {service.capacity:.0f} frames a second, group {args.group}"
            )
        _serve(service, renewing, clock)
    finally:
        (model if service is None else service.model).engine.close()
    stats = service.stats()
    if args.json:
        output.say_json({"v": 1, **msgspec.structs.asdict(stats)})
    else:
        refused = "".join(f", {count} refused ({why})" for why, count in sorted(stats.refused.items()))
        output.say(f"{stats.taken} frames taken, {stats.answered} answered{refused}")
    return 0


def _heed_signals(service: Service, renewing: Renewing) -> None:
    """SIGTERM and SIGINT end it. SIGHUP too where a terminal can hang up; elsewhere it has the model read again."""
    on_terminal = any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: service.stop())
    hang_up = service.stop if on_terminal else renewing.ask
    signal.signal(signal.SIGHUP, lambda _number, _frame: hang_up())


def _serve(service: Service, renewing: Renewing, clock: Clock) -> None:
    """Until it is told to stop; under a service manager (or with `RUNTIME_DIRECTORY` set) with a control socket."""
    from edgerun.control.local import default_path
    from edgerun.worker.probing import Probing

    path = default_path()
    probing = None if path is None else Probing(path, service, clock)

    def turn() -> None:
        renewing.turn()
        if probing is not None:
            probing.turn()

    try:
        service.run(turn)
    finally:
        renewing.close()
        if probing is not None:
            probing.close()


def _open(args: argparse.Namespace) -> LoadedModel:
    """The model as it lies there now. Raises `EdgerunError`."""
    from edgerun.app.opening import open_model

    return open_model(_model(args), model_key=flags.model_key(args))


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
    from edgerun.config.structs import default_device_id

    name = args.id if args.id is not None else f"{default_device_id()[:56]}-worker"
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ConfigError("not an id", where="--id", expected="1 to 64 of a-z A-Z 0-9 . _ -", got=repr(name))
    return broker_flags.read_options(args, name)
