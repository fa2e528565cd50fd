"""Everything that another config needs, made and checked beside what runs, before anything of that is touched."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec

from edgerun.app.comparing import Difference, compare
from edgerun.app.joining import (
    Joined,
    JoinedStream,
    Surroundings,
    check_stream,
    join_stream,
    make_caches,
    plan_stream,
    remembers_alike,
    used_models,
)
from edgerun.app.listening import rate_of_sources
from edgerun.app.opening import LoadedModel, check_state, open_model, read_bundle
from edgerun.config import Config, RunOptions
from edgerun.device.board import limits, memory_bytes
from edgerun.device.machine import Machine
from edgerun.errors import ConfigError, ConfigErrors, EdgerunError, ModelError
from edgerun.infer.fallback import Event
from edgerun.infer.state import reset
from edgerun.pipeline.cache import ResultCache
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.types import EngineInfo

_log = logging.getLogger(__name__)

_NEED_BASE, _NEED_TIMES = 32 << 20, 4
"""What a second model takes until it is exchanged, roughly: its file, its weights as the runtime packs them, its arena,
and what opening it takes besides. The bundled detector (5.3 MiB) takes 20 to 60 MiB."""

EngineChanged = Callable[[str, Event, EngineInfo, str], None]


class Parts(msgspec.Struct):
    """What of a run changes with its config. Written by one thread at a time; its values are replaced, never changed,
    but for `models`, which others hold.
    """

    config: Config
    joined: Joined
    shared: Surroundings
    models: dict[str, LoadedModel]


class Watcher:
    """Told of an engine's accelerators; of one that is not in use yet, or not any more, it passes nothing on."""

    def __init__(self, name: str, tell: EngineChanged) -> None:
        self.armed = False
        self._name, self._tell = name, tell

    def __call__(self, event: Event, info: EngineInfo, reason: str) -> None:
        if self.armed:
            self._tell(self._name, event, info, reason)


class Prepared(msgspec.Struct):
    """Everything that a change needs, made beside what runs; nothing of it is in use."""

    config: Config
    difference: Difference
    models: dict[str, LoadedModel]
    """As they will be; of those that are exchanged with a gap, as they are."""
    opened: dict[str, LoadedModel]
    watchers: dict[str, Watcher]
    gaps: tuple[str, ...]
    streams: dict[str, JoinedStream]
    """All of them, in order; new ones are not started."""
    plans: dict[str, dict[Lane, LanePlan]]
    """By model: the lanes that stay and are to do something else."""
    caches: dict[str, ResultCache]
    joined: Joined
    shared: Surroundings


