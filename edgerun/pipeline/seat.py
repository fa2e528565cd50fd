"""The thread of one engine: one worker after another, each over the model and the lanes of its time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgerun.clock import Clock
from edgerun.errors import Closed, EdgerunError, StageError
from edgerun.pipeline.worker import Worker
from edgerun.progress import waiting

Successor = Callable[[Worker], Worker]
"""Makes the next worker of the present one, on the engine's thread, between two turns: no frame is in hand then, and
those that come wait in their Slots. What it does to the lanes nobody else sees half done. An `EdgerunError` that it
raises leaves the present worker where it is."""


class Order:
    """One worker is to follow another. `done` is set when it has, or will not: then `error` says why. `gap_ns`: how
    long the lanes were not served meanwhile.
    """

    def __init__(self, successor: Successor, clock: Clock) -> None:
        self.successor, self.clock = successor, clock
        self.done = threading.Event()
        self.error: EdgerunError | None = None
        self.gap_ns = 0


class Seat:
    """Runs a worker until its lanes have ended, or until the next one is there. `run` is the thread's, the rest any."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._changed = threading.Condition()
        self._order: Order | None = None
        self._held = False
        self._ended = False

    @property
    def worker(self) -> Worker:
        """The one that serves now."""
        return self._worker

    @property
    def ended(self) -> bool:
        """Nobody serves here any more."""
        return self._ended

    def run(self) -> None:
        """The thread's body: until every lane of the last worker has ended."""
        try:
            while True:
                self._worker.run()
                with waiting(), self._changed:
                    self._changed.wait_for(lambda: self._order is not None or not self._held)
                    order = self._order
                    if order is None:
                        self._ended = True
                        return
                self._follow(order)
        finally:
            self._end()

    def drain(self, reason: str) -> None:
        """See `Worker.drain`."""
        self._worker.drain(reason)

    def read_busy_ns(self) -> int:
        """Time spent on frames by all of them so far, ns."""
        return self._worker.read_busy_ns()

    def hold(self) -> None:
        """Stay until `release`, also when every lane has ended: others may come."""
        with self._changed:
            self._held = True

    def release(self) -> None:
        """End with the lanes again."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def give(self, order: Order) -> None:
        """Have the next worker take over at the end of this turn. Raises `Closed` where nobody serves any more. One
        order at a time.
        """
        with self._changed:
            if self._ended:
                raise Closed
            if self._order is not None:
                raise RuntimeError("a worker is to follow already")
            self._order = order
            self._worker.retire()
            self._changed.notify_all()

    def _follow(self, order: Order) -> None:
        before, left_ns = self._worker, order.clock.mono_ns()
        try:
            after = order.successor(before)
        except EdgerunError as error:
            order.error = error
            after = before
            before.stay()
        if after is not before:
            after.inherit(before)
        with self._changed:
            self._worker, self._order = after, None
        order.gap_ns = order.clock.mono_ns() - left_ns
        order.done.set()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            order, self._order = self._order, None
        if order is not None:
            order.error = StageError(f"worker:{self._worker.name} ended before another could follow")
            order.done.set()
