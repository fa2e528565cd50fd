"""Fifty thousand messages are replayed behind live ones, which arrive as fresh as ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.delivery.harness import Arrival, Site, note, percentile
from tests.delivery.publisher import STREAMS

LIVE_RATE = 30


def ages_ms(arrivals: list[Arrival]) -> list[float]:
    return [(a.came_ns - a.sent_ns) / 1e6 for a in arrivals if not a.replayed]


def replay(folder: Path, count: int, rate: float) -> tuple[float, float]:
    """The 99th percentile of the age of live results, ms: during the replay and after it."""
    with Site(folder, "outage").up() as site:
        site.line.locked.set()
        site.start(rate=4_000, count=count, limit=20_000)
        site.published(count)
        site.stop()  # which writes what was published a moment before
        site.line.locked.clear()
        site.start(rate=LIVE_RATE, spool={"replay_rate": rate})
        replaying, first = site.runs[-1], site.runs[0]
        site.consumer.wait(lambda arrivals: replayed(arrivals) >= count, 110)
        during = ages_ms([a for a in list(site.consumer.arrivals) if a.run == replaying])
        at = len(site.consumer.arrivals)
        site.consumer.wait(lambda arrivals: len(arrivals) >= at + max(100, len(during)))
        usual = ages_ms(list(site.consumer.arrivals)[at:])
        report = site.settle()
    report.check()
    arrivals = [a for a in site.consumer.arrivals if a.run == first]
    assert len({a.number for a in arrivals}) == count
    assert len(arrivals) == count, "nobody was killed, no line was lost: nothing comes twice"
    for stream in STREAMS:
        numbers = [a.number for a in arrivals if a.stream == stream]
        assert numbers == sorted(numbers)
    worst, normal = percentile(during, 99), percentile(usual, 99)
    note(
        f"replay of {count} at {rate:g}/s, {LIVE_RATE}/s live: age of live p50/p99 {percentile(during, 50):.1f}/"
        f"{worst:.1f} ms during ({len(during)}), {percentile(usual, 50):.1f}/{normal:.1f} ms after"
    )
    return worst, normal


def replayed(arrivals: list[Arrival]) -> int:
    return sum(a.replayed for a in arrivals)


def test_a_replay_of_five_thousand(tmp_path: Path) -> None:
    replay(tmp_path, 5_000, 2_000.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_replay_of_fifty_thousand(tmp_path: Path) -> None:
    worst, normal = replay(tmp_path, 50_000, 1_000.0)
    assert worst <= 2 * normal + 50.0, "the noise of a shared machine apart"
