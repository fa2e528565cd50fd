"""What was promised against what was seen, as rows that are true, false or cannot be told."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tools.soak_parts.watch import Sample, slope_mib_h

FATES = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed")
BUDGET_MIB_H = 1.0
"""performance.md: resident memory is flat, less than this after warm-up."""
SHORT_MIB_H = 2.0
"""What a run of ten minutes can tell apart (tests/test_soak.py)."""
LONG_S, SHORT_S = 1800.0, 420.0
"""Watched after warm-up for at least so long, a run is measured against the budget, and against what can be told."""
STOP_S = 5.0


class Row(NamedTuple):
    """`holds` None: this run cannot tell."""

    what: str
    seen: str
    bound: str
    holds: bool | None


class Seen(NamedTuple):
    """A run that is over. `first` and `last` were taken while nothing was wrong, `warm` after the warm-up."""

    code: int
    stop_s: float
    summary: Mapping[str, Any] | None
    max_age_ms: float
    missing: int
    live_twice: int
    disorder: int
    foreign: int
    torn: int
    tracebacks: int
    away: Sequence[str]
    oldest_ms: float
    warm: Sequence[Sample]
    first: Sample
    last: Sample


def judge(seen: Seen) -> list[Row]:
    """Every row of the verdict."""
    streams = {} if seen.summary is None else seen.summary["streams"]
    return [
        Row("the daemon ran to its end", f"exit code {seen.code}", "0", seen.code == 0 and bool(streams)),
        Row("SIGTERM to exit", f"{seen.stop_s:.1f} s", f"≤ {STOP_S:g} s", seen.stop_s <= STOP_S),
        *(_conserved(name, one) for name, one in streams.items()),
        Row("streams without results at the end", "; ".join(seen.away) or "none", "none", not seen.away),
        Row("results lost", str(seen.missing), "0", seen.missing == 0),
        Row("live results that came twice", str(seen.live_twice), "0", seen.live_twice == 0),
        Row("results out of order in their stream", str(seen.disorder), "0", seen.disorder == 0),
        Row("results of another run, torn ones", str(seen.foreign + seen.torn), "0", seen.foreign + seen.torn == 0),
        Row("tracebacks in the log", str(seen.tracebacks), "0", seen.tracebacks == 0),
        Row(
            "oldest result published",
            f"{seen.oldest_ms:.0f} ms",
            f"≤ {seen.max_age_ms:g} ms",
            seen.oldest_ms <= seen.max_age_ms,
        ),
        _memory(seen.warm),
        Row(
            "open files, first and last",
            f"{seen.first.fds}, {seen.last.fds}",
            "not more",
            seen.last.fds <= seen.first.fds,
        ),
        Row(
            "threads, first and last",
            f"{seen.first.threads}, {seen.last.threads}",
            "not more",
            seen.last.threads <= seen.first.threads,
        ),
    ]


def passed(rows: Sequence[Row]) -> bool:
    """Whether nothing that can be told is false."""
    return all(row.holds is not False for row in rows)


def percentile(values: Sequence[float], percent: int) -> float:
    """NaN of nothing; of one value that value."""
    if len(values) < 2:
        return values[0] if values else math.nan
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _conserved(name: str, stream: Mapping[str, Any]) -> Row:
    ends = sum(stream[fate] for fate in FATES)
    seen = f"{stream['grabbed']} grabbed, {ends} ended, {stream['in_flight']} in flight"
    return Row(f"frames of {name}", seen, "equal, none", stream["grabbed"] == ends and not stream["in_flight"])


def _memory(warm: Sequence[Sample]) -> Row:
    watched_s = warm[-1].passed_s - warm[0].passed_s if warm else 0.0
    what, slope = "resident memory after warm-up", slope_mib_h(warm)
    if watched_s < SHORT_S:
        return Row(what, f"{slope:+.1f} MiB/h", f"a run of {watched_s / 60:.0f} min cannot tell", None)
    bound = BUDGET_MIB_H if watched_s >= LONG_S else SHORT_MIB_H
    return Row(what, f"{slope:+.2f} MiB/h", f"< {bound:g} MiB/h", slope < bound)
