"""Another config for a run that goes on: what is new is opened beside what runs, and takes over between two frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec

from edgerun.app.joining import (
    JoinedStream,
    Surroundings,
    lanes_to,
    make_worker,
    plan_stream,
)
from edgerun.app.opening import LoadedModel
from edgerun.app.preparing import Parts, Prepared, Preparing
from edgerun.config import Config
from edgerun.errors import ConfigError, EdgerunError
from edgerun.pipeline.pipeline import Pipeline
from edgerun.pipeline.worker import Worker

_log = logging.getLogger(__name__)

_DRAIN_S = 10.0
"""How long a stream that goes may take to let its source go, and its engine to finish what it gave."""
_CLOSE_S = 10.0

OnMain = Callable[[Callable[[], None]], None]
"""Has something done by the main thread and waits until it is. Raises `Closed` when the run ends first."""


class Unchanged(Exception):
    """A change could not be made, and everything is as it was; `error` says why."""

    def __init__(self, error: EdgerunError) -> None:
        super().__init__(str(error))
        self.error = error


class Swapped(msgspec.Struct, frozen=True):
    """One model took another's place. `gap_ms`: how long its engine's lanes were not served."""

    before: str
    after: str
    gap_ms: float


class Changed(msgspec.Struct, frozen=True):
    """What a change did, by name."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()
    """Streams whose source was opened anew."""
    changed: tuple[str, ...] = ()
    """Streams whose source stayed open."""
    swapped: Mapping[str, Swapped] = {}
    governed: bool = False
    settings: tuple[str, ...] = ()
    """Keys of `[security]` and `[rollout]`."""

    def __bool__(self) -> bool:
        return self != Changed()


