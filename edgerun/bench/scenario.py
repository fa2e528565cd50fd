"""How queries reach the model: the scenarios of MLPerf Inference, and what each is judged by.

V. J. Reddi et al., "MLPerf Inference Benchmark" (ISCA 2020), table III, with the rules of v2.0 and later for
multi-stream. MLPerf runs each for minutes over a fixed data set; here a run lasts as long as it is told.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from edgerun.clock import SystemClock

Scenario = Literal["single-stream", "multi-stream", "offline", "server"]

DEFINITIONS: dict[Scenario, str] = {
    "single-stream": "the next query goes out when the last is answered, one sample each; judged by p90 latency",
    "multi-stream": "the next query goes out when the last is answered, N samples each (8); judged by p99 latency",
    "offline": "all samples are there at once; judged by throughput",
    "server": "queries arrive at random (Poisson), one sample each; judged by the most queries a second at which "
    "p99 latency, waiting included, stays under the bound",
}
SAMPLES_PER_QUERY = 8
"""Of a multi-stream query (MLPerf Inference rules, v2.0)."""
HOPELESS = 20.0
"""A server run is given up when a query took this many times its bound: the queue only grows."""


class Trace(msgspec.Struct, frozen=True):
    """What one run saw: each query's latency, how many pictures were inferred, how long it all took (ns)."""

    latency_ns: list[int]
    pictures: int
    wall_ns: int
    gave_up: bool = False


Run = Callable[[int], None]
"""Infers so many pictures at once."""


def back_to_back(
    run: Run, *, samples: int, batch: int, iterations: int | None = None, duration_s: float | None = None
) -> Trace:
    """Query after query of `samples` pictures, in calls of at most `batch`, until one of the limits is reached.

    There is at least one query. Raises `ValueError` without a limit.
    """
    if iterations is None and duration_s is None:
        raise ValueError("a run needs iterations or a duration")
    calls = [batch] * (samples // batch) + ([samples % batch] if samples % batch else [])
    latency_ns: list[int] = []
    now_ns = time.perf_counter_ns
    began_ns = last_ns = now_ns()
    ends_ns = began_ns + round(duration_s * 1e9) if duration_s is not None else None
    while True:
        for count in calls:
            run(count)
        done_ns = now_ns()
        latency_ns.append(done_ns - last_ns)
        last_ns = done_ns
        if len(latency_ns) == iterations or (ends_ns is not None and done_ns >= ends_ns):
            return Trace(latency_ns, samples * len(latency_ns), last_ns - began_ns)


def arrivals_ns(rate_per_s: float, count: int, seed: int) -> list[int]:
    """When each of `count` queries arrives (ns from the start, not decreasing): a Poisson process of that rate.

    The times between arrivals of a Poisson process are exponentially distributed with mean 1 / rate.
    """
    draw = random.Random(seed)
    at_s, times = 0.0, []
    for _ in range(count):
        at_s += draw.expovariate(rate_per_s)
        times.append(round(at_s * 1e9))
    return times


def serve(run: Run, arrivals: Sequence[int], *, batch: int, bound_ms: float | None = None) -> Trace:
    """Answer queries that arrive at `arrivals` (ns from now), first come first served, from one thread.

    What has arrived while the model was busy is inferred together, at most `batch` at once. A query's latency counts
    from its arrival, not from when it was taken. With `bound_ms` a run that cannot recover is given up.
    """
    clock, never = SystemClock(), threading.Event()
    latency_ns: list[int] = []
    began_ns = time.perf_counter_ns()
    while len(latency_ns) < len(arrivals):
        first = len(latency_ns)
        while (early_ns := arrivals[first] - (time.perf_counter_ns() - began_ns)) > 0:
            clock.wait(never, early_ns / 1e9)
        now_ns = time.perf_counter_ns() - began_ns
        count = 1
        while count < batch and first + count < len(arrivals) and arrivals[first + count] <= now_ns:
            count += 1
        run(count)
        done_ns = time.perf_counter_ns() - began_ns
        latency_ns += [done_ns - arrived_ns for arrived_ns in arrivals[first : first + count]]
        if bound_ms is not None and latency_ns[-1] > HOPELESS * bound_ms * 1e6:
            return Trace(latency_ns, len(latency_ns), done_ns, gave_up=True)
    return Trace(latency_ns, len(latency_ns), time.perf_counter_ns() - began_ns)


def highest_rate(meets: Callable[[float], bool], ceiling: float, steps: int = 6) -> float:
    """The highest rate found to meet the bound, by halving the range from 0 to `ceiling`; 0.0 when none did.

    The answer is one that was tried, and within `ceiling / 2**steps` of the true one where meeting it is monotonic.
    """
    low, high = 0.0, ceiling
    for _ in range(steps):
        middle = (low + high) / 2
        if meets(middle):
            low = middle
        else:
            high = middle
    return low
