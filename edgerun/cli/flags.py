"""The flags that `run` and `demo` share, and the config and run options they make."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgerun.cli.parser import add_common
from edgerun.config import Config, RunOptions, Secret, build, load, split_credentials
from edgerun.config.overlay import Overlay
from edgerun.errors import ConfigError, ConfigErrors
from edgerun.registry import kinds, resolve
from edgerun.validate import Report, read_struct

_KEYS = {
    "engine": "models.*.engine",
    "accelerators": "models.*.accelerators",
    "threads": "models.*.threads",
    "top_k": "models.*.top_k",
    "labels": "models.*.labels",
    "decoder": "models.*.decoder",
    "pixels": "models.*.pixels",
    "size": "models.*.size",
    "threshold": "streams.*.threshold",
    "max_age_ms": "streams.*.max_age_ms",
    "max_fps": "streams.*.max_fps",
    "loop": "streams.*.loop",
    "as_fast": "streams.*.as_fast",
}
"""Flag → the key it sets in every model or stream."""
_THREE_WAYS = (
    "edgerun demo shows it on a bundled clip; edgerun run --model ssd-mobilenet-v2-oid --source /dev/video0 needs no "
    "file; edgerun init writes a config for edgerun run --config edgerun.toml"
)
_ONE_MODEL = ("model", "source", "engine", "labels", "decoder")
"""Flags that say what a model or stream is, and so have no sense beside a file that says it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shared flags."""
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--config",
        metavar="FILE",
        help="the config; other flags take the place of its keys, but --model, --source, --engine, --labels and "
        "--decoder cannot be given beside it",
    )
    what.add_argument("--model", metavar="M", action="append", help="a bundle, .tflite, .onnx or bundled model's name")
    what.add_argument(
        "--source",
        metavar="S",
        action="append",
        help="camera (/dev/video0 or 0), rtsp:// or http:// address, video file, folder or glob of images, or "
        "synthetic; one --model takes several, several take one each",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--engine", metavar="ENGINE", help="tflite or onnx; by default what the file says")
    model.add_argument("--accelerators", metavar="A,B", type=_names, help="tried in this order (cpu)")
    model.add_argument("--threads", metavar="N", type=_scalar, help="CPU threads (2, or 1 on a single core)")
    model.add_argument("--top-k", metavar="K", type=_scalar, help="classes reported of a classification (5)")
    model.add_argument("--labels", metavar="FILE", help="one label a line, instead of the model's own")
    model.add_argument("--decoder", metavar="KIND", help=f"how its outputs are read: {', '.join(kinds('decoder'))}")
    model.add_argument(
        "--pixels", metavar="RANGE", help="what its pixels were normalised to: 0..255, 0..1, -1..1 or imagenet"
    )
    model.add_argument("--size", metavar="WxH", type=_size, help="of its picture, where the file leaves it open")
    model.add_argument("--threshold", metavar="T", type=_scalar, help="lowest score reported (the bundle's, else 0.5)")
    add_model_key(model)
    pace = parser.add_argument_group("pace")
    pace.add_argument("--max-age-ms", metavar="MS", type=_scalar, help="no result older than this (1000)")
    pace.add_argument("--max-fps", metavar="F", type=_scalar, help="most results a second (no limit)")
    pace.add_argument("--loop", action="store_true", help="begin a file or folder again at its end")
    pace.add_argument("--as-fast", action="store_true", help="read a file without pacing and infer every frame")
    pace.add_argument("--seconds", metavar="N", type=_scalar, help="end after this time")
    pace.add_argument(
        "--frames", metavar="N", type=_scalar, help="end after N frames of each stream were taken from its source"
    )
    out = parser.add_argument_group("where results go")
    out.add_argument(
        "--broker", metavar="URL", help="publish to mqtt://[user:password@]host[:port], mqtts://, ws://, wss://"
    )
    out.add_argument("--jsonl", metavar="FILE", help="append results to FILE as JSON lines; - is stdout")
    out.add_argument("--save", metavar="FILE.mp4", help="the annotated video; an existing file is replaced")
    out.add_argument("--trace", metavar="FILE.json", help="the run's last frames as a trace for Perfetto or Chrome")
    out.add_argument("--snapshot", metavar="FILE.jpg", help="the latest annotated picture, replaced every second")
    out.add_argument(
        "--no-page", action="store_true", help="no status page: neither the demo's, nor that of [web] in the config"
    )
    out.add_argument(
        "--quiet", action="store_true", help="no line per result, no summary table, only warnings in the log"
    )
    add_common(parser)


def options_of(room: str, kind: str) -> type[msgspec.Struct]:
    """A plug-in's options struct: what config is given to reach the plug-ins."""
    struct: type[msgspec.Struct] = resolve(room, kind).options
    return struct


def find_model(name: str) -> Path | None:
    """Where the model called `name` or `name@version` is kept: in the store, else with edgerun; None: there is none."""
    from edgerun.models import finding

    return finding.find_model(name)


def add_model_key(parser: Any) -> None:
    """Add `--model-key` to a command that opens a model without a config, to `parser` or a group of one."""
    parser.add_argument("--model-key", metavar="FILE", help="opens a sealed model: the key that it was sealed with")


