"""The best way to run a model on this machine: runtime, accelerator, threads and batch, idle and under load."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence

import msgspec

from edgerun.bench.choice import Goal, Trial, choose, rank
from edgerun.bench.engine import Plan, Progress, Round, summarise_rounds
from edgerun.bench.neighbour import busy_neighbour
from edgerun.bench.pool import SubjectPool
from edgerun.bench.subject import RuntimeChoice, Subject
from edgerun.errors import ConfigError, EdgerunError, MissingError, ModelError
from edgerun.infer import ACCELERATORS
from edgerun.infer.runtime import find_runtime
from edgerun.secret import Kind

BATCHES = (1, 2, 4, 8)
_FINALISTS = 3
_ROUNDS = 5
"""Rounds of a finalist, the first of which is that of the heats."""
_FEWEST = 2
"""Final rounds whatever the time: with the heat's a median of three."""
_SHORTEST_S, _LONGEST_S = 0.05, 2.0
_MAX_DELAY_MS = 20
"""Written beside a batch above 1: the longest a picture waits for company (performance.md's example)."""


class Tuning(msgspec.Struct, frozen=True):
    """Everything that was tried, in order, and the winner as its index; None when nothing fits."""

    goal: Goal
    trials: list[Trial]
    winner: int | None
    measured_by: str
    """What decided: "p50", "throughput", "energy counter" or "CPU time"."""
    max_p99_ms: float | None = None


def tune(
    model: str,
    goal: Goal,
    *,
    also: Sequence[str] = (),
    max_p99_ms: float | None = None,
    budget_s: float = 60.0,
    threads: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    key: tuple[Kind, str] | None = None,
    progress: Progress = lambda text: None,
) -> Tuning:
    """Measure every candidate once, idle and beside a busy neighbour, then the best few again, round by round.

    Each runs in a process of its own, so that a runtime that crashes is a row of the table. Half of `budget_s` goes to
    the first look at all of them, half to the finalists, loading not counted; once it is spent no round is begun beyond
    the fewest that make a median. Raises what loading a model file raises, `ModelError` when no candidate opens.
    """
    candidates = list(find_candidates(model, also, goal, threads, batches, key))
    first_s = min(_LONGEST_S, max(_SHORTEST_S, budget_s / 2 / (2 * len(candidates))))
    final_s = min(_LONGEST_S, max(_SHORTEST_S, budget_s / 2 / (2 * _FINALISTS * (_ROUNDS - 1))))
    plan = Plan(warmup=5, rounds=1, duration_s=first_s, scenario="offline")
    record = _Record(candidates)
    with SubjectPool(plan) as pool:
        began_s = time.monotonic()
        for number, subject in enumerate(candidates):
            progress(f"{number + 1} of {len(candidates)}: {describe(subject)}")
            record.run(pool, subject, plan)
        final_plan = msgspec.structs.replace(plan, duration_s=final_s)
        finalists = [trial.subject for trial in rank(record.trials(), goal, max_p99_ms)[:_FINALISTS]]
        for number in range(1, _ROUNDS):
            if number > _FEWEST and time.monotonic() - began_s > budget_s:
                break
            progress(f"final round {number} of {_ROUNDS - 1}")
            for subject in finalists if number % 2 else reversed(finalists):
                record.run(pool, subject, final_plan)
    trials = record.trials()
    if all(trial.refused is not None for trial in trials):
        raise ModelError("no way to run it works on this machine", where=model, got=trials[0].refused)
    # Only finalists have been measured often enough to be compared with each other.
    best = choose([one for one in trials if one.subject in finalists], goal, max_p99_ms)
    winner = trials.index(best) if best is not None else None
    return Tuning(goal, trials, winner, _measured_by(goal, trials), max_p99_ms)


def find_candidates(
    model: str,
    also: Sequence[str],
    goal: Goal,
    threads: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    key: tuple[Kind, str] | None = None,
) -> Iterator[Subject]:
    """Every way to run the model, those to be preferred in a tie first. Raises `ConfigError` or `ModelError`.

    Runtimes: those that can run an artefact of the bundle or of the `also` files. Batches above 1 only where more than
    latency counts. `tflite-runtime` is tried only where it can be used.
    """
    threads = tuple(threads) if threads else thread_counts(len(os.sched_getaffinity(0)))
    batches = tuple(batches) if batches else (1,) if goal == "latency" else BATCHES
    for name in (model, *also):
        bundle = Subject(name, key=key).load()
        made_for = {one for artifact in bundle.artifacts for one in artifact.accelerators}
        accelerators = [one for one in ACCELERATORS if one in made_for] or ["cpu"]
        for kind in dict.fromkeys(artifact.format for artifact in bundle.artifacts):
            runtimes: list[RuntimeChoice] = _runtimes() if kind == "tflite" else ["auto"]
            for runtime in runtimes:
                for accelerator in accelerators:
                    for count in threads:
                        for batch in batches:
                            yield Subject(
                                name,
                                engine=kind,
                                runtime=runtime,
                                accelerators=(accelerator,),
                                threads=count,
                                batch=batch,
                                key=key,
                            )


