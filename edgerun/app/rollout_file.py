"""Rollouts as they are kept in the state folder, and what becomes of them when edgerun starts."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgerun.config import Config
from edgerun.errors import DeviceError, EdgerunError, ModelError
from edgerun.models.disk import Disk
from edgerun.models.rollout import MAX_BYTES, SERVING, Event, Failed, Placed, Rollout, Starting, decode, encode, step
from edgerun.models.store import Limits, Store
from edgerun.spool.options import state_folder

_log = logging.getLogger(__name__)

Audit = Callable[[str, Mapping[str, Any]], None]
_FILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}\.json")


class RolloutFiles:
    """`rollout/<model>.json` in the state folder: of each model of the store the last rollout."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder if folder is not None else state_folder() / "rollout"
        self._disk = Disk()
        self._written: dict[str, bytes] = {}

    def read(self) -> dict[str, Rollout]:
        """By the store's name of the model. What cannot be read is told and left where it is."""
        found = {}
        try:
            paths = sorted(path for path in self._folder.iterdir() if _FILE.fullmatch(path.name))
        except OSError:  # there was none yet
            return {}
        for path in paths:
            try:
                with path.open("rb") as file:
                    rollout = decode(file.read(MAX_BYTES), path)
            except (OSError, ModelError) as error:
                _log.error("a rollout is lost: %s", error)
                continue
            if rollout.model == path.stem:
                found[rollout.model] = rollout
        return found

    def write(self, rollout: Rollout) -> None:
        """Keep it, on the medium when this returns. Raises `DeviceError`."""
        content = encode(rollout)
        if self._written.get(rollout.model) == content:
            return
        path = self._folder / f"{rollout.model}.json"
        try:
            self._disk.make_folder(self._folder)
            self._disk.replace(path, content)
        except OSError as error:
            raise DeviceError(
                "the state of a rollout cannot be kept", where=path, got=error.strerror or str(error)
            ) from error
        self._written[rollout.model] = content


def open_store(config: Config, audit: Audit | None = None) -> Store:
    """The device's store, with the limits of the config. Raises `DeviceError`."""
    limits = Limits(config.store.keep, config.store.max_bytes, config.store.min_free)
    return Store.open(limits=limits, audit=audit)


def put_back(store: Store, rollout: Rollout) -> None:
    """Make the version before the active one again, where the new one is. Raises `ModelError`, `DeviceError`."""
    found = store.record(rollout.model)
    if rollout.version is None or found.active != rollout.version or rollout.previous is None:
        return
    if found.previous == rollout.previous:
        store.rollback(rollout.model)
    else:
        store.activate(rollout.model, rollout.previous, force=True)


class Resumed(msgspec.Struct, frozen=True):
    """What a start found: the config with the versions that are to run, the rollouts, and those it ended."""

    config: Config
    rollouts: Mapping[str, Rollout] = {}
    ended: tuple[Rollout, ...] = ()


def resume(config: Config, now: float) -> Resumed:
    """Before any model is opened: count this start for each version that is still on trial, and put back what failed
    too often, or what a crash has left half put back. Whatever goes wrong is told, and the start goes on.
    """
    files = RolloutFiles()
    kept = files.read()
    rollouts, ended, models = {}, [], dict(config.models)
    for name, rollout in kept.items():
        if rollout.device != config.device.id or rollout.name not in config.models:
            continue
        if rollout.state == "staged":  # nothing of it is in the store
            rollouts[name] = rollout
            continue
        try:
            store = open_store(config)
            path = store.path(name)
            after = _settle(rollout, store, files, config, now)
            if models[rollout.name].path == path:
                models[rollout.name] = msgspec.structs.replace(models[rollout.name], path=store.path(name))
        except EdgerunError as error:
            _log.error("rollout of %s: %s", name, error)
            after = rollout
        rollouts[name] = after
        if after.state == "rolled_back" and rollout.state != "rolled_back":
            ended.append(after)
    if models != config.models:
        config = msgspec.structs.replace(config, models=models)
    return Resumed(config, rollouts, tuple(ended))


def _settle(rollout: Rollout, store: Store, files: RolloutFiles, config: Config, now: float) -> Rollout:
    """The rollout as it is to go on. A step is kept before it is acted on."""

    def go(event: Event) -> None:
        nonlocal rollout
        rollout = step(rollout, event, config.rollout, now)
        files.write(rollout)

    active = store.record(rollout.model).active
    if rollout.state in SERVING and active == rollout.version and not rollout.placed:
        go(Placed(there=True))
    if rollout.placed and active != rollout.version:
        go(Placed(there=False))
        if not rollout.ended:
            go(Failed(f"version {active} was made the active one by something else"))
    if rollout.placed and not rollout.ended:
        go(Starting())
    if rollout.state == "rolled_back" and rollout.placed:
        put_back(store, rollout)
        go(Placed(there=False))
    return rollout
