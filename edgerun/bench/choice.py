"""Which of the measured ways to run a model wins: a pure rule, the same figures always give the same winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from edgerun.bench.subject import Subject

Goal = Literal["latency", "throughput", "energy"]

TIE = 0.03
"""Scores within this share of the best are no difference on a machine that does other things too."""


class Trial(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one way to run the model gave, idle and beside a busy neighbour; or why it gave nothing."""

    subject: Subject
    rounds: int = 0
    idle_p50_ms: float | None = None
    idle_p99_ms: float | None = None
    idle_per_s: float | None = None
    load_p50_ms: float | None = None
    load_p99_ms: float | None = None
    load_per_s: float | None = None
    cpu_ms: float | None = None
    """CPU time of one inference, idle."""
    energy_j: float | None = None
    """Of one inference, idle; where a counter can be read."""
    refused: str | None = None


def choose(trials: Sequence[Trial], goal: Goal, max_p99_ms: float | None = None) -> Trial | None:
    """The winner; None when no trial has figures, or none stays under the bound.

    Trials whose p99 is above `max_p99_ms`, idle or under load, are out. Of the rest the lowest `cost` wins; within
    `TIE` of it the fewer threads, then the smaller batch, then the one that was named first.
    """
    able = [(index, trial) for index, trial in enumerate(trials) if _fits(trial, max_p99_ms)]
    by_energy = goal == "energy" and all(trial.energy_j is not None for _, trial in able)
    costs = {index: cost(trial, goal, by_energy=by_energy) for index, trial in able}
    if not costs:
        return None
    limit = min(costs.values()) * (1 + TIE)
    tied = [(index, trial) for index, trial in able if costs[index] <= limit]
    return min(tied, key=lambda one: (one[1].subject.threads, one[1].subject.batch, one[0]))[1]


def rank(trials: Sequence[Trial], goal: Goal, max_p99_ms: float | None = None) -> list[Trial]:
    """Trials in the order in which `choose` would take them one after the other; those that cannot win are left out."""
    left, ranked = list(trials), []
    while (best := choose(left, goal, max_p99_ms)) is not None:
        ranked.append(best)
        left.remove(best)
    return ranked


def cost(trial: Trial, goal: Goal, *, by_energy: bool = False) -> float:
    """What is to be small: latency (p50), seconds per picture, or joules (CPU ms where not `by_energy`) per picture.

    Latency and throughput are the geometric mean of idle and loaded: a device is both in its life, and twice as slow
    in one weighs as much as in the other, however far apart the two are.
    """
    if goal == "latency":
        return math.sqrt((trial.idle_p50_ms or math.inf) * (trial.load_p50_ms or math.inf))
    if goal == "throughput":
        return 1 / math.sqrt((trial.idle_per_s or 1e-9) * (trial.load_per_s or 1e-9))
    value = trial.energy_j if by_energy else trial.cpu_ms
    return value if value is not None else math.inf


def _fits(trial: Trial, max_p99_ms: float | None) -> bool:
    if trial.refused is not None or trial.idle_p99_ms is None or trial.load_p99_ms is None:
        return False
    return max_p99_ms is None or max(trial.idle_p99_ms, trial.load_p99_ms) <= max_p99_ms
