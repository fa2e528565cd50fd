"""What counts as progress: the judgement as a function, and real threads that wait, work, hang and spin."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgerun.progress import Heartbeat, Judge, Look, Progress, Watch, advance, waiting
from edgerun.slot import Slot
from tests.mosquitto import wait_until

S = 1_000_000_000


# the judgement


@given(st.lists(st.sampled_from(["wait", "work", "advance"])))
def test_the_number_says_what_the_thread_does_and_every_change_shows(steps: Sequence[str]) -> None:
    heartbeat, waits, seen = Heartbeat(), False, [1]
    for step in steps:
        if step == "wait":
            heartbeat.__enter__()
            waits = True
        elif step == "work":
            heartbeat.__exit__()
            waits = False
        else:
            heartbeat.beats += 2
        assert (heartbeat.beats % 2 == 0) is waits
        seen.append(heartbeat.beats)
    assert all(b > a for a, b in pairwise(seen))


BEATS = st.integers(min_value=1, max_value=1000)
CPU = st.integers(min_value=0, max_value=100 * S)


@given(beats=BEATS, later=BEATS, cpu=CPU, used=CPU, past=CPU)
def test_stuck_is_working_without_advance_or_waiting_at_the_cost_of_a_core(
    beats: int, later: int, cpu: int, used: int, past: int
) -> None:
    then, now = Look(0, "a", beats, cpu), Look(0, "a", later, cpu + used)
    stuck = bool(Judge(0, [then]).stuck(past, [now]))
    if beats != later:
        assert not stuck
    elif beats % 2:
        assert stuck
    else:
        assert stuck is (past >= S and used > past / 2)


@pytest.mark.parametrize(
    ("ran", "queued", "stuck"),
    [
        pytest.param(0.3, 0.7, True, id="spins beside two others"),
        pytest.param(0.3, 0.4, False, id="sleeps between its work"),
        pytest.param(0.01, 0.99, False, id="wakes for a moment, in a crowd"),
    ],
)
def test_spinning_is_never_to_sleep_and_not_to_be_kept_waiting(ran: float, queued: float, stuck: bool) -> None:
    then, now = Look(0, "a", 2, S, S), Look(0, "a", 2, S + round(10 * S * ran), S + round(10 * S * queued))
    assert bool(Judge(0, [then]).stuck(10 * S, [now])) is stuck


def test_threads_that_come_and_go_are_no_hang() -> None:
    judge = Judge(0, [Look(0, "gone", 1, 0)])
    assert judge.stuck(60 * S, [Look(1, "come", 1, 0)]) == []
    judge.pinged(60 * S, [Look(1, "come", 1, 0)])
    assert judge.stuck(61 * S, [Look(1, "come", 1, 0)]) == ["come"]


def test_without_a_clock_of_its_own_a_wait_is_believed() -> None:
    assert Judge(0, [Look(0, "a", 2, None)]).stuck(60 * S, [Look(0, "a", 2, 60 * S)]) == []


class Fed(RuleBasedStateMachine):
    """Threads do this and that, time passes, `feed` is called: it pings exactly as architecture.md says."""

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        self.now_ns = 0
        self.pings = 0
        self.told: list[tuple[str, ...]] = []
        self.beats = [Heartbeat() for _ in range(count)]
        self.cpu = [0] * count
        self.watch = Watch(self, 8 * S, 0, self.ping, lambda names, s: self.told.append(tuple(names)))  # type: ignore[arg-type]

    def look(self) -> list[Look]:
        return [
            Look(i, str(i), beat.beats, cpu) for i, (beat, cpu) in enumerate(zip(self.beats, self.cpu, strict=True))
        ]

    def ping(self) -> None:
        self.pings += 1
        self.pinged_ns, self.then = self.now_ns, self.look()

    @rule(at=st.integers(0, 3), what=st.sampled_from(["wait", "work", "advance", "burn"]))
    def do(self, at: int, what: str) -> None:
        beat = self.beats[at % len(self.beats)]
        if what == "wait":
            beat.__enter__()
        elif what == "work":
            beat.__exit__()
        elif what == "advance":
            beat.beats += 2
        else:
            self.cpu[at % len(self.beats)] += S

    @rule(ms=st.integers(1, 3000))
    def feed(self, ms: int) -> None:
        self.now_ns += ms * 1_000_000
        past_ns, before = self.now_ns - self.pinged_ns, self.pings
        well = all(
            now.beats != then.beats or (now.beats % 2 == 0 and not now.cpu_ns - then.cpu_ns > past_ns / 2)  # type: ignore[operator]
            for now, then in zip(self.look(), self.then, strict=True)
        )
        self.watch.feed(self.now_ns)
        assert (self.pings > before) is (well and past_ns >= 2 * S)

    @invariant()
    def complaints_and_relief_take_turns(self) -> None:
        told = getattr(self, "told", [])
        assert all(bool(names) is (i % 2 == 0) for i, names in enumerate(told))


TestFed = Fed.TestCase


# real threads


class Hung:
    """A watch over real threads, by a clock that is turned by hand."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.threads: list[threading.Thread] = []
        self.end = threading.Event()

    def start(self, name: str, body: Callable[[], None]) -> None:
        begun = threading.Event()

        def run() -> None:
            with self.progress.watched(name):
                begun.set()
                body()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()
        assert begun.wait(60)

    def stuck_after(self, seconds: float) -> list[str]:
        """Who would keep the ping back `seconds` from now, as they stand."""
        looks = self.progress.look()
        return Judge(0, looks).stuck(round(seconds * S), self.progress.look())


