"""The command `shapes`: a stream's zones and masks, as somebody drew them on the status page, made to run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgerun.app.reloading import Done, Make, Outcome
from edgerun.config import Config, PrivacyConfig, ZoneConfig
from edgerun.config.structs import NAME, NAME_WORDS
from edgerun.config.watching import Polygons
from edgerun.control.desk import Act, Later
from edgerun.errors import ConfigError, ConfigErrors
from edgerun.validate import Report, read_struct, show

Ask = Callable[[Make, Done], None]
"""Has the config that is made of the one that runs run."""


class Shapes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments: what takes the place of all zones and masks of a stream, until the config is read again."""

    stream: str
    zones: dict[str, ZoneConfig] = {}
    mask: Annotated[Polygons, Meta(description="Blacked out.")] = ()


def shapes(ask: Ask) -> Act:
    """The command. It changes what is hidden, so it is done only where `[security] commands` lists it."""

    def act(arguments: Mapping[str, Any]) -> Later:
        wanted = read_shapes(arguments)
        later = Later()

        def done(outcome: Outcome) -> None:
            later.give(ConfigError(outcome.error) if outcome.errors else outcome.told())

        ask(lambda now: with_shapes(now, wanted), done)
        return later

    return act


def read_shapes(arguments: Mapping[str, Any]) -> Shapes:
    """The arguments, checked. Raises `ConfigErrors`."""
    report = Report(lambda place: place or "shapes")
    read = read_struct(dict(arguments), Shapes, "", report)
    zones = arguments.get("zones")
    for name in zones if isinstance(zones, dict) else ():
        if not re.search(NAME, str(name)):
            report.add("zones", "not a usable name", expected=NAME_WORDS, got=show(str(name)))
    if report.errors:
        raise ConfigErrors(report.errors)
    made: Shapes = read
    return made


def with_shapes(now: Config, wanted: Shapes) -> Config:
    """`now` with the stream's zones and masks as wanted. Raises `ConfigError`."""
    stream = now.streams.get(wanted.stream)
    if stream is None:
        raise ConfigError("no such stream", expected="one of " + ", ".join(now.streams), got=show(wanted.stream))
    if wanted.zones and not stream.track:
        raise ConfigError(
            "zones need tracks", where=f"streams.{wanted.stream}.track", expected="track = true", got="no tracks"
        )
    privacy = PrivacyConfig(wanted.mask) if wanted.mask else None
    changed = msgspec.structs.replace(stream, zones=wanted.zones, privacy=privacy)
    return msgspec.structs.replace(now, streams={**now.streams, wanted.stream: changed})
