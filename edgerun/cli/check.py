"""Validate a config and its models without starting: all errors at once, each with its path and remedy.

Exit code 0: it would start; 2: the config is wrong; 1: a model is; 4: something is not installed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgerun.cli import flags, logs, output
from edgerun.cli.docs import page_of
from edgerun.cli.main import exit_code, print_errors
from edgerun.cli.parser import add_common
from edgerun.config import Config, StreamConfig, dump, load
from edgerun.errors import ConfigError, ConfigErrors, EdgerunError, ModelError
from edgerun.secret import Secret, mask
from edgerun.telemetry.prometheus import without_client
from edgerun.validate import show

EXAMPLES = (
    "edgerun check --config /etc/edgerun/edgerun.toml",
    "edgerun check --config edge.toml --json | jq -r '.errors[].where'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("--config", metavar="FILE", required=True, help="the config to look at")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Check; returns the exit code."""
    logs.set_up(verbose=args.verbose, quiet=True)
    try:
        config = load(Path(args.config), flags.options_of, flags.find_model)
    except ConfigErrors as error:
        return report(args, None, error.errors)
    from edgerun.app import check_models

    return report(args, config, [*check_models(config), *_unusable(config)])


def worst_code(errors: Sequence[EdgerunError]) -> int:
    """2 when any is the config's, else 1 when any is a model's, else the first one's own."""
    ranked = sorted(errors, key=lambda e: 0 if isinstance(e, ConfigError) else 1 if isinstance(e, ModelError) else 2)
    return exit_code(ranked[0]) if ranked else 0


def report(args: argparse.Namespace, config: Config | None, errors: Sequence[EdgerunError]) -> int:
    """Print what was understood, or everything that is wrong; returns the exit code."""
    warnings = list(_warnings(config)) if config else []
    if args.json:
        answer = {
            "v": 1,
            "ok": not errors,
            "errors": [_as_dict(error) for error in errors],
            "warnings": warnings,
            "config": _masked(dump(config)) if config else None,
        }
        output.say_json(answer)
        return worst_code(errors)
    for warning in warnings:
        output.tell(f"warning: {warning}.")
    print_errors(errors)
    if config and not errors:
        output.say("\n".join(_understood(config)))
    elif len(errors) > 1:
        output.tell(f"edgerun: {args.config}: {len(errors)} mistakes.")
    return worst_code(errors)


def _understood(config: Config) -> Iterator[str]:
    yield f"ok  device {config.device.id}"
    if config.mqtt is not None:
        login = f" as {config.mqtt.username}" if config.mqtt.username else ""
        yield f"ok  mqtt {config.mqtt.url}{login}, topics {config.mqtt.prefix}/{config.device.id}/…"
    for name, model in config.models.items():
        threads = f"{model.threads} thread{'s' * (model.threads > 1)}"
        yield f"ok  model {name}: {model.path}, {', then '.join(map(_kind, model.accelerators))}, {threads}"
    for name, stream in config.streams.items():
        rate = f", at most {stream.max_fps:g} results/s" if stream.max_fps else ""
        only = f", only {', '.join(stream.labels)}" if stream.labels else ""
        models = ", ".join(stream.models)
        yield f"ok  stream {name}: {_source(stream)} → {models}, at most {stream.max_age_ms:g} ms old{rate}{only}"


def _kind(accelerator: str | dict[str, Any]) -> str:
    return accelerator if isinstance(accelerator, str) else str(accelerator.get("kind"))


def _source(stream: StreamConfig) -> str:
    options = stream.source.options
    for key in ("url", "path", "device"):
        value = getattr(options, key, None)
        if value is not None:
            return f"{stream.source.kind} {show(str(value))[1:-1]}"
    return stream.source.kind


def _warnings(config: Config) -> Iterator[str]:
    """What would start and is unwise, or cannot be told from here (a unit's credentials exist only inside it)."""
    if config.mqtt is not None and config.mqtt.insecure:
        yield "mqtt.insecure: the broker's certificate is not verified"
    password = config.mqtt.password if config.mqtt is not None else None
    for secret in (password, *_tokens(config), config.security.state_key):
        if secret is not None:
            yield from secret.warnings()
            if (missing := _missing(secret)) is not None:
                yield str(missing)
    if config.sensors.rail is not None:
        from edgerun.app.governing import make_sampler
        from edgerun.clock import SystemClock
        from edgerun.device.energy import unknown_rail

        sampler = make_sampler(config.sensors, SystemClock())
        if text := unknown_rail(config.sensors.rail, sampler.sample().values()):
            yield text
        sampler.close()


def _tokens(config: Config) -> Iterator[Secret]:
    for table in (config.web, config.metrics):
        if table is not None and table.token is not None:
            yield table.token


def _missing(secret: Secret) -> ConfigError | None:
    try:
        secret.reveal()
    except ConfigError as error:
        return error
    return None


def _unusable(config: Config) -> Iterator[EdgerunError]:
    """What a start would refuse besides models: tokens, keys and certificates that are none, a control socket where
    none can be, libraries that are not installed.
    """
    from edgerun.app.governing import check_root
    from edgerun.app.linking import broker_options
    from edgerun.broker.tls import tls_context, uses_tls
    from edgerun.control.local import check_path
    from edgerun.security.sealing import SealingKey
    from edgerun.security.tokens import Gate

    uses: list[tuple[Callable[[Secret], object], Secret]] = [(Gate.of, token) for token in _tokens(config)]
    if config.security.state_key is not None:
        uses.append((SealingKey.read, config.security.state_key))
    asked: list[Callable[[], object]] = [partial(check_root, config.sensors)]
    asked += [partial(use, secret) for use, secret in uses if _missing(secret) is None]
    if config.security.socket is not None:
        asked.append(partial(check_path, config.security.socket))
    if config.mqtt is not None and uses_tls(options := broker_options(config.mqtt, config.device.id)):
        asked.append(partial(tls_context, options))
    for ask in asked:
        try:
            ask()
        except EdgerunError as error:
            yield error
    if config.metrics is not None:
        try:
            import prometheus_client  # noqa: F401
        except ImportError as error:
            yield without_client(error)


def _masked(value: Any) -> Any:
    """`value` with everything masked that may be a password."""
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return mask(str(value)) if isinstance(value, str) else value


def _as_dict(error: EdgerunError) -> dict[str, str]:
    parts = {
        "where": error.where,
        "what": error.what,
        "expected": error.expected,
        "got": error.got,
        "remedy": error.remedy,
        "message": error,
        "docs": page_of(error),
    }
    return {key: str(value) for key, value in parts.items() if value is not None}
