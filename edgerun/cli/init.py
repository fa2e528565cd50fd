"""Write a first config: camera, model and broker are detected, and asked for where a person is at the terminal.

What is written is checked first. Whatever is not said and not found is the bundled detector on the bundled clip."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgerun.cli import flags, logs, output
from edgerun.cli.parser import add_common
from edgerun.cli.writing import write_text
from edgerun.config import build, default_device_id, split_credentials
from edgerun.errors import ConfigError

EXAMPLES = (
    "edgerun init",
    "edgerun init --source rtsp://cam.example/stream --broker mqtt://broker.example --yes -o edge.toml",
)

_MODEL = "ssd-mobilenet-v2-oid"
_FLAGS = {
    "streams.main.source": "--source",
    "models.detector.path": "--model",
    "mqtt": "--broker",
    "device.id": "--device",
}
"""What is asked for, or by a flag said, as the config's keys."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("-o", "--output", metavar="FILE", default="edgerun.toml", help="the config (edgerun.toml)")
    parser.add_argument("--source", metavar="S", help="camera, address, video file or folder (a camera that is found)")
    parser.add_argument("--model", metavar="M", default=None, help=f"a model, or a bundled one's name ({_MODEL})")
    parser.add_argument("--broker", metavar="URL", help="mqtt://[user@]host[:port], or none (one that is found)")
    parser.add_argument("--device", metavar="ID", help="this device's name in topics (the host's name)")
    parser.add_argument("--yes", action="store_true", help="ask nothing: take what is given or found")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Detect, ask, check, write. Raises `EdgerunError`."""
    logs.set_up(verbose=args.verbose, quiet=True)
    target = Path(args.output)
    if target.exists() and not args.force:
        raise ConfigError("there is such a file", where=str(target), remedy="add --force to replace it, or use -o")
    from edgerun.device.machine import Machine
    from edgerun.setup import detect, first

    asks = not args.yes and not args.json and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    cameras = [] if args.source else detect.cameras(Machine())
    broker = args.broker or detect.broker()
    found: str | Mapping[str, Any] = args.source or (_table(cameras[0]) if cameras else "")
    answers = {"source": args.source, "model": args.model, "broker": args.broker, "device": args.device}
    if asks:
        for one in cameras:
            output.tell(f"found a camera: {one.device} ({one.name})")
        source = _show(found) or "the bundled clip"
        defaults = [
            ("source", "camera, address, file or folder", source),
            ("model", "model", _MODEL),
            ("broker", "MQTT broker (none: no broker)", broker or "none"),
            ("device", "this device's name", default_device_id()),
        ]
        for key, question, default in defaults:
            if answers[key] is None:
                answers[key] = _ask(question, default)
    chosen = _choice(answers, found, broker, first.Choice)
    text = first.text_of(chosen)
    _check(text, target)
    write_text(target, text)
    _tell(args, target, chosen)
    return 0


def _ask(question: str, default: str) -> str | None:
    """The answer, None for the default."""
    sys.stderr.write(f"{question} [{default}]: ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise ConfigError("no answer", remedy="edgerun init --yes asks nothing")
    return answer.strip() or None


def _choice(answers: Mapping[str, str | None], found: Any, broker: str | None, kind: Any) -> Any:
    """What is written: the answers, else what was found, else what is bundled."""
    url = answers["broker"] or broker
    username = None
    if url in (None, "none"):
        url = None
    else:
        url, username, password = split_credentials(url)
        if password is not None:
            raise ConfigError(
                "a password is not written into the config",
                where="--broker",
                remedy="leave it out: the config will say where it is kept",
            )
    source: Any = answers["source"] or found
    bundled = not source
    if bundled:
        from edgerun.models.bundle import find_bundled

        clip = find_bundled(_MODEL)  # one of that name in the store has no clip beside it
        source = str(clip.parent / "clips/street.mp4") if clip is not None else "synthetic"
    elif isinstance(source, str) and os.path.exists(source):
        source = os.path.abspath(source)
    model = answers["model"] or _MODEL
    if flags.find_model(model) is None and os.path.exists(model):
        model = os.path.abspath(model)
    return kind(
        device=answers["device"] or default_device_id(),
        model=model,
        source=source,
        broker=url,
        username=username,
        loop=bundled,
    )


def _table(camera: Any) -> Mapping[str, Any]:
    """A camera that was found, as the config's table."""
    asked = {"size": list(camera.size) if camera.size else None, "fourcc": camera.fourcc}
    return {"kind": "camera", "device": camera.device, **{key: one for key, one in asked.items() if one is not None}}


def _show(found: str | Mapping[str, Any]) -> str:
    return found if isinstance(found, str) else str(found["device"])


def _check(text: str, target: Path) -> None:
    """What is written must be a config. Raises `ConfigErrors`; a password that is not there yet is no fault."""
    import tomllib

    build(
        tomllib.loads(text),
        flags.options_of,
        where=lambda place: flags.flag_of(_FLAGS, place) or place,
        folder=target.parent,
        find_model=flags.find_model,
    )


def _tell(args: argparse.Namespace, target: Path, chosen: Any) -> None:
    steps = [f"edgerun check --config {target}", f"edgerun run --config {target}"]
    steps.append(f"sudo edgerun service install --config {target.absolute()} --now")
    if args.json:
        output.say_json(
            {"v": 1, "written": str(target), "source": chosen.source, "broker": chosen.broker, "next": steps}
        )
        return
    output.say(f"{target} is written: {_show(chosen.source)} → {chosen.model} → {chosen.broker or 'the terminal'}.")
    output.say("What comes next:\n" + "\n".join(f"  {step}" for step in steps))
    if chosen.username is not None:
        output.say("The broker's password: docs/config.md, `password`, says where it may lie.")
