"""What the daemon costs over time, and its slope."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil

MIB = 2**20
_MOST_POINTS = 400
"""More are thinned to medians of equal blocks before slopes are taken: Theil-Sen looks at every pair."""


class Sample(NamedTuple):
    """`passed_s` since the watch began; `load` is the machine's (1 minute)."""

    passed_s: float
    rss_mib: float
    fds: int
    threads: int
    cpu_s: float
    load: float


class Watch:
    """Looks at one process from outside."""

    def __init__(self, pid: int) -> None:
        self.samples: list[Sample] = []
        self._process = psutil.Process(pid)
        self.began_s = time.monotonic()

    def look(self) -> Sample:
        """Take a sample and keep it. Raises `psutil.NoSuchProcess`."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            sample = Sample(
                time.monotonic() - self.began_s,
                self._process.memory_info().rss / MIB,
                self._process.num_fds(),
                self._process.num_threads(),
                times.user + times.system,
                os.getloadavg()[0],
            )
        self.samples.append(sample)
        return sample

    def pss_mib(self) -> float:
        """Its share of the memory it uses, shared pages divided by who shares them."""
        with open(f"/proc/{self._process.pid}/smaps_rollup", encoding="ascii") as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def slope_mib_h(samples: Sequence[Sample]) -> float:
    """Theil-Sen: the median of the slopes of all pairs (Sen, J. Am. Stat. Assoc. 63, 1968), in MiB an hour.

    A burst of memory that is given back does not move it. NaN of fewer than two moments.
    """
    points = _thinned([(one.passed_s / 3600, one.rss_mib) for one in samples])
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2) if b[0] > a[0]]
    return statistics.median(slopes) if slopes else float("nan")


def by_window(samples: Sequence[Sample], window_s: float) -> list[list[Sample]]:
    """The samples of each window, from the first one on; windows without any left out."""
    return [list(group) for _, group in itertools.groupby(samples, lambda one: one.passed_s // window_s)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // _MOST_POINTS) if points else 1
    blocks = [points[at : at + size] for at in range(0, len(points), size)]
    return [(statistics.median(x for x, _ in block), statistics.median(y for _, y in block)) for block in blocks]