class Preparing:
    """Makes what a change needs. Used by one thread at a time.

    `engine_changed` is told of the accelerators of models that came by it; `check` raises what is wrong with a config
    and the streams that it is to have.
    """

    def __init__(
        self,
        parts: Parts,
        options: RunOptions,
        engine_changed: EngineChanged,
        check: Callable[[Config, Sequence[Capture]], None] = lambda config, captures: None,
    ) -> None:
        self._parts, self._options = parts, options
        self._engine_changed, self._check = engine_changed, check

    def watcher(self, name: str) -> Watcher:
        """One that passes nothing on until it is armed."""
        return Watcher(name, self._engine_changed)

    def prepare(self, wanted: Config, shared: Surroundings, replaced: Iterable[str] = ()) -> Prepared:
        """Everything that `wanted` needs besides what runs, opened and checked. Raises `EdgerunError` with everything
        that is wrong; then nothing is open and nothing has changed.
        """
        now = self._parts
        difference = compare(now.config, wanted, [*replaced, *self._files_changed(wanted)])
        difference = _with_rates(now.config, wanted, difference)
        gaps = tuple(name for name in difference.opened & now.models.keys() if self._wants_gap(name, wanted))
        opened: dict[str, LoadedModel] = {}
        watchers: dict[str, Watcher] = {}
        try:
            self._open(wanted, sorted(difference.opened - set(gaps)), opened, watchers)
            return self.plan(wanted, difference, gaps, opened, watchers, shared)
        except BaseException:
            for model in opened.values():
                model.engine.close()
            raise

    def _files_changed(self, wanted: Config) -> list[str]:
        """Models that run, whose files have changed under the path that stays."""
        found = []
        for name, model in self._parts.models.items():
            config = wanted.models.get(name)
            if config is None or config.path != self._parts.config.models[name].path:
                continue
            with suppress(ConfigError, ModelError):  # what runs goes on; a restart would tell
                there = read_bundle(config, wanted.security.model_key)
                if (there.sha256, there.name, there.version) != (
                    model.bundle.sha256, model.bundle.name, model.bundle.version,
                ):  # fmt: skip
                    found.append(name)
        return found

    def _wants_gap(self, name: str, wanted: Config) -> bool:
        """Whether the old model has to go before the new one comes, by the config or because memory is short."""
        swap = wanted.models[name].swap
        if swap != "auto":
            return swap == "gap"
        free = available_bytes()
        with suppress(ConfigError, ModelError):  # opening it will tell
            size = len(read_bundle(wanted.models[name], wanted.security.model_key).model)
            need = needed_bytes(size)
            if free is not None and free < need:
                _log.warning(
                    "model %s: %d MiB of memory are free, and two of them may need %d: the old one is closed first",
                    name, free >> 20, need >> 20,
                )  # fmt: skip
                return True
        return False

    def _open(
        self, wanted: Config, names: Iterable[str], opened: dict[str, LoadedModel], watchers: dict[str, Watcher]
    ) -> None:
        """Raises what is wrong with any of them."""
        errors: list[EdgerunError] = []
        for name in names:
            watchers[name] = self.watcher(name)
            try:
                opened[name] = self.open_one(name, wanted, watchers[name])
            except EdgerunError as error:
                errors.append(error)
        _raise_all(errors)

    def open_one(self, name: str, wanted: Config, watcher: Watcher) -> LoadedModel:
        """Open a model and have it infer once: a runtime's first inference takes its time."""
        config = wanted.models[name]
        model = open_model(config, watcher, rate_of_sources(wanted, name), wanted.security.model_key)
        try:
            if len(model.engine.inputs) == 1 and model.outsourced is None:
                model.engine.infer((model.preprocess.batch(1),))
                reset(model.engine)
                model.preprocess.reset()
        except BaseException:
            model.engine.close()
            raise
        return model

    def plan(
        self,
        wanted: Config,
        difference: Difference,
        gaps: tuple[str, ...],
        opened: dict[str, LoadedModel],
        watchers: dict[str, Watcher],
        shared: Surroundings,
    ) -> Prepared:
        """The lanes and plans of `wanted` with these models. Raises what is wrong with any stream."""
        now, errors = self._parts, list[EdgerunError]()
        models = {name: model for name, model in now.models.items() if name not in difference.closed} | opened
        ready = dict(now.joined.ready)
        for name in opened:
            ready.setdefault(name, threading.Condition())
        caches = {name: cache for name, cache in now.joined.caches.items() if name in models and name not in opened}
        caches |= make_caches(wanted, [name for name in models if name not in caches])
        for name in models:
            try:
                check_state(wanted, name, models[name])
            except EdgerunError as error:
                errors.append(error)
        streams: dict[str, JoinedStream] = {}
        plans: dict[str, dict[Lane, LanePlan]] = {}
        renewed = set(difference.renewed)
        for name in wanted.streams:
            try:
                if name in now.joined.streams and name not in renewed:
                    found = self._replan(name, wanted, models, difference)
                    if found is not None:
                        streams[name] = now.joined.streams[name]
                        for lane, plan in found.items():
                            plans.setdefault(plan.model, {})[lane] = plan
                        continue
                    renewed.add(name)
                streams[name] = join_stream(name, wanted, self._options, models, ready, caches, shared)
            except EdgerunError as error:
                errors.append(error)
        _raise_all(errors)
        self._check(wanted, [one.capture for one in streams.values()])
        difference = msgspec.structs.replace(
            difference,
            renewed=frozenset(renewed),
            changed=difference.changed - renewed,
            governed=difference.governed or bool(renewed),
        )
        ready = {name: one for name, one in ready.items() if name in models}
        joined = Joined(streams, (), ready, caches)
        return Prepared(wanted, difference, models, opened, watchers, gaps, streams, plans, caches, joined, shared)

    def _replan(
        self, name: str, wanted: Config, models: Mapping[str, LoadedModel], difference: Difference
    ) -> dict[Lane, LanePlan] | None:
        """What the lanes of a stream that stays are to do from now on, as far as that differs; None where its models
        ask for something else of its source than before.
        """
        now = self._parts
        joined, stream = now.joined.streams[name], wanted.streams[name]
        lanes = joined.lanes
        touched = name in difference.changed or any(lane.plan.model in difference.opened for lane in lanes)
        if not touched:
            return {}
        plans = plan_stream(name, wanted, models)
        if check_stream(name, stream, models) != joined.source:
            return None
        asks = [(plan.ordered, plan.window, plan.depth) for plan in plans]
        if asks != [(lane.plan.ordered, lane.plan.window, lane.plan.depth) for lane in lanes]:
            return None
        old, new = now.models[stream.models[0]].bundle, models[stream.models[0]].bundle
        alike = remembers_alike(now.config.streams[name], old, stream, new)
        if alike:
            scene = lanes[0].plan.scene
            plans = [plan if plan.scene is None else msgspec.structs.replace(plan, scene=scene) for plan in plans]
        whole = name in difference.changed or not alike
        pairs = zip(lanes, plans, strict=True)
        return {lane: plan for lane, plan in pairs if whole or plan.model in difference.opened}


def needed_bytes(size: int) -> int:
    """Memory that one more model of so many bytes may take, roughly."""
    return _NEED_BASE + _NEED_TIMES * size


def available_bytes(machine: Machine | None = None) -> int | None:
    """Memory that this process may still take; None where nothing tells. Raises `DeviceError`."""
    machine = machine or Machine()
    told = memory_bytes(machine)
    free = [] if told is None else [told[1]]
    pages = (machine.text("proc/self/statm") or "").split()
    narrow = limits(machine).memory_bytes
    if narrow is not None and len(pages) > 1:  # resident (proc(5), statm)
        free.append(max(0, narrow - int(pages[1]) * os.sysconf("SC_PAGE_SIZE")))
    return min(free, default=None)


def _with_rates(now: Config, wanted: Config, difference: Difference) -> Difference:
    """A model whose samples come at another rate than before is another one. Raises `ConfigError`."""
    stays = (used_models(now) & used_models(wanted)) - difference.opened
    other = {name for name in stays if rate_of_sources(now, name) != rate_of_sources(wanted, name)}
    return msgspec.structs.replace(difference, opened=difference.opened | other) if other else difference


def _raise_all(errors: Sequence[EdgerunError]) -> None:
    """Raise what there is: one as it is, several as one."""
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    every: list[ConfigError] = []
    for error in errors:
        if isinstance(error, ConfigErrors):
            every += error.errors
        elif isinstance(error, ConfigError):
            every.append(error)
        else:
            every.append(
                ConfigError(error.what, where=error.where, expected=error.expected, got=error.got, remedy=error.remedy)
            )
    raise ConfigErrors(every)
