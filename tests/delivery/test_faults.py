"""Nothing that is promised is lost, whatever happens to the line, the broker and the process.

`EDGERUN_FAULT_MATRIX=FILE` writes a row for each fault: rounds, lost, duplicates, time to recover.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.delivery.harness import Site, note, percentile
from tests.mosquitto import wait_until

Fault = Callable[[Site, random.Random], None]
_PAUSE = threading.Event()  # never set: the moments of the faults are the point of these tests


def pause(seconds: float) -> None:
    _PAUSE.wait(seconds)


def cut(site: Site, dice: random.Random) -> None:
    site.line.cut()


def half_close(site: Site, dice: random.Random) -> None:
    site.line.half_close()


def black_hole(site: Site, dice: random.Random) -> None:
    site.line.swallow()
    pause(dice.uniform(0.05, 1.5))
    site.line.heal()


def lost_acks(site: Site, dice: random.Random) -> None:
    site.line.swallow(up=False)
    pause(dice.uniform(0.01, 0.3))
    site.line.heal()


def slow_line(site: Site, dice: random.Random) -> None:
    site.line.delay(dice.uniform(0.02, 0.2))
    pause(dice.uniform(0.1, 0.5))
    site.line.heal()


def no_broker(site: Site, dice: random.Random) -> None:
    site.line.locked.set()
    site.line.cut()
    pause(dice.uniform(0.05, 0.5))
    site.line.heal()


def frozen_broker(site: Site, dice: random.Random) -> None:
    site.broker.freeze()
    pause(dice.uniform(0.05, 2.0))
    site.broker.thaw()


def killed_broker(site: Site, dice: random.Random) -> None:
    site.restart_broker()


def killed(site: Site, dice: random.Random) -> None:
    site.kill()
    site.start()


def killed_in_an_outage(site: Site, dice: random.Random) -> None:
    site.line.locked.set()
    site.line.cut()
    pause(dice.uniform(0.0, 0.4))
    site.kill()
    site.line.heal()
    site.start()


def killed_twice(site: Site, dice: random.Random) -> None:
    """While what the first kill left is being replayed."""
    site.line.locked.set()
    site.line.cut()
    pause(dice.uniform(0.2, 0.5))
    site.kill()
    site.line.heal()
    site.start()
    site.published(dice.randint(1, 20))
    site.kill()
    site.start()


def restarted(site: Site, dice: random.Random) -> None:
    site.stop()
    site.start()


def restarted_in_an_outage(site: Site, dice: random.Random) -> None:
    site.line.locked.set()
    site.line.cut()
    pause(dice.uniform(0.0, 0.2))
    site.stop()
    site.line.heal()
    site.start()


LINE_FAULTS: list[Fault] = [cut, half_close, black_hole, lost_acks, slow_line, no_broker, frozen_broker, killed_broker]
KILLS: list[Fault] = [killed, killed_in_an_outage, killed_twice]
STOPS: list[Fault] = [restarted, restarted_in_an_outage]


def play(folder: Path, durability: str, faults: list[Fault], rounds: int, seed: int) -> None:
    dice = random.Random(seed)
    recoveries: list[float] = []
    with Site(folder, durability).up() as site:
        site.start()
        for number in range(rounds):
            site.published(1)
            pause(dice.uniform(0.02, 0.5))
            fault = faults[number % len(faults)]
            fault(site, dice)
            healed_ns = time.monotonic_ns()
            at = len(site.consumer.arrivals)
            wait_until(
                lambda at=at, healed_ns=healed_ns: any(
                    not a.replayed and a.sent_ns > healed_ns for a in site.consumer.arrivals[at:]
                ),
                30,
                f"a live result after {fault.__name__}",
            )
            recoveries.append((time.monotonic_ns() - healed_ns) / 1e9)
        report = site.settle()
    names = "+".join(fault.__name__ for fault in faults) if len(faults) < 4 else "any of the line and the broker"
    note(
        f"| {durability} | {names} | {rounds} | {report.published} | {sum(map(len, report.missing.values()))} "
        f"| {report.uncovered} | {report.duplicates} | {report.most_copies} | {percentile(recoveries, 50):.2f} "
        f"| {percentile(recoveries, 99):.2f} | {report.oldest_lost_away_s * 1000:.0f} |"
    )
    report.check()
    assert report.most_copies <= rounds * 2 + 1
    assert report.oldest_lost_away_s < 1.0  # promised is 0.1, which a machine under load may miss
    assert report.oldest_lost_s < 2.0  # and here 1
    if not set(faults) & set(KILLS):
        assert not report.uncovered


@pytest.mark.parametrize("durability", ["outage", "always"])
@pytest.mark.parametrize("fault", [*LINE_FAULTS, *STOPS], ids=lambda fault: fault.__name__)
def test_a_fault(tmp_path: Path, fault: Fault, durability: str) -> None:
    play(tmp_path, durability, [fault], 2 if fault is not cut else 4, seed=1)


@pytest.mark.parametrize("durability", ["outage", "always"])
def test_kills_at_random_moments(tmp_path: Path, durability: str) -> None:
    play(tmp_path, durability, KILLS, 6, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("durability", ["outage", "always"])
@pytest.mark.parametrize("fault", [*LINE_FAULTS, *STOPS], ids=lambda fault: fault.__name__)
def test_a_fault_many_times(tmp_path: Path, fault: Fault, durability: str) -> None:
    play(tmp_path, durability, [fault], 30, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("durability", ["outage", "always"])
@pytest.mark.parametrize("fault", KILLS, ids=lambda fault: fault.__name__)
def test_hundreds_of_kills(tmp_path: Path, fault: Fault, durability: str) -> None:
    play(tmp_path, durability, [fault], 70, seed=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("durability", ["outage", "always"])
def test_everything_at_random(tmp_path: Path, durability: str) -> None:
    faults = [*LINE_FAULTS, *KILLS, *STOPS]
    random.Random(5).shuffle(faults)
    play(tmp_path, durability, faults, 60, seed=5)
