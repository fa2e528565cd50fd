"""Threads × batch: what each combination gives, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgerun.bench.engine import Plan, Progress, Round, summarise_rounds
from edgerun.bench.pool import SubjectPool
from edgerun.bench.subject import Subject
from edgerun.errors import ModelError


class Point(msgspec.Struct, frozen=True, omit_defaults=True):
    """One combination: what it gave, or why it could not be measured. Latency is that of one call (ms)."""

    threads: int
    batch: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    throughput_per_s: float | None = None
    throughput_min_per_s: float | None = None
    throughput_max_per_s: float | None = None
    cpu_ms_per_inference: float | None = None
    energy_j_per_inference: float | None = None
    refused: str | None = None
    frontier: bool = False
    """Whether no other combination has both a lower latency and a higher throughput."""


class Sweep(msgspec.Struct, frozen=True):
    """Every combination in the order asked for."""

    model: str
    points: list[Point]


def sweep(
    subject: Subject, plan: Plan, threads: Sequence[int], batches: Sequence[int], progress: Progress = lambda text: None
) -> Sweep:
    """Measure every combination, round by round in turn, each in a process of its own.

    A batch the model refuses is a row that says so. Raises what opening the model raises when no combination opens.
    """
    plan = msgspec.structs.replace(plan, scenario="offline", samples=None)
    subjects = [msgspec.structs.replace(subject, threads=t, batch=b) for t in threads for b in batches]
    rounds: dict[Subject, list[Round]] = {one: [] for one in subjects}
    refused: dict[Subject, ModelError] = {}
    with SubjectPool(plan) as pool:
        for number in range(plan.rounds):
            for one in subjects:
                if one in refused:
                    continue
                progress(f"round {number + 1} of {plan.rounds}: {one.threads} threads, batch {one.batch}")
                try:
                    rounds[one].append(pool.run_round(one))
                except ModelError as error:
                    if one.batch == 1:
                        raise
                    refused[one] = error
    points = [_point(one, rounds[one], refused.get(one)) for one in subjects]
    return Sweep(subject.model, mark_frontier(points))


def mark_frontier(points: Sequence[Point]) -> list[Point]:
    """`points` with those marked that no other beats: lower or equal p50 and higher or equal throughput, one of them
    strictly. Points without figures are never marked.
    """

    def beaten(one: Point) -> bool:
        return any(_beats(other, one) for other in points)

    return [
        msgspec.structs.replace(one, frontier=one.throughput_per_s is not None and not beaten(one)) for one in points
    ]


def _beats(one: Point, other: Point) -> bool:
    if one.p50_ms is None or other.p50_ms is None or one.throughput_per_s is None or other.throughput_per_s is None:
        return False
    better = one.p50_ms < other.p50_ms or one.throughput_per_s > other.throughput_per_s
    return better and one.p50_ms <= other.p50_ms and one.throughput_per_s >= other.throughput_per_s


def _point(subject: Subject, rounds: Sequence[Round], refused: ModelError | None) -> Point:
    if refused is not None:
        return Point(subject.threads, subject.batch, refused=str(refused))
    figures = summarise_rounds(rounds)
    rates = [one.throughput_per_s for one in rounds]
    return Point(
        subject.threads,
        subject.batch,
        p50_ms=figures.latency_ms["p50"],
        p99_ms=figures.latency_ms["p99"],
        throughput_per_s=figures.throughput_per_s,
        throughput_min_per_s=min(rates),
        throughput_max_per_s=max(rates),
        cpu_ms_per_inference=figures.cpu_ms_per_inference,
        energy_j_per_inference=figures.energy_j_per_inference,
    )