class Exchange:
    """Makes a run into another, of what `preparing` has made. Used by one thread, "reload"."""

    def __init__(self, parts: Parts, pipeline: Pipeline, preparing: Preparing) -> None:
        self._parts, self._pipeline, self._preparing = parts, pipeline, preparing
        self._left: list[LoadedModel] = []

    def apply(
        self, prepared: Prepared, on_main: OnMain, gone: Callable[[Prepared], None], govern: Callable[[Prepared], None]
    ) -> Changed:
        """Have `prepared` run. `gone` is done by the main thread when what goes has gone and before what is new begins;
        `govern` by this one, just before sources are opened. Raises `Unchanged`, or `Closed` when the run ends first.
        """
        now, pipeline = self._parts, self._pipeline
        swapped: dict[str, Swapped] = {}
        before_models = dict(now.models)
        before_streams = now.joined.streams
        pipeline.hold()
        try:
            prepared = self._swap_with_gaps(prepared, swapped)
            difference = prepared.difference
            leaving = [before_streams[name] for name in (*difference.removed, *difference.renewed)]
            stuck = pipeline.remove([one.capture for one in leaving], _DRAIN_S)
            if stuck:
                told = "still held by a driver, or by a large folder; given up, no frame is lost with it"
                _log.warning("%s: %s", ", ".join(stuck), told)
            for name in difference.renewed:
                _follow(prepared.streams[name], before_streams[name])
            now.models |= {name: prepared.opened[name] for name in prepared.opened if name not in before_models}
            on_main(partial(gone, prepared))
            for name in self._affected(prepared):
                gap_ms = self._staff(name, prepared)
                if name in prepared.opened and name in before_models and name not in swapped:
                    old, new = before_models[name], prepared.opened[name]
                    now.models[name] = new
                    swapped[name] = Swapped(old.bundle.version, new.bundle.version, gap_ms)
                    old.engine.close()
                if name in prepared.watchers:
                    prepared.watchers[name].armed = True
            now.config, now.joined, now.shared = prepared.config, prepared.joined, prepared.shared
            pipeline.add(
                [prepared.streams[n].capture for n in (*difference.added, *difference.renewed)], [*prepared.streams]
            )
            for one in prepared.streams.values():
                one.capture.renew(keep_pictures=now.shared.keep_pictures, keep_whole=now.shared.keep_whole)
            govern(prepared)
            pipeline.begin()
            pipeline.settle()
        except Unchanged:
            for model in prepared.opened.values():
                model.engine.close()
            raise
        except BaseException:
            self._left += [one for name, one in prepared.opened.items() if now.models.get(name) is not one]
            raise
        finally:
            pipeline.release()
        self._close(difference.closed)
        return Changed(
            added=tuple(sorted(difference.added)),
            removed=tuple(sorted(difference.removed)),
            renewed=tuple(sorted(difference.renewed)),
            changed=tuple(sorted(difference.changed)),
            swapped=swapped,
            governed=difference.governed,
            settings=tuple(sorted(difference.settings)),
        )

    def close(self) -> None:
        """Close what a change that the end of the run cut short has left open. No worker runs any more."""
        left, self._left = self._left, []
        for model in left:
            model.engine.close()

    def _affected(self, prepared: Prepared) -> list[str]:
        """The models whose workers change, new ones first."""
        now, difference = self._parts, prepared.difference
        names = set(prepared.opened) | set(prepared.plans)
        for name in (*difference.removed, *difference.renewed):
            names |= {lane.plan.model for lane in now.joined.streams[name].lanes}
        for name in (*difference.added, *difference.renewed):
            names |= {lane.plan.model for lane in prepared.streams[name].lanes}
        pictures = [(one.keep_pictures, one.pictures_of) for one in (now.shared, prepared.shared)]
        if pictures[0] != pictures[1]:
            names |= set(prepared.models)
        there = {worker.name for worker in self._pipeline.workers}
        return sorted((name for name in names if name in prepared.models), key=lambda name: (name in there, name))

    def _swap_with_gaps(self, prepared: Prepared, swapped: dict[str, Swapped]) -> Prepared:
        """Close the models that have to go first and open those that take their places, each on its engine's thread;
        what is to be done with all of them known. When one cannot be opened or used all are as they were, and what was
        wrong is raised.
        """
        for name in prepared.gaps:
            old = self._parts.models[name]
            found: list[Prepared] = []
            wrong: list[EdgerunError] = []
            follow = partial(self._follow_with_gap, name, prepared, found, wrong)
            gap_ms = self._pipeline.staff(name, follow)
            if wrong:
                for other in swapped:
                    self._pipeline.staff(other, partial(self._follow_back, other))
                raise Unchanged(wrong[0])
            (prepared,) = found
            swapped[name] = Swapped(old.bundle.version, self._parts.models[name].bundle.version, gap_ms)
        return prepared

    def _follow_with_gap(
        self, name: str, prepared: Prepared, found: list[Prepared], wrong: list[EdgerunError], worker: Worker
    ) -> Worker:
        now = self._parts
        worker.engine.close()
        watcher = self._preparing.watcher(name)
        model: LoadedModel | None = None
        try:
            model = self._preparing.open_one(name, prepared.config, watcher)
            opened = {**prepared.opened, name: model}
            made = self._preparing.plan(
                prepared.config, prepared.difference, (), opened, prepared.watchers, prepared.shared
            )
            if made.difference.renewed != prepared.difference.renewed:
                raise ConfigError(
                    "the model asks its streams for other frames than the one before",
                    where=f"models.{name}",
                    remedy='set swap = "overlap", or restart it',
                )
        except EdgerunError as error:
            if model is not None:
                model.engine.close()
            wrong.append(error)
            return self._follow_back(name, worker)
        now.models[name] = model
        watcher.armed = True
        found.append(made)
        self._take_plans(name, made)
        return self._over_present_lanes(name, made.config, model, made.shared)

    def _follow_back(self, name: str, worker: Worker) -> Worker:
        """The model as the present config has it, opened anew, and its lanes as they were."""
        now = self._parts
        worker.engine.close()
        watcher = self._preparing.watcher(name)
        now.models[name] = model = self._preparing.open_one(name, now.config, watcher)
        watcher.armed = True
        for stream in now.config.streams:
            lanes = now.joined.streams[stream].lanes
            if any(lane.plan.model == name for lane in lanes):
                for lane, plan in zip(lanes, plan_stream(stream, now.config, now.models), strict=True):
                    if plan.model == name:
                        lane.replan(msgspec.structs.replace(plan, scene=lane.plan.scene), lane.cache)
        return self._over_present_lanes(name, now.config, model, now.shared)

    def _over_present_lanes(self, name: str, config: Config, model: LoadedModel, shared: Surroundings) -> Worker:
        now = self._parts.joined
        return make_worker(name, config.models[name], model, lanes_to(name, now.streams), now.ready[name], shared)

    def _staff(self, name: str, prepared: Prepared) -> float:
        """Have the worker of one model followed by another, or a first one come; how long nobody served, ms."""
        if name not in {worker.name for worker in self._pipeline.workers}:
            self._pipeline.employ(self._worker(name, prepared, prepared.models[name]))
            return 0.0

        def follow(worker: Worker) -> Worker:
            self._take_plans(name, prepared)
            return self._worker(name, prepared, prepared.models[name])

        return self._pipeline.staff(name, follow)

    def _take_plans(self, name: str, prepared: Prepared) -> None:
        """Between two turns: the lanes of one model do something else from now on."""
        cache = prepared.caches.get(name)
        for lane, plan in prepared.plans.get(name, {}).items():
            if cache is not None:
                cache.forget(plan.stream)
            lane.replan(plan, None if plan.crops else cache)

    def _worker(self, name: str, prepared: Prepared, model: LoadedModel) -> Worker:
        lanes = lanes_to(name, prepared.streams)
        return make_worker(
            name, prepared.config.models[name], model, lanes, prepared.joined.ready[name], prepared.shared
        )

    def _close(self, names: Iterable[str]) -> None:
        """Models that nobody uses any more."""
        for name in names:
            if self._pipeline.dismiss(name, _CLOSE_S):
                self._parts.models.pop(name).engine.close()
            else:
                _log.warning("model %s: its engine does not end; it stays open", name)


def _follow(after: JoinedStream, before: JoinedStream) -> None:
    """A stream that begins anew counts on, by the names of its accounts."""
    for name, lane in after.accounts.items():
        if name in before.accounts:
            lane.follow(before.accounts[name])
    after.capture.follow(before.capture)
