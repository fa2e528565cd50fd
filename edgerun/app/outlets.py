"""The sinks that a config and the flags of a run ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgerun.app.observing import collected
from edgerun.config import Config, RunOptions
from edgerun.ports import Sink, SinkContext
from edgerun.registry import resolve


def open_sinks(config: Config, options: RunOptions, context: SinkContext) -> Iterator[Sink]:
    """Each opened when it is asked for; whoever takes it closes it. Raises what they raise."""
    for kind, values in _wanted(config, options):
        yield _open(kind, values, context)


def open_collector(config: Config, context: SinkContext) -> Sink | None:
    """What keeps pictures for training; None where no stream wants that. Raises what it raises."""
    kept = collected(config)
    return _open("collect", {"streams": kept}, context) if kept else None


def _wanted(config: Config, options: RunOptions) -> list[tuple[str, dict[str, Any]]]:
    wanted: list[tuple[str, dict[str, Any]]] = []
    if options.console:
        wanted.append(("console", {"to": "stderr" if options.jsonl == "-" else "stdout"}))
    if options.jsonl is not None:
        wanted.append(("jsonl", {"path": options.jsonl}))
    pictures = {"save": options.save, "snapshot": options.snapshot}
    if any(pictures.values()):
        paths = {key: str(path) for key, path in pictures.items() if path is not None}
        wanted.append(("picture", {**paths, "streams": tuple(config.streams)}))
    if config.mqtt is not None:
        wanted.append(("mqtt", {"prefix": config.mqtt.prefix}))
    return wanted


def _open(kind: str, values: dict[str, Any], context: SinkContext) -> Sink:
    sink_class = resolve("sink", kind)
    sink: Sink = sink_class(sink_class.options(**values), context)
    return sink
