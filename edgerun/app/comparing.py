"""What lies between the config that runs and the one that is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from edgerun.app.joining import used_models
from edgerun.config import Config, ModelConfig, StreamConfig
from edgerun.errors import ConfigError, ConfigErrors

LIVE = ("models", "streams", "governor", "sensors", "quiet", "rollout")
"""The tables that can change while it runs. Of the others each is the process's own: its name, its link, its doors."""
LIVE_SECURITY = ("require_signed", "trust", "commands", "signed_commands", "command_keys")
"""The keys of `[security]` that can. The others are read once: keys to what is sealed, the socket, the audit log."""
_GOVERNED = ("governor", "sensors", "quiet")
_IN_PLACE = frozenset(
    (
        "labels", "threshold", "max_age_ms", "max_fps", "min_fps", "weight", "target_age_ms", "least_fps", "may_pause",
        "region", "track", "zones", "keyword", "activity", "collect", "snapshot",
    )
)  # fmt: skip
"""Keys of a stream that change between two frames: its source stays open."""
_OWN_AFFAIR = ("swap", "variants")
"""Keys of a model that say nothing of how it is opened."""


class Difference(msgspec.Struct, frozen=True):
    """By name. `opened`: models that are new, or other ones under the same name; `closed`: those that nobody uses any
    more. `added`, `removed`: streams; `renewed`: those whose source is opened anew; `changed`: those whose source stays
    open.
    """

    opened: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    renewed: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    governed: bool = False
    """What governs the device has to be put together anew."""
    settings: frozenset[str] = frozenset()
    """Keys of `[security]` and `[rollout]` that say something else, such as `security.commands`."""

    def __bool__(self) -> bool:
        return self != Difference()


def compare(now: Config, wanted: Config, replaced: Iterable[str] = ()) -> Difference:
    """What is to be done so that `wanted` runs. `replaced`: models whose files have changed under their paths.

    Raises `ConfigErrors` naming each table that cannot change while it runs.
    """
    check_live(now, wanted)
    before, after = used_models(now), used_models(wanted)
    opened = after - before
    for name in after & before:
        if name in replaced or _opened_as(now.models[name]) != _opened_as(wanted.models[name]):
            opened.add(name)
    both = now.streams.keys() & wanted.streams.keys()
    renewed = {name for name in both if _needs_source(now, wanted, name)}
    changed = {name for name in both - renewed if now.streams[name] != wanted.streams[name]}
    added, removed = wanted.streams.keys() - now.streams.keys(), now.streams.keys() - wanted.streams.keys()
    return Difference(
        frozenset(opened),
        frozenset(before - after),
        frozenset(added),
        frozenset(removed),
        frozenset(renewed),
        frozenset(changed),
        governed=bool(added or removed or renewed or changed)
        or any(getattr(now, key) != getattr(wanted, key) for key in _GOVERNED),
        settings=frozenset((*_differing(now, wanted, "security"), *_differing(now, wanted, "rollout"))),
    )


def check_live(now: Config, wanted: Config) -> None:
    """Raises `ConfigErrors` naming each table, or key of `[security]`, that differs and that cannot change while it
    runs.
    """
    fixed = [name for name in Config.__struct_fields__ if name not in LIVE and name != "security"]
    wrong: dict[str, Sequence[str]] = {name: LIVE for name in fixed if getattr(now, name) != getattr(wanted, name)}
    for place in _differing(now, wanted, "security"):
        if place.partition(".")[2] not in LIVE_SECURITY:
            wrong[place] = LIVE_SECURITY
    if wrong:
        raise ConfigErrors(
            [
                ConfigError(
                    "cannot change while it runs",
                    where=place,
                    expected=f"what it is now; {', '.join(live)} can change",
                    remedy="restart it (systemctl restart edgerun), or take the change back",
                )
                for place, live in wrong.items()
            ]
        )


def _differing(now: Config, wanted: Config, table: str) -> list[str]:
    """The keys of a table, such as `security.commands`, that say something else."""
    before, after = getattr(now, table), getattr(wanted, table)
    return [f"{table}.{key}" for key in before.__struct_fields__ if getattr(before, key) != getattr(after, key)]


def _opened_as(model: ModelConfig) -> Mapping[str, object]:
    return {key: value for key, value in msgspec.structs.asdict(model).items() if key not in _OWN_AFFAIR}


def _needs_source(now: Config, wanted: Config, name: str) -> bool:
    """Whether a stream that is in both has to begin anew."""
    before, after = now.streams[name], wanted.streams[name]
    if _held(before) != _held(after):
        return True
    return any(now.models[one].variants != wanted.models[one].variants for one in after.models)


def _held(stream: StreamConfig) -> Mapping[str, object]:
    return {key: value for key, value in msgspec.structs.asdict(stream).items() if key not in _IN_PLACE}
