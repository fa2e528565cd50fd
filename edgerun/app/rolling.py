"""New versions of models on a run that goes on: brought, tried in the shadow, served with, and put back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edgerun.app.fetching import Wish, fetch, model_of, place, read_wish
from edgerun.app.looking import Window, baseline
from edgerun.app.reloading import Outcome
from edgerun.app.rollout_file import Resumed, RolloutFiles, open_store, put_back
from edgerun.app.rollout_telling import RolloutTelling, told
from edgerun.app.trial import Ties, Trial
from edgerun.app.trying import begin_shadow, compared, leave_shadow, why_no_shadow
from edgerun.config import RolloutConfig
from edgerun.control.desk import Later
from edgerun.errors import ConfigError, DeviceError, EdgerunError, did_you_mean
from edgerun.models.rollout import (
    Began,
    Compared,
    Event,
    Failed,
    Lasted,
    Looked,
    Placed,
    Rollout,
    Starting,
    Widened,
    step,
)
from edgerun.pipeline.notice import Asked, ThreadDied
from edgerun.validate import show

_log = logging.getLogger(__name__)

_TURN_NS = 500_000_000
_TELL_NS = 10_000_000_000
_KEEP_NS = 60_000_000_000
_RETRY_NS = 60_000_000_000
_OFFER_NS = 60_000_000_000
_JOIN_S = 0.5
_NICE = 10


class Rolling:
    """Driven by the main thread; what takes its time is done by threads of its own ("rollout", "shadow")."""

    def __init__(self, ties: Ties, resumed: Resumed) -> None:
        self._ties = ties
        self._files = RolloutFiles()
        self._telling = RolloutTelling(ties.config, ties.models, ties.note, ties.audit, ties.versions)
        now_ns = ties.clock.mono_ns()
        self._trials = {name: Trial(one, begun_ns=now_ns) for name, one in resumed.rollouts.items()}
        self._resumed = resumed
        self._next_ns = self._offer_ns = now_ns
        self._stopped = False

    def install(self, arguments: Mapping[str, Any]) -> Later | Mapping[str, Any]:
        """The verb `model/install`: answered when the version is in the store, verified. Raises `ConfigError`."""
        wish = read_wish(arguments)
        config = self._ties.config()
        self._check_name(wish.name)
        model = model_of(config, wish.name, open_store(config))
        trial = self._trials.get(model)
        if trial is not None and not trial.rollout.ended:
            return self._widen(trial, wish)
        if trial is not None and (trial.busy or (trial.rollout.placed and trial.rollout.state == "rolled_back")):
            raise ConfigError("the rollout before is still being taken back", where=wish.name, remedy="try again later")
        if trial is not None and wish.rollout == trial.rollout.id:
            if trial.rollout.state == "committed":
                return {"rollout": trial.rollout.id, **told(trial.rollout)}
            raise ConfigError("this rollout was taken back", got=trial.rollout.reason, remedy="give it another id")
        rollout = Rollout(
            id=wish.rollout or f"r{round(self._ties.clock.unix_s())}",
            device=config.device.id,
            model=model,
            name=wish.name,
            share=wish.share,
            source=wish.source,
            sha256=wish.sha256,
            wanted=wish.version,
            since=self._ties.clock.unix_s(),
        )
        self._files.write(rollout)
        trial = self._trials[model] = Trial(rollout, later=Later(), begun_ns=self._ties.clock.mono_ns())
        self._telling.say(trial.rollout)
        self._fetch(trial)
        assert trial.later is not None
        return trial.later

    def rollback(self, arguments: Mapping[str, Any]) -> Later | Mapping[str, Any]:
        """The verb `model/rollback`: the version before comes back, also where the rollout is over. Answered when it
        serves. Raises `ConfigError`, `ModelError`.
        """
        for key in arguments:
            if key not in ("name", "model", "reason"):
                raise ConfigError("a key that model/rollback does not know", expected="name, reason", got=show(key))
        name, reason = arguments.get("name", arguments.get("model")), arguments.get("reason", "")
        if not isinstance(name, str) or not isinstance(reason, str):
            raise ConfigError("wrong type", expected="name, and reason: text", got=show(name))
        config = self._ties.config()
        self._check_name(name)
        store = open_store(config)
        model = model_of(config, name, store)
        trial = self._trials.get(model)
        if trial is not None and (trial.busy or trial.later is not None):
            if trial.asked_back is not None:
                raise ConfigError("it was asked back already", where=name)
            trial.asked_back = (reason, Later())
            trial.stop.set()
            return trial.asked_back[1]
        if trial is None or trial.rollout.state == "rolled_back":
            found = store.record(model)
            if found.previous is None:
                store.rollback(model)  # which says why not
            rollout = Rollout(
                id=f"hand-{round(self._ties.clock.unix_s())}", device=config.device.id, model=model, name=name,
                version=found.active, previous=found.previous, state="committed", placed=True,
            )  # fmt: skip
            trial = self._trials[model] = Trial(rollout, begun_ns=self._ties.clock.mono_ns())
        later = Later()
        self._ask_back(trial, reason, later)
        return later if trial.later is later else {"rollout": trial.rollout.id, **told(trial.rollout)}

    def _ask_back(self, trial: Trial, reason: str, later: Later) -> None:
        trial.later = later
        if trial.rollout.state == "rolled_back":
            self._answer(trial)
        else:
            self._go(trial, Failed(f"asked for by a command{': ' if reason else ''}{reason[:200]}"))

    def tick(self) -> None:
        """Do what is due; called several times a second."""
        now_ns = self._ties.clock.mono_ns()
        if now_ns < self._next_ns or self._stopped:
            return
        self._next_ns = now_ns + _TURN_NS
        resumed, self._resumed = self._resumed, Resumed(self._resumed.config)
        for rollout in resumed.ended:
            self._telling.say(rollout)
        for trial in list(self._trials.values()):
            self._drive(trial, now_ns)
        if now_ns >= self._offer_ns:
            self._offer_ns = now_ns + _OFFER_NS
            self._offer()

    def _offer(self) -> None:
        """Tell which versions there are: somebody may have brought them to the device."""
        config = self._ties.config()
        for name in self._ties.models:
            with suppress(EdgerunError):  # it is no model of the store
                store = open_store(config)
                model = model_of(config, name, store)
                trial, latest = self._trials.get(model), store.record(model).latest()
                tried = trial is not None and (not trial.rollout.ended or trial.rollout.version == latest)
                if latest is not None and not tried:
                    self._telling.offer(name, latest)

    def stop(self, *, well: bool) -> None:
        """The run ends, `well` where no thread of it has died. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        for trial in self._trials.values():
            if well and trial.rollout.starts:
                self._keep(step(trial.rollout, Lasted(stable=False), self._rules, self._ties.clock.unix_s()))
            if trial.shadow is not None:
                trial.shadow.close()
        for trial in self._trials.values():
            if trial.shadow is not None and not trial.shadow.join(_JOIN_S):
                _log.warning("the shadow of %s has not ended", trial.rollout.name)

    def group(self) -> Mapping[str, Any]:
        """The group `rollout` of telemetry."""
        return {trial.rollout.name: told(trial.rollout) for trial in list(self._trials.values())}

    @property
    def _rules(self) -> RolloutConfig:
        return self._ties.config().rollout

    def _check_name(self, name: str) -> None:
        names = tuple(self._ties.models)
        if name not in names:
            raise ConfigError(
                "no such model runs", expected=", ".join(names), got=show(name), remedy=did_you_mean(name, names)
            )

    def _widen(self, trial: Trial, wish: Wish) -> Mapping[str, Any]:
        if wish.rollout != trial.rollout.id:
            raise ConfigError(
                "another rollout of this model is under way",
                where=wish.name,
                got=f"{trial.rollout.id}, {trial.rollout.state}",
                remedy="wait for its end, or model/rollback first",
            )
        self._go(trial, Widened(wish.share))
        return {"rollout": trial.rollout.id, **told(trial.rollout)}

    def _drive(self, trial: Trial, now_ns: int) -> None:
        """One step further, where nothing is under way."""
        if trial.busy or now_ns < trial.retry_ns:
            return
        if trial.asked_back is not None and trial.later is None:
            (reason, later), trial.asked_back = trial.asked_back, None
            self._ask_back(trial, reason, later)
        rollout = trial.rollout
        if rollout.starts and (now_ns - trial.begun_ns) / 1e9 >= self._rules.stable_s:
            self._go(trial, Lasted(stable=True))
        if trial.shadow is not None and (rollout.state != "shadow" or rollout.passed):
            leave_shadow(self._ties, trial)
        if rollout.state == "staged":
            self._fetch(trial)
        elif rollout.state == "verified":
            p95_ms, failures = baseline(self._ties.totals(rollout.name))
            if not rollout.passed and p95_ms is not None:
                self._go(trial, Began(p95_ms, failures))
        elif rollout.state == "shadow" and not rollout.passed:
            self._shadow(trial, now_ns)
        elif rollout.wants_placed and not rollout.placed and not rollout.ended:
            self._work(
                trial,
                partial(place, rollout, self._ties.config(), self._ties.reread, self._telling.audit_store),
                self._placed,
            )
        elif rollout.wants_placed and not rollout.ended:
            self._look(trial, now_ns)
        elif rollout.state == "rolled_back" and rollout.placed:
            self._work(trial, partial(self._take_back, rollout), self._taken_back)

    def _fetch(self, trial: Trial) -> None:
        do = partial(fetch, trial.rollout, self._ties.config(), self._telling.audit_store, trial.stop)
        self._work(trial, do, self._fetched)

    def _fetched(self, trial: Trial, result: Any) -> None:
        later, trial.later = trial.later, None
        self._go(trial, Failed(str(result)) if isinstance(result, EdgerunError) else result)
        if later is None:
            return
        if isinstance(result, EdgerunError):
            later.give(result)
        elif trial.rollout.state == "rolled_back":
            later.give(ConfigError(trial.rollout.reason, where=trial.rollout.name))
        else:
            later.give({"rollout": trial.rollout.id, **told(trial.rollout)})

    def _shadow(self, trial: Trial, now_ns: int) -> None:
        if trial.shadow is not None:
            self._go(trial, compared(self._ties, trial, now_ns))
            return
        if any(other.shadow is not None for other in self._trials.values()):
            return
        if why := why_no_shadow(self._ties, trial.rollout):
            self._go(trial, Compared(impossible=why))
            return
        self._go(trial, Starting())  # what takes the process with it when it is opened is not opened for ever
        if trial.rollout.state == "shadow":
            try:
                begin_shadow(self._ties, trial, now_ns)
            except EdgerunError as error:  # somebody has taken it out of the store
                self._go(trial, Failed(str(error)))

    def _placed(self, trial: Trial, result: Any) -> None:
        """The store has it: it is to serve."""
        if isinstance(result, EdgerunError):
            self._go(trial, Placed(there=True))  # where it is not, putting it back does nothing
            self._go(trial, Failed(str(result)))
            return
        self._go(trial, Placed(there=True))
        self._swap(trial, result, self._swapped)

    def _swapped(self, trial: Trial, outcome: Outcome) -> None:
        trial.begun_ns = self._ties.clock.mono_ns()
        trial.window = None
        if outcome.errors:
            self._go(trial, Failed(f"it could not take over: {outcome.error}"))
        else:
            self._tell(trial)

    def _look(self, trial: Trial, now_ns: int) -> None:
        rollout = trial.rollout
        if self._ties.models[rollout.name].bundle.version != rollout.version:
            self._go(trial, Failed("the config that runs has another version"))
            return
        if trial.window is None:
            readings, clock = self._ties.readings, self._ties.clock
            trial.window = Window(partial(self._ties.totals, rollout.name), readings, clock, rollout.health)
        self._go(trial, Looked(trial.window.look()))
        if trial.rollout.state != rollout.state:
            trial.window = None

    def _take_back(self, rollout: Rollout) -> Path:
        store = open_store(self._ties.config(), self._telling.audit_store)
        put_back(store, rollout)
        return store.path(rollout.model)

    def _taken_back(self, trial: Trial, result: Any) -> None:
        if isinstance(result, EdgerunError):
            _log.error("%s cannot be put back: %s", trial.rollout.model, result)
            self._ties.note("rollout_stuck", f"{trial.rollout.name}: {result}")
            trial.retry_ns = self._ties.clock.mono_ns() + _RETRY_NS
            self._answer(trial, result)
            return
        self._go(trial, Placed(there=False))
        if self._ties.config().models[trial.rollout.name].path == result:
            self._answer(trial)
            return
        self._swap(trial, result, self._swapped_back)

    def _swapped_back(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.errors:
            self._ties.note("rollout_stuck", f"{trial.rollout.name}: {outcome.error}")
            self._answer(trial, ConfigError(outcome.error))
        else:
            self._tell(trial)
            self._answer(trial)

    def _answer(self, trial: Trial, error: EdgerunError | None = None) -> None:
        if trial.later is not None:
            later, trial.later = trial.later, None
            later.give(error if error is not None else {"rollout": trial.rollout.id, **told(trial.rollout)})

    def _swap(self, trial: Trial, path: Path, done: Callable[[Trial, Outcome], None]) -> None:
        def finished(outcome: Outcome) -> None:
            trial.busy = False
            done(trial, outcome)

        trial.busy = True
        try:
            self._ties.changing.swap_model(trial.rollout.name, path, finished)
        except ConfigError as error:  # a reload took the model away
            finished(Outcome(errors=(str(error),)))

    def _work(self, trial: Trial, do: Callable[[], Any], done: Callable[[Trial, Any], None]) -> None:
        """Have `do` done beside; `done` is told on the main thread what it returned, or its `EdgerunError`."""

        def finished(result: Any) -> None:
            trial.busy = False
            if not self._stopped:
                done(trial, result)

        def run() -> None:
            try:
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
                try:
                    result = do()
                except EdgerunError as error:
                    result = error
                self._ties.notices.put(Asked(partial(finished, result)))
            except BaseException as error:  # noqa: BLE001  a thread's body: told, and the run ends with it
                self._ties.notices.put(ThreadDied("rollout", error))

        trial.busy = True
        threading.Thread(target=run, name="rollout", daemon=True).start()

    def _go(self, trial: Trial, event: Event) -> None:
        """The next step: kept, then said. What cannot be kept is not done, unless it takes a version back."""
        before, now_ns = trial.rollout, self._ties.clock.mono_ns()
        after = step(before, event, self._rules, self._ties.clock.unix_s())
        if after == before:
            return
        measured = msgspec.structs.replace(after, comparison=before.comparison, health=before.health) == before
        if not measured or now_ns - trial.kept_ns >= _KEEP_NS:
            trial.kept_ns = now_ns
            if not self._keep(after) and after.state != "rolled_back" and not measured:
                trial.retry_ns = now_ns + _RETRY_NS
                return
        trial.rollout = after
        if (after.state, after.passed) != (before.state, before.passed):
            self._telling.say(trial.rollout)
        elif measured and now_ns - trial.told_ns >= _TELL_NS:
            self._tell(trial)
        if isinstance(event, Failed) and not after.placed and not trial.busy:
            self._answer(trial)  # it never served: there is nothing to wait for

    def _keep(self, rollout: Rollout) -> bool:
        try:
            self._files.write(rollout)
        except DeviceError as error:
            _log.error("%s", error)
            return False
        return True

    def _tell(self, trial: Trial) -> None:
        trial.told_ns = self._ties.clock.mono_ns()
        self._telling.tell(trial.rollout)
