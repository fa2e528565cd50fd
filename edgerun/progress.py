"""Whether every thread makes progress: each waits at its hand-off, or has advanced since the last ping.

A thread that is watched says when it begins to wait for somebody else (`with waiting():`) and with that, when the wait
is over, that it works again. Waiting may last: a silent camera, an absent broker or a paused stream is no hang. Working
may last as long as one ping is from the next. A thread that says it waits and burns a core all the same is spinning.
Saying so costs one attribute write and no lock; who looks reads one number a thread, which says both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

_SPIN_SHARE = 0.5
"""Of a core, spent while waiting, without any advance. Sources that decode in their wait (H.264) advance meanwhile."""
_SPIN_AFTER_NS = 1_000_000_000
"""Less than this says nothing: a wait may begin with some work. A quarter of the shortest period that spinning is seen
in: 4 s.
"""
_RUNNABLE_SHARE = 0.8
"""Of the time, on a core or in the queue for one: who spins beside others gets less than a core and never sleeps."""
_RUN_SHARE = 0.05
"""Of a core, at the least, for that: who wakes often for a moment stands in a crowded queue as long, and uses none."""


class Heartbeat:
    """How one thread is: `beats` grows with every change, even while it waits, odd while it works.

    Its own thread writes, any may read. As a context it spans a wait; waits do not nest.
    """

    __slots__ = ("beats",)

    def __init__(self) -> None:
        self.beats = 1

    def __enter__(self) -> None:
        self.beats = (self.beats | 1) + 1

    def __exit__(self, *error: object) -> None:
        self.beats = (self.beats + 1) | 1


class _Mine(threading.local):
    def __init__(self) -> None:
        self.heartbeat = Heartbeat()


_mine = _Mine()


def waiting() -> Heartbeat:
    """The calling thread's heartbeat: `with waiting(): …` spans what waits for somebody else."""
    return _mine.heartbeat


def advance() -> None:
    """The calling thread has done another part of something long."""
    _mine.heartbeat.beats += 2


class Look(NamedTuple):
    """A thread at one moment: `key` is its own for ever, `cpu_ns` all the CPU time it has used (None: not told),
    `queued_ns` all the time it could have run and another had the core (0 where the kernel does not tell).
    """

    key: int
    name: str
    beats: int
    cpu_ns: int | None
    queued_ns: int = 0


class Progress:
    """The threads that are watched. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[int, tuple[str, Heartbeat, int, int]] = {}
        self._others: dict[str, tuple[int, Callable[[], tuple[bool, int]]]] = {}
        self._next = 0

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """The body of a thread: watched, as `name`, from here to its end."""
        clock_id = time.pthread_getcpuclockid(threading.get_ident())  # of a thread that has ended it would be a fault
        heartbeat = Heartbeat()
        with self._lock:
            key, self._next = self._next, self._next + 1
            self._threads[key] = (name, heartbeat, clock_id, threading.get_native_id())
        before, _mine.heartbeat = _mine.heartbeat, heartbeat
        try:
            yield
        finally:
            _mine.heartbeat = before
            with self._lock:
                del self._threads[key]

    def observe(self, name: str, ask: Callable[[], tuple[bool, int]]) -> None:
        """Watch a thread that knows nothing of this: `ask` says whether it works and when it was last seen to advance
        (any number that only grows). What was observed under that name before is not any more.
        """
        with self._lock:
            key, self._next = self._next, self._next + 1
            self._others[name] = (key, ask)

    def forget(self, name: str) -> None:
        """Observe it no more, if it was."""
        with self._lock:
            self._others.pop(name, None)

    def look(self) -> list[Look]:
        """All of them, now."""
        with self._lock:
            threads, others = list(self._threads.items()), list(self._others.items())
        looks = [
            Look(key, name, beat.beats, _cpu_ns(clock_id), _queued_ns(thread_id))
            for key, (name, beat, clock_id, thread_id) in threads
        ]
        for name, (key, ask) in others:
            works, moment = ask()
            looks.append(Look(key, name, 2 * moment + works, None))
        return looks


class Judge:
    """Who has made no progress since the last ping: pure, from what was seen then and what is seen now."""

    def __init__(self, now_ns: int, looks: Sequence[Look] = ()) -> None:
        self.pinged(now_ns, looks)

    def pinged(self, now_ns: int, looks: Sequence[Look]) -> None:
        """All is well as of `now_ns` (monotonic): from now on progress is measured against `looks`."""
        self._since_ns = now_ns
        self._then = {look.key: look for look in looks}

    def stuck(self, now_ns: int, looks: Sequence[Look]) -> list[str]:
        """The names of the threads that neither wait nor have advanced; empty: all is well."""
        return [look.name for look in looks if self._is_stuck(now_ns - self._since_ns, look)]

    def _is_stuck(self, past_ns: int, look: Look) -> bool:
        then = self._then.get(look.key)
        if then is None or then.beats != look.beats:  # begun, or advanced
            return False
        if look.beats % 2:
            return True
        if past_ns < _SPIN_AFTER_NS or look.cpu_ns is None or then.cpu_ns is None:
            return False
        ran_ns = look.cpu_ns - then.cpu_ns
        runnable_ns = ran_ns + look.queued_ns - then.queued_ns
        return ran_ns > _SPIN_SHARE * past_ns or (
            ran_ns > _RUN_SHARE * past_ns and runnable_ns > _RUNNABLE_SHARE * past_ns
        )


class Watch:
    """Pings while all is well: at most four times within `period_ns`, in which one has to come.

    `ping` tells systemd. `complain` is given the names of those that are stuck and for how long (s), once, when half
    the time is over, and an empty list when they go on after all. Driven by one thread, at least every second.
    """

    def __init__(
        self,
        progress: Progress,
        period_ns: int,
        now_ns: int,
        ping: Callable[[], None],
        complain: Callable[[Sequence[str], float], None],
    ) -> None:
        self._progress, self._period_ns = progress, period_ns
        self._ping, self._complain = ping, complain
        self._pinged_ns = now_ns
        self._complained = False
        self._judge = Judge(now_ns, progress.look())
        ping()

    def feed(self, now_ns: int) -> None:
        """Look, when it is time to, and ping if all is well."""
        past_ns = now_ns - self._pinged_ns
        if past_ns < self._period_ns // 4:
            return
        looks = self._progress.look()
        stuck = self._judge.stuck(now_ns, looks)
        if not stuck:
            self._judge.pinged(now_ns, looks)
            self._pinged_ns = now_ns
            self._ping()
        if (stuck and not self._complained and past_ns >= self._period_ns // 2) or (not stuck and self._complained):
            self._complained = bool(stuck)
            self._complain(stuck, past_ns / 1e9)


def _cpu_ns(clock_id: int) -> int | None:
    """CPU time of a thread; None of one that has ended (clock_getres(2), "dynamic clocks")."""
    with suppress(OSError):
        return time.clock_gettime_ns(clock_id)
    return None


def _queued_ns(thread_id: int) -> int:
    """Time a thread has stood in the run queue (proc(5), "schedstat"); 0 of one that has ended."""
    with suppress(OSError, ValueError, IndexError), open(f"/proc/self/task/{thread_id}/schedstat", "rb") as file:
        return int(file.read().split()[1])
    return 0
