"""Fifty thousand messages are replayed behind live ones, which arrive as fresh as ever."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.delivery.harness import BESIDE, QUICK, Arrival, Site, note, percentile
from tests.delivery.publisher import STREAMS

LIVE_RATE = 30


class Ages(NamedTuple):
    """Percentiles of the age of live results, ms."""

    p50: float
    p99: float

    def __str__(self) -> str:
        return f"{self.p50:.1f}/{self.p99:.1f} ms"


def ages(arrivals: list[Arrival], run: str) -> Ages:
    taken_ms = [(a.came_ns - a.sent_ns) / 1e6 for a in arrivals if a.run == run and not a.replayed]
    return Ages(percentile(taken_ms, 50), percentile(taken_ms, 99))


def replay(folder: Path, count: int, rate: float) -> tuple[Ages, Ages, Ages]:
    """The age of live results during the replay: of the device that replays, and of one beside it at the same time,
    which has nothing to replay; and of the former after the replay.
    """
    # A PUBACK that a busy machine is late with is no lost line here.
    with Site(folder, "outage", broker={**QUICK, "ack_timeout_s": 60.0}).up() as site:
        site.line.locked.set()
        site.start(rate=4_000, count=count, limit=20_000)
        site.published(count)
        site.stop()  # which writes what was published a moment before
        site.line.locked.clear()
        site.start_beside(LIVE_RATE)
        site.consumer.wait(lambda arrivals: arrivals)
        site.start(rate=LIVE_RATE, spool={"replay_rate": rate})
        replaying, first = site.runs[-1], site.runs[0]
        site.consumer.wait(lambda arrivals: replayed(arrivals) >= count, 110)
        meanwhile = list(site.consumer.arrivals)
        site.consumer.wait(lambda arrivals: len(arrivals) >= len(meanwhile) + 400)
        after = list(site.consumer.arrivals)[len(meanwhile) :]
        report = site.settle()
    report.check()
    arrivals = [a for a in site.consumer.arrivals if a.run == first]
    assert len({a.number for a in arrivals}) == count
    assert len(arrivals) == count, "nobody was killed, no line was lost: nothing comes twice"
    for stream in STREAMS:
        numbers = [a.number for a in arrivals if a.stream == stream]
        assert numbers == sorted(numbers)
    came = next(number for number, a in enumerate(meanwhile) if a.replayed)
    during, beside, usual = ages(meanwhile[came:], replaying), ages(meanwhile[came:], BESIDE), ages(after, replaying)
    note(
        f"replay of {count} at {rate:g}/s, {LIVE_RATE}/s live: age of live p50/p99 {during} during, {beside} of a "
        f"device beside it meanwhile, {usual} after"
    )
    return during, beside, usual


def replayed(arrivals: list[Arrival]) -> int:
    return sum(a.replayed for a in arrivals)


def test_a_replay_of_five_thousand(tmp_path: Path) -> None:
    replay(tmp_path, 5_000, 2_000.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_replay_of_fifty_thousand(tmp_path: Path) -> None:
    during, beside, usual = replay(tmp_path, 50_000, 1_000.0)
    assert during.p50 <= 2 * max(beside.p50, usual.p50), "never more than twice what is usual"
    assert during.p99 <= 2 * usual.p99 + 50.0, "the noise of a shared machine apart"