def model_key(args: argparse.Namespace) -> Secret | None:
    """What `--model-key` names."""
    path = getattr(args, "model_key", None)
    return None if path is None else Secret("file", path, "--model-key")


def read_config(args: argparse.Namespace, overlay: Overlay | None = None) -> Config:
    """What the flags say as a config, with `overlay` over their file where there is one. Raises `ConfigErrors`."""
    if args.config is not None:
        _refuse_beside_config(args)
        config = load(Path(args.config), options_of, find_model, _overrides(args), overlay)
        return msgspec.structs.replace(config, web=None) if args.no_page else config
    return read_flags(args, {})


def read_flags(args: argparse.Namespace, device: Mapping[str, Any]) -> Config:
    """A config from flags alone; `device` is its `[device]` table."""
    models, sources = args.model or [], args.source or []
    if not models or not sources:
        missing = "--source" if models else "--model" if sources else "--config, or --model with --source"
        remedy = "see edgerun run --help" if models or sources else _THREE_WAYS
        raise ConfigError("nothing to run", expected=missing, remedy=remedy)
    if len(models) not in (1, len(sources)):
        raise ConfigError(
            "models and sources do not pair up",
            where="--model",
            expected="one --model for all sources, or one for each",
            got=f"{len(models)} models and {len(sources)} sources",
        )
    stream_names = ["main"] if len(sources) == 1 else [f"s{i}" for i in range(1, len(sources) + 1)]
    model_names = ["main"] if len(models) == 1 else [f"m{i}" for i in range(1, len(models) + 1)]
    raw: dict[str, Any] = {
        "device": dict(device),
        "models": {name: {"path": path} for name, path in zip(model_names, models, strict=True)},
        "streams": {
            name: {"source": source, "model": model_names[i if len(models) > 1 else 0]}
            for i, (name, source) in enumerate(zip(stream_names, sources, strict=True))
        },
    }
    flags = {"models.*.path": "--model", "streams.*.source": "--source"}
    for pattern, (flag, value) in _overrides(args).items():
        flags[pattern] = flag
        room, *_, key = pattern.split(".")
        for table in raw[room].values() if "*" in pattern else [raw.setdefault(room, {})]:
            table[key] = value

    def where(place: str) -> str:
        pattern = re.sub(r"^(models|streams)\.[^.]+", r"\1.*", place)
        return flag_of(flags, pattern) or place

    return build(raw, options_of, where=where, find_model=find_model)


def flag_of(flags: Mapping[str, str], place: str) -> str | None:
    """The flag of `flags` (dotted path → flag) that stands for the key at `place` or for a table around it."""
    return next((flag for known, flag in flags.items() if re.match(re.escape(known) + r"(?![\w])", place)), None)


def read_options(args: argparse.Namespace) -> RunOptions:
    """What the flags say of this one run. Raises `ConfigErrors`."""
    report = Report(lambda place: "--" + place.replace("_", "-"), {Path: lambda value, place, report: Path(value)})
    keys = ("as_fast", "loop", "seconds", "frames", "jsonl", "save", "snapshot", "trace", "json")
    raw = {key: getattr(args, key) for key in keys}
    options = read_struct({**raw, "console": not args.quiet}, RunOptions, "", report)
    if report.errors:
        raise ConfigErrors(report.errors)
    made: RunOptions = options
    return made


def all_at_once(read_config: Callable[[], Config], read_options: Callable[[], RunOptions]) -> tuple[Config, RunOptions]:
    """Both, or the mistakes of both. Raises `ConfigErrors`."""
    errors: list[ConfigError] = []
    config = options = None
    try:
        config = read_config()
    except ConfigErrors as error:
        errors += error.errors
    try:
        options = read_options()
    except ConfigErrors as error:
        errors += error.errors
    if config is None or options is None:
        raise ConfigErrors(errors)
    return config, options


def _overrides(args: argparse.Namespace) -> dict[str, tuple[str, Any]]:
    """Dotted path → (flag, value) of every flag that was given and that stands for a key of the config."""
    given: dict[str, tuple[str, Any]] = {}
    for name, pattern in _KEYS.items():
        value = getattr(args, name)
        if value is not None and value is not False:
            given[pattern] = ("--" + name.replace("_", "-"), value)
    if (key := model_key(args)) is not None:
        given["security.model_key"] = ("--model-key", key)
    if args.broker is not None:
        url, user, password = split_credentials(args.broker)
        given["mqtt.url"] = ("--broker", url)
        if user or password:
            given["mqtt.username"] = ("--broker", user)
            given["mqtt.password"] = ("--broker", Secret("plain", password, "--broker") if password else None)
    return given


def _refuse_beside_config(args: argparse.Namespace) -> None:
    errors = [
        ConfigError(
            "cannot be given together with --config",
            where="--" + name,
            remedy="write it into the file, or leave --config out",
        )
        for name in _ONE_MODEL
        if getattr(args, name) is not None
    ]
    if errors:
        raise ConfigErrors(errors)


def _scalar(text: str) -> int | float | str:
    """A number where the text is one; what it must be is the config's business."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _size(text: str) -> Any:
    """640x480 as a pair; anything else as it is, for the config to refuse."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    return [int(match[1]), int(match[2])] if match else text
