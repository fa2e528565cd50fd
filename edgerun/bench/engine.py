"""Engine mode: one model, its queries back to back or as a scenario says, and what that costs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from edgerun.bench.energy import RoundWatch
from edgerun.bench.samples import median, median_of, summarise_ms
from edgerun.bench.scenario import SAMPLES_PER_QUERY, Scenario, Trace, arrivals_ns, back_to_back, highest_rate, serve
from edgerun.bench.subject import OpenSubject, Subject
from edgerun.clock import SystemClock
from edgerun.device.load import LoadSensor, process_started_ns
from edgerun.device.machine import Machine
from edgerun.errors import ConfigError

Progress = Callable[[str], None]
"""Told what is being done, for whoever looks on."""

_EXEC_AFTER_NS = 5_000_000_000
"""A process that opens its model later than this after its start did something else before."""
_SEED = 7
_REST_S = 1.0


class Plan(msgspec.Struct, frozen=True):
    """How long and in which way. `iterations` and `duration_s` are of one round; whichever is reached first ends it.

    `samples` are the pictures of one query: by default the batch, in multi-stream 8. `qps` and `bound_ms` belong to
    the server scenario: without `qps` the highest rate under the bound is searched.
    """

    warmup: int = 10
    rounds: int = 5
    iterations: int | None = None
    duration_s: float | None = 1.0
    scenario: Scenario = "single-stream"
    samples: int | None = None
    qps: float | None = None
    bound_ms: float | None = None


class Round(msgspec.Struct, frozen=True, omit_defaults=True):
    """One round's figures: latency of a query (ms), pictures a second, CPU and energy of one picture."""

    queries: int
    latency_ms: dict[str, float]
    throughput_per_s: float
    cpu_ms: float
    energy_j: float | None = None
    """Beyond what the machine draws at rest."""
    stages_ms: dict[str, float] = {}
    """Median of each stage, where stages are measured."""
    gave_up: bool = False
    slowed: list[str] = []
    """Why the round is unfit to be compared: the machine was throttled, capped or held to a quota meanwhile."""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """Medians over the rounds, and the rounds themselves. What the machine does not tell is left out."""

    model: str
    version: str
    runtime: str
    accelerator: str
    threads: int
    batch: int
    stage: str
    scenario: str
    input: str
    latency_ms: dict[str, float]
    """Medians over the rounds; `max` is the largest of all."""
    throughput_per_s: float
    cpu_ms_per_inference: float
    load_s: float
    rounds: list[Round]
    samples_per_query: int = 1
    energy_j_per_inference: float | None = None
    energy_source: str | None = None
    idle_w: float | None = None
    """What the machine draws at rest, which is not in the energy of an inference."""
    unfit: list[str] = []
    """What slowed the machine down during a round; empty: nothing that it tells of."""
    rss_mib: float | None = None
    start_to_first_inference_s: float | None = None
    stages_ms: dict[str, float] = {}
    result: dict[str, float] = {}
    """What the scenario is judged by, one figure under its name."""
    fallbacks: list[list[str]] = []


