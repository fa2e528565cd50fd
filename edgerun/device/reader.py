"""Doing things that may never come back, each with a deadline, without waiting for ever.

A driver can block a read in the kernel, where nothing reaches it: then the thread is left to it and another one made.
What blocked is not tried again before it has come back.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from edgerun.errors import DeviceError

T = TypeVar("T")


class Blocked(DeviceError):
    """It did not come back in time, or has not yet from an earlier try."""


class _Job:
    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done = threading.Event()
        self.value: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.value = self.work()
        except Exception as error:  # noqa: BLE001 - a thread's body: whoever waits gets it
            self.error = error
        finally:
            self.done.set()


class PatientReader:
    """Runs one piece of work after another in a thread of its own. Used by one thread.

    `limit_s` is the deadline of each. The threads that it leaves behind end with what blocks them, or with the process.
    """

    def __init__(self, limit_s: float, name: str = "sensors:read") -> None:
        self._limit_s, self._name = limit_s, name
        self._inbox: queue.SimpleQueue[_Job | None] | None = None
        self._blocked: dict[Hashable, _Job] = {}

    @property
    def blocked(self) -> tuple[Hashable, ...]:
        """The keys of what has not come back yet."""
        return tuple(key for key, job in self._blocked.items() if not job.done.is_set())

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises `Blocked` when it takes too long, or `key` still does."""
        stuck = self._blocked.get(key)
        if stuck is not None and not stuck.done.is_set():
            raise Blocked("still blocks", remedy="its driver hangs; edgerun goes on without it")
        self._blocked.pop(key, None)
        if self._inbox is None:
            self._inbox = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._inbox,), name=self._name, daemon=True).start()
        job = _Job(work)
        self._inbox.put(job)
        if not job.done.wait(self._limit_s):
            self._blocked[key] = job
            self.close()  # that thread ends when it comes back
            raise Blocked(f"did not answer within {self._limit_s:g} s")
        if job.error is not None:
            raise job.error
        value: T = job.value
        return value

    def close(self) -> None:
        """Let the thread end. Idempotent; it may be used again."""
        if self._inbox is not None:
            self._inbox.put(None)
            self._inbox = None


def _serve(inbox: queue.SimpleQueue[_Job | None]) -> None:
    while (job := inbox.get()) is not None:
        job.run()