def thread_counts(cores: int) -> tuple[int, ...]:
    """1 to `cores`, each up to 8, then doubling, and all of them."""
    doubled = [count for count in (16, 32, 64, 128) if count < cores]
    return (*range(1, min(cores, 8) + 1), *doubled, *((cores,) if cores > 8 else ()))


def config_lines(subject: Subject, name: str) -> str:
    """The winner as lines of a config (TOML)."""
    lines = [
        f"[models.{name}]",
        f"path = {json.dumps(subject.model)}",
        f"engine = {json.dumps(subject.engine)}",
    ]
    if subject.engine == "tflite":
        lines.append(f"runtime = {json.dumps(subject.runtime)}")
    lines += [f"accelerators = {json.dumps(list(subject.accelerators))}", f"threads = {subject.threads}"]
    if subject.batch > 1:
        lines.append(f"batch = {{ max = {subject.batch}, max_delay_ms = {_MAX_DELAY_MS} }}")
    return "\n".join(lines)


def describe(subject: Subject) -> str:
    """One candidate in a few words."""
    runtime = "onnxruntime" if subject.engine == "onnx" else subject.runtime
    threads = f"{subject.threads} thread{'s' * (subject.threads != 1)}"
    return f"{runtime}, {subject.accelerators[0]}, {threads}, batch {subject.batch}"


class _Record:
    """The rounds of each candidate."""

    def __init__(self, candidates: Sequence[Subject]) -> None:
        self._candidates = candidates
        self._idle: dict[Subject, list[Round]] = {one: [] for one in candidates}
        self._load: dict[Subject, list[Round]] = {one: [] for one in candidates}
        self._refused: dict[Subject, str] = {}
        self._closed: dict[tuple[object, ...], str] = {}
        """Runtimes and accelerators that refuse this model with whatever threads."""

    def run(self, pool: SubjectPool, subject: Subject, plan: Plan) -> None:
        """One round idle and one under load; a candidate that was refused is not asked again."""
        if subject in self._refused:
            return
        reason = self._closed.get(_door(subject)) or self._refused_batch(subject)
        if reason is not None:
            self._refused[subject] = reason
            return
        try:
            idle = pool.run_round(subject, plan)
            with busy_neighbour():
                load = pool.run_round(subject, plan)
        except ConfigError:
            raise
        except EdgerunError as error:
            self._refused[subject] = str(error)
            if subject.batch == 1 and not self._idle[subject]:
                self._closed[_door(subject)] = str(error)
            return
        self._idle[subject].append(idle)
        self._load[subject].append(load)

    def _refused_batch(self, subject: Subject) -> str | None:
        """Why a smaller batch above 1 was refused, which goes for this one too; None where none was."""
        for one, reason in self._refused.items():
            if 1 < one.batch < subject.batch and msgspec.structs.replace(subject, batch=one.batch) == one:
                return reason
        return None

    def trials(self) -> list[Trial]:
        return [self._trial(one) for one in self._candidates]

    def _trial(self, subject: Subject) -> Trial:
        if subject in self._refused or not self._idle[subject]:
            return Trial(subject, refused=self._refused.get(subject, "not measured"))
        idle, load = summarise_rounds(self._idle[subject]), summarise_rounds(self._load[subject])
        return Trial(
            subject,
            rounds=len(self._idle[subject]),
            idle_p50_ms=idle.latency_ms["p50"],
            idle_p99_ms=idle.latency_ms["p99"],
            idle_per_s=idle.throughput_per_s,
            load_p50_ms=load.latency_ms["p50"],
            load_p99_ms=load.latency_ms["p99"],
            load_per_s=load.throughput_per_s,
            cpu_ms=idle.cpu_ms_per_inference,
            energy_j=idle.energy_j_per_inference,
        )


def _door(subject: Subject) -> tuple[object, ...]:
    return subject.model, subject.engine, subject.runtime, subject.accelerators


def _runtimes() -> list[RuntimeChoice]:
    """The TFLite runtimes that can be used here; `litert` when none can, so that its absence is told."""
    usable: list[RuntimeChoice] = []
    names: tuple[RuntimeChoice, ...] = ("litert", "tflite-runtime")
    for name in names:
        try:
            find_runtime(name)
        except MissingError:
            continue
        usable.append(name)
    return usable or ["litert"]


def _measured_by(goal: Goal, trials: Sequence[Trial]) -> str:
    if goal != "energy":
        return {"latency": "p50", "throughput": "throughput"}[goal]
    measured = [trial for trial in trials if trial.refused is None]
    return "energy counter" if all(trial.energy_j is not None for trial in measured) else "CPU time"
