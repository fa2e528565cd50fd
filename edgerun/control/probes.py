"""What a supervisor asks again and again: whether the main thread takes commands, and whether results flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgerun.control.desk import Act
from edgerun.errors import ConfigError, StageError
from edgerun.validate import show

PROBES = ("alive", "ready")
"""Verbs that change nothing and are not put on record."""


def probes(why_not_ready: Callable[[], str | None]) -> dict[str, Act]:
    """The verbs; `ready` fails with what `why_not_ready` says, unless it says nothing."""

    def alive(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        _refuse(arguments)
        return {}

    def ready(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        _refuse(arguments)
        if why := why_not_ready():
            raise StageError(why)
        return {}

    return dict(zip(PROBES, (alive, ready), strict=True))


def _refuse(arguments: Mapping[str, Any]) -> None:
    """Raises `ConfigError` where there are any."""
    if arguments:
        raise ConfigError("this command takes no arguments", got=show(next(iter(arguments))))
