"""Two models, or two saved reports, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgerun.bench.engine import Plan, Progress, Report, Round, check_plan
from edgerun.bench.pool import SubjectPool
from edgerun.bench.samples import Spread, ratio
from edgerun.bench.subject import Subject
from edgerun.decoding import decode
from edgerun.errors import ConfigError

METRICS: dict[str, Callable[[Round], float | None]] = {
    "p50_ms": lambda one: one.latency_ms.get("p50"),
    "p90_ms": lambda one: one.latency_ms.get("p90"),
    "p99_ms": lambda one: one.latency_ms.get("p99"),
    "throughput_per_s": lambda one: one.throughput_per_s,
    "cpu_ms": lambda one: one.cpu_ms,
    "energy_j": lambda one: one.energy_j,
}


class Comparison(msgspec.Struct, frozen=True):
    """B measured against A: for each figure B / A as the ratio of medians, and the extremes of the pairs of rounds."""

    a: Report
    b: Report
    ratios: dict[str, Spread]
    paired: bool
    """Whether the rounds alternated in one run; of saved reports the extremes are of rounds that never met."""


def compare_models(a: Subject, b: Subject, plan: Plan, progress: Progress = lambda text: None) -> Comparison:
    """Both, each in a process of its own, round after round in turn: A B, then B A, and so on.

    Alternating lets what the machine does besides reach both; swapping the order lets neither always go first. Raises
    `ConfigError` for a server scenario without its rate, and what opening a subject raises.
    """
    check_plan(plan)
    if plan.scenario == "server" and plan.qps is None:
        raise ConfigError("two models are compared at the same rate", where="--scenario server", expected="--qps RATE")
    rounds: dict[str, list[Round]] = {"a": [], "b": []}
    subjects = {"a": a, "b": b}
    with SubjectPool(plan) as pool:
        # The same subject twice shares one process: then the ratios show this machine's noise.
        for number in range(plan.rounds):
            for side in ("a", "b") if number % 2 == 0 else ("b", "a"):
                progress(f"round {number + 1} of {plan.rounds}: {subjects[side].model}")
                rounds[side].append(pool.run_round(subjects[side]))
        reports = {side: pool.get(subjects[side]).report(rounds[side]) for side in ("a", "b")}
    return Comparison(reports["a"], reports["b"], ratios(rounds["a"], rounds["b"]), paired=True)


def compare_reports(a: Path, b: Path) -> Comparison:
    """Two reports that `edgerun bench --json` wrote. Raises `ConfigError` when one is none."""
    first, second = read_report(a), read_report(b)
    return Comparison(first, second, ratios(first.rounds, second.rounds), paired=False)


def ratios(a: Sequence[Round], b: Sequence[Round]) -> dict[str, Spread]:
    """B / A of every figure that all rounds of both have, where A's is never 0."""
    found = {}
    for name, figure in METRICS.items():
        below = [value for value in map(figure, a) if value]
        above = [value for value in map(figure, b) if value is not None]
        if len(below) == len(a) and len(above) == len(b) and below and above:
            found[name] = ratio(above, below)
    return found


def read_report(path: Path) -> Report:
    """A saved report. Raises `ConfigError`."""
    try:
        content = path.read_bytes()
        report: Report = decode(content.strip().rpartition(b"\n")[2], Report)
        if not report.rounds:
            raise ValueError("it has no rounds")
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        got = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            "not a saved report", where=path, expected="what edgerun bench MODEL --json wrote", got=got
        ) from error
    return report