@pytest.fixture
def hung() -> Iterator[Hung]:
    made = Hung()
    yield made
    made.end.set()
    for thread in made.threads:
        thread.join(60)
        assert not thread.is_alive()
    assert made.progress.look() == []


def waits_for_ever(hung: Hung) -> Callable[[], None]:
    def body() -> None:
        with waiting():
            hung.end.wait()

    return body


def test_a_thread_that_waits_is_no_hang_and_one_that_works_for_ever_is(hung: Hung) -> None:
    hung.start("capture:dock", waits_for_ever(hung))
    hung.start("worker:detector", hung.end.wait)  # a driver that does not return
    wait_until(lambda: hung.stuck_after(30) == ["worker:detector"])


def test_a_thread_that_advances_is_no_hang(hung: Hung) -> None:
    inbox: Slot[int] = Slot(1)
    served = threading.Semaphore(0)

    def body() -> None:
        while True:
            with waiting():
                item = inbox.take()
            if not item:
                return
            served.release()

    hung.start("worker:detector", body)
    looks = hung.progress.look()
    inbox.put(1)
    assert served.acquire(timeout=60)
    assert Judge(0, looks).stuck(30 * S, hung.progress.look()) == []
    inbox.put(0)


def test_a_long_task_says_that_it_advances(hung: Hung) -> None:
    go, went = threading.Event(), threading.Event()

    def body() -> None:
        assert go.wait(60)
        advance()
        went.set()
        hung.end.wait()

    hung.start("publish", body)
    looks = hung.progress.look()
    assert Judge(0, looks).stuck(30 * S, hung.progress.look()) == ["publish"]
    go.set()
    assert went.wait(60)
    assert Judge(0, looks).stuck(30 * S, hung.progress.look()) == []


def test_a_thread_that_spins_in_its_wait_is_a_hang(hung: Hung) -> None:
    spinning = threading.Event()

    def spin() -> None:
        with waiting():
            spinning.set()
            while not hung.end.is_set():
                pass

    hung.start("capture:dock", waits_for_ever(hung))
    hung.start("capture:yard", spin)
    assert spinning.wait(60)
    judge = Judge(0, hung.progress.look())
    # What it burns is measured; how long the wait has been is told: the machine may be busy.
    wait_until(lambda: judge.stuck(S, hung.progress.look()) == ["capture:yard"], 30)


def test_a_thread_that_spins_beside_others_is_a_hang_too(hung: Hung) -> None:
    """It has a quarter of the one core that it may use."""
    if not any(Path("/proc/thread-self/schedstat").read_bytes().split()[:1]):
        pytest.skip("this kernel does not count how long a thread waits for a core")
    core = {min(os.sched_getaffinity(0))}
    spinning = threading.Event()

    def spin() -> None:
        os.sched_setaffinity(0, core)  # of this thread only
        with waiting():
            spinning.set()
            while not hung.end.is_set():
                pass

    code = f"import os; os.sched_setaffinity(0, {core}); print(flush=True)\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline()
        hung.start("capture:dock", waits_for_ever(hung))
        hung.start("capture:yard", spin)
        assert spinning.wait(60)
        began_ns, judge = time.monotonic_ns(), Judge(0, hung.progress.look())
        stuck = [""]

        def judged() -> bool:
            stuck[:] = judge.stuck(time.monotonic_ns() - began_ns, hung.progress.look())
            return bool(stuck)

        wait_until(judged, 60)
        assert stuck == ["capture:yard"]
    finally:
        for other in others:
            with other:
                other.kill()


def test_a_thread_that_dies_is_not_watched_any_more(hung: Hung) -> None:
    died = threading.Event()

    def run() -> None:
        try:
            with hung.progress.watched("worker:detector"):
                raise RuntimeError("a fault")
        except RuntimeError:
            died.set()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert died.is_set()
    assert hung.progress.look() == []


@given(works=st.booleans(), advanced=st.booleans(), moment=st.integers(0, 1 << 62))
def test_a_thread_that_is_only_observed_is_stuck_when_it_works_and_does_not_advance(
    works: bool, advanced: bool, moment: int
) -> None:
    progress, said = Progress(), [(True, moment)]
    progress.observe("mqtt", lambda: (False, 0))
    progress.observe("mqtt", lambda: said[-1])
    judge = Judge(0, progress.look())
    said.append((works, moment + advanced))
    assert judge.stuck(30 * S, progress.look()) == (["mqtt"] if works and not advanced else [])
    progress.forget("mqtt")
    progress.forget("mqtt")
    assert progress.look() == []


def test_waiting_outside_of_a_watched_thread_is_nobodys_business() -> None:
    progress = Progress()
    with waiting():
        assert progress.look() == []


@contextmanager
def fed(progress: Progress, period_ns: int) -> Iterator[tuple[Watch, list[str]]]:
    said: list[str] = []
    watch = Watch(
        progress, period_ns, 0, lambda: said.append("ping"), lambda names, s: said.append(f"{names} for {s:g} s")
    )
    yield watch, said


def test_the_ping_stops_for_a_hung_thread_and_comes_back_when_it_goes_on(hung: Hung) -> None:
    go_on, on = threading.Event(), threading.Event()

    def body() -> None:
        go_on.wait(60)
        with waiting():
            on.set()
            hung.end.wait()

    hung.start("worker:detector", body)
    with fed(hung.progress, 32 * S) as (watch, said):
        for second in (1, 7, 8, 15, 16, 24, 33):
            watch.feed(second * S)
        assert said == ["ping", "['worker:detector'] for 16 s"]
        go_on.set()
        assert on.wait(60)
        watch.feed(34 * S)
        watch.feed(35 * S)
        assert said[2:] == ["ping", "[] for 34 s"]