class Session:
    """An open subject, warmed up, ready for rounds; `machine` is looked at meanwhile, this one if not another."""

    def __init__(self, subject: Subject, plan: Plan, machine: Machine | None = None) -> None:
        check_plan(plan)
        self.subject = subject
        rested_ns = time.monotonic_ns()
        self._watch = RoundWatch(machine)
        self._watch.rest(_REST_S)
        opening_ns = time.monotonic_ns()
        rested_ns = opening_ns - rested_ns
        self.start_s: float | None = None
        self._plan = plan
        try:
            self._open = OpenSubject(subject)
        except BaseException:
            self._watch.close()
            raise
        try:
            self._open.run(subject.batch)
            self.start_s = _since_start(opening_ns, rested_ns)
            for _ in range(max(0, plan.warmup - 1)):
                self._open.run(subject.batch)
        except BaseException:
            self.close()
            raise

    def run_round(self, plan: Plan | None = None) -> Round:
        """One round. Raises `EngineError` or `FrameError`."""
        plan = plan or self._plan
        for stage in self._open.stages_ns.values():
            stage.clear()
        self._watch.begin()
        collecting = gc.isenabled()
        gc.disable()  # as `timeit` does: a collection of the benchmark's own samples is no latency of the model
        cpu_ns = time.process_time_ns()
        try:
            trace = self._run_scenario(plan)
        finally:
            if collecting:
                gc.enable()
        cpu_ns = time.process_time_ns() - cpu_ns
        facts = self._watch.end()
        return Round(
            queries=len(trace.latency_ns),
            latency_ms=summarise_ms(trace.latency_ns),
            throughput_per_s=round(trace.pictures / (trace.wall_ns / 1e9), 3),
            cpu_ms=round(cpu_ns / 1e6 / trace.pictures, 4),
            energy_j=round(facts.work_j / trace.pictures, 6) if facts.work_j is not None else None,
            stages_ms={name: round(median(ns) / 1e6, 4) for name, ns in self._open.stages_ns.items() if ns},
            gave_up=trace.gave_up,
            slowed=list(facts.slowed),
        )

    def report(self, rounds: Sequence[Round], plan: Plan | None = None) -> Report:
        """`rounds` as a report, with what is known of the subject."""
        plan, subject, opened = plan or self._plan, self.subject, self._open
        scenario = plan.scenario
        figures = summarise_rounds(rounds)
        if scenario == "server":
            met = plan.bound_ms is None or not misses(figures.latency_ms, rounds, plan.bound_ms)
            result = {"queries_per_s": round(plan.qps or 0.0, 3) if met else 0.0}
        else:
            result = judge(scenario, figures)
        rss_mib = next((r.value for r in LoadSensor(SystemClock()).read() if r.name == "rss_mib"), None)
        return Report(
            model=opened.bundle.name,
            version=opened.bundle.version,
            runtime=opened.info.runtime,
            accelerator=opened.info.accelerator,
            threads=subject.threads,
            batch=subject.batch,
            stage=subject.stage,
            scenario=scenario,
            input=opened.input,
            load_s=round(opened.load_s, 3),
            rounds=list(rounds),
            samples_per_query=samples_of(plan, subject.batch),
            energy_source=self._watch.source,
            idle_w=round(self._watch.idle_w, 3) if self._watch.idle_w is not None else None,
            unfit=list(dict.fromkeys(reason for one in rounds for reason in one.slowed)),
            rss_mib=round(rss_mib, 1) if rss_mib is not None else None,
            start_to_first_inference_s=round(self.start_s, 3) if self.start_s is not None else None,
            fallbacks=[list(pair) for pair in opened.info.fallbacks],
            result=result,
            **msgspec.structs.asdict(figures),
        )

    def close(self) -> None:
        """Free the engine. Idempotent."""
        self._watch.close()
        self._open.close()

    def _run_scenario(self, plan: Plan) -> Trace:
        batch, run = self.subject.batch, self._open.run
        if plan.scenario != "server":
            return back_to_back(
                run,
                samples=samples_of(plan, batch),
                batch=batch,
                iterations=plan.iterations,
                duration_s=plan.duration_s,
            )
        assert plan.qps is not None, "measure() has searched for it"
        count = plan.iterations or max(1, round((plan.duration_s or 1.0) * plan.qps))
        return serve(run, arrivals_ns(plan.qps, count, _SEED), batch=batch, bound_ms=plan.bound_ms)


def measure(subject: Subject, plan: Plan, progress: Progress = lambda text: None) -> Report:
    """Open, warm up, run the rounds, close. Raises what `OpenSubject` does, and `EngineError` when a call fails."""
    progress(f"loading {subject.model}")
    session = Session(subject, plan)
    try:
        if plan.scenario == "server" and plan.qps is None:
            plan = msgspec.structs.replace(plan, qps=_search_rate(session, plan, progress))
        rounds = []
        for number in range(plan.rounds):
            progress(f"round {number + 1} of {plan.rounds}")
            rounds.append(session.run_round(plan))
        return session.report(rounds, plan)
    finally:
        session.close()


class Figures(msgspec.Struct, frozen=True):
    """The fields of `Report` that are medians over its rounds."""

    latency_ms: dict[str, float]
    throughput_per_s: float
    cpu_ms_per_inference: float
    energy_j_per_inference: float | None
    stages_ms: dict[str, float]


def summarise_rounds(rounds: Sequence[Round]) -> Figures:
    """Medians over `rounds`; the `max` of the latencies is the largest. Raises `ValueError` when there are none."""
    latency_ms = {key: round(value, 3) for key, value in median_of([one.latency_ms for one in rounds]).items()}
    latency_ms["max"] = max(one.latency_ms["max"] for one in rounds)
    energies = [one.energy_j for one in rounds if one.energy_j is not None]
    return Figures(
        latency_ms=latency_ms,
        throughput_per_s=round(median([one.throughput_per_s for one in rounds]), 3),
        cpu_ms_per_inference=round(median([one.cpu_ms for one in rounds]), 4),
        energy_j_per_inference=round(median(energies), 6) if len(energies) == len(rounds) else None,
        stages_ms=median_of([one.stages_ms for one in rounds]),
    )


def judge(scenario: Scenario, figures: Figures) -> dict[str, float]:
    """The one figure that MLPerf judges a scenario by, under its name."""
    if scenario == "single-stream":
        return {"p90_latency_ms": figures.latency_ms["p90"]}
    if scenario == "multi-stream":
        return {"p99_latency_ms": figures.latency_ms["p99"]}
    return {"throughput_per_s": figures.throughput_per_s}


def samples_of(plan: Plan, batch: int) -> int:
    """How many pictures one query has."""
    if plan.scenario == "server":
        return 1
    return plan.samples or (SAMPLES_PER_QUERY if plan.scenario == "multi-stream" else batch)


def check_plan(plan: Plan) -> None:
    """Raises `ConfigError` for a plan that says too little."""
    if plan.scenario == "server" and plan.qps is None and plan.bound_ms is None:
        raise ConfigError(
            "the server scenario is judged by its latency bound",
            where="--scenario server",
            expected="--max-p99 MS to search the highest rate, or --qps RATE to measure one",
        )


def misses(latency_ms: Mapping[str, float], rounds: Sequence[Round], max_p99_ms: float) -> bool:
    """Whether the gate is missed: p99, the median over the rounds, is above the bound, or a round was given up."""
    return latency_ms["p99"] > max_p99_ms or any(one.gave_up for one in rounds)


def _search_rate(session: Session, plan: Plan, progress: Progress) -> float:
    """The highest rate (queries/s) whose p99 stays under the bound; the lowest one tried where none did.

    The ceiling is what the model does back to back.
    """
    free = msgspec.structs.replace(plan, scenario="offline", samples=None)
    ceiling = session.run_round(free).throughput_per_s
    lowest = ceiling

    def meets(qps: float) -> bool:
        nonlocal lowest
        lowest = min(lowest, qps)
        progress(f"trying {qps:.1f} queries/s")
        one = session.run_round(msgspec.structs.replace(plan, qps=qps))
        return plan.bound_ms is not None and not misses(one.latency_ms, [one], plan.bound_ms)

    return highest_rate(meets, ceiling) or lowest


def _since_start(opening_ns: int, rested_ns: int) -> float | None:
    """Seconds from the start of this process until now, without those at rest.

    None where it is not known, or the process did other things before.
    """
    started_ns = process_started_ns()
    if started_ns is None or opening_ns - started_ns - rested_ns > _EXEC_AFTER_NS:
        return None
    return (time.monotonic_ns() - started_ns - rested_ns) / 1e9
