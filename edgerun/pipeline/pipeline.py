"""The running whole: named threads, started downstream first and stopped in data order; parts come and go meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from edgerun.clock import Clock
from edgerun.errors import Closed, StageError
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.ending import Delivery
from edgerun.pipeline.lane import Lane
from edgerun.pipeline.notice import NoticeBoard, ThreadDied, ThreadEnded
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.seat import Order, Seat, Successor
from edgerun.pipeline.worker import Worker
from edgerun.progress import Progress
from edgerun.slot import Outbox

_LOOK_S = 0.002


class Pipeline:
    """Capture threads → workers → publisher. Built by `app`, driven by `daemon`.

    What changes while it runs is changed by one thread, between `hold` and `release`: captures are removed, workers
    exchanged, captures added. `stop` cuts that short from another.
    """

    def __init__(
        self,
        captures: Sequence[Capture],
        workers: Sequence[Worker],
        publisher: Publisher,
        outbox: Outbox[Delivery],
        clock: Clock,
        notices: NoticeBoard,
        progress: Progress | None = None,
    ) -> None:
        self.publisher = publisher
        self._outbox = outbox
        self._clock = clock
        self._notices = notices
        self._progress = progress or Progress()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._holding = False
        self._publish_thread = self._thread("publish", publisher.run, publisher.drain)
        self._seats: dict[str, tuple[Seat, threading.Thread]] = {}
        for worker in workers:
            self._seats[worker.name] = self._seated(worker)
        self._captures = {capture: self._capture_thread(capture) for capture in captures}
        self._removed: dict[Capture, threading.Thread] = {}

    @property
    def captures(self) -> tuple[Capture, ...]:
        """The streams' ways in, in the config's order."""
        return tuple(self._captures)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The worker that serves now, of every engine."""
        return tuple(seat.worker for seat, _ in tuple(self._seats.values()))

    @property
    def lanes(self) -> list[Lane]:
        """All (stream, model) pairs, in the config's order of streams, each cascade and what may stand in for it behind
        the lane that they belong to.
        """
        return lanes_of(self.captures)

    @property
    def held(self) -> list[str]:
        """The threads that have been started and have not ended."""
        captures = (*tuple(self._captures.values()), *tuple(self._removed.values()))
        threads = (*captures, *(thread for _, thread in tuple(self._seats.values())), self._publish_thread)
        return [thread.name for thread in threads if thread.is_alive()]

    def seat(self, name: str) -> Seat:
        """Where the engine called `name` is served."""
        return self._seats[name][0]

    def start(self) -> None:
        """Start every thread, consumers first. When all sources have ended, all threads end, "publish" last."""
        seats = [thread for _, thread in self._seats.values()]
        for thread in (self._publish_thread, *seats, *self._captures.values()):
            thread.start()

    def hold(self) -> None:
        """Keep every engine's thread and the Outbox until `release`, also where all lanes end: others are to come.

        Raises `Closed` at the end of the data and once `stop` was called.
        """
        with self._lock:
            seats = [seat for seat, _ in self._seats.values()]
            if self._stopping.is_set() or all(seat.ended for seat in seats):
                raise Closed("the run is at its end")
            self._holding = True
            for seat in seats:
                seat.hold()

    def release(self) -> None:
        """What is there now runs to its own end again. Idempotent."""
        with self._lock:
            self._holding = False
            for seat, _ in self._seats.values():
                seat.release()
        self._close_behind_the_last()

    def remove(self, captures: Sequence[Capture], limit_s: float) -> list[str]:
        """Stop these captures and have their workers finish what they gave; at most `limit_s` seconds.

        Returns the threads that a driver still holds: given up, as by `stop`. What is left in their lanes is counted by
        `settle`.
        """
        deadline_ns = self._clock.mono_ns() + round(limit_s * 1e9)
        with self._lock:
            gone = {one: self._captures.pop(one) for one in captures if one in self._captures}
            self._removed |= gone
        for capture in gone:
            capture.stop()
        stuck = self._join(list(gone.values()), deadline_ns, limit_s * 0.5)
        for capture in gone:
            capture.close_lanes()
        left = lanes_of(gone)
        while self._clock.mono_ns() < deadline_ns and not self._stopping.is_set():
            if all(lane.slot.closed and not len(lane.slot) and not lane.meter.account.in_flight for lane in left):
                break
            self._stopping.wait(_LOOK_S)
        return stuck

    def staff(self, name: str, successor: Successor) -> float:
        """Have the next worker take over at the engine called `name`, and wait until it has. Raises what the successor
        raises, `Closed` when `stop` was called first. Returns how long the lanes were not served, ms.
        """
        order = Order(successor, self._clock)
        with self._lock:
            if self._stopping.is_set():
                raise Closed("the run is at its end")
            self._seats[name][0].give(order)
        while not order.done.wait(_LOOK_S * 50):
            if self._stopping.is_set():
                raise Closed("the run is at its end")
        if order.error is not None:
            raise order.error
        return order.gap_ns / 1e6

    def employ(self, worker: Worker) -> None:
        """One more engine, with a thread of its own from now on."""
        with self._lock:
            if self._stopping.is_set():
                raise Closed("the run is at its end")
            seat, thread = self._seats[worker.name] = self._seated(worker)
            if self._holding:
                seat.hold()
            thread.start()

    def dismiss(self, name: str, limit_s: float) -> bool:
        """An engine without lanes, after `release`: whether its thread has ended, so that it can be closed."""
        _, thread = self._seats[name]
        thread.join(limit_s)
        if thread.is_alive():
            return False
        with self._lock:
            del self._seats[name]
        return True

    def add(self, captures: Sequence[Capture], order: Sequence[str] = ()) -> None:
        """More captures, whose lanes have their workers; `begin` starts them. `order`: the streams' names as told."""
        with self._lock:
            if self._stopping.is_set():
                raise Closed("the run is at its end")
            new = {capture: self._capture_thread(capture) for capture in captures}
            place = {name: at for at, name in enumerate(order)}
            every = {**self._captures, **new}
            self._captures = dict(sorted(every.items(), key=lambda item: place.get(item[0].stream, len(place))))

    def begin(self) -> None:
        """Start the captures that were added."""
        with self._lock:
            for thread in self._captures.values():
                if thread.ident is None and not self._stopping.is_set():
                    thread.start()

    def settle(self) -> None:
        """After the workers were exchanged: nobody takes from the lanes of removed captures any more. What waits there
        has failed, and the means to wake their threads are given back.
        """
        with self._lock:
            ended = [one for one, thread in self._removed.items() if not thread.is_alive()]
            orphans = lanes_of(self._removed)
            for capture in ended:
                del self._removed[capture]
        for lane in orphans:
            with suppress(Closed):
                while (frame := lane.slot.take(0)) is not None:
                    lane.meter.account.end("failed", "stopped", frame.stamp)
                    frame.lease.release()
        for capture in ended:
            capture.close()

    def stop(self, limit_s: float) -> list[str]:
        """Close the upstream end and let the end run down the pipe; at most `limit_s` seconds in all.

        Returns the capture threads that a driver still holds (given up: their Slots are closed over their heads, no
        frame is lost with them). Raises `StageError` naming a worker or publisher that would not end.
        """
        deadline_ns = self._clock.mono_ns() + round(limit_s * 1e9)
        with self._lock:
            self._stopping.set()
            captures, seats = dict(self._captures), list(self._seats.values())
            removed = list(self._removed.values())
        for capture in captures:
            capture.stop()
        stuck = self._join([*captures.values(), *removed], deadline_ns, limit_s * 0.4)
        for capture in captures:
            capture.close_lanes()
        self.release()
        workers = [thread for _, thread in seats]
        hung = self._join(workers, deadline_ns, limit_s * 0.3)
        if hung:  # the crops that a hung worker was to give will not come
            for lane in self.lanes:
                lane.slot.close()
            hung = self._join(workers, deadline_ns, limit_s * 0.1)
        self._outbox.close()
        hung += self._join([self._publish_thread], deadline_ns, limit_s)
        if hung:
            raise StageError(
                f"{', '.join(hung)} did not end within {limit_s:g} s of being asked to",
                remedy="a runtime or a sink hangs; the process ends without waiting for it",
            )
        self.settle()
        return stuck

    def close(self) -> None:
        """Give back what waits between the threads; nothing where one of them has not ended. Idempotent."""
        if not self.held:
            for capture in (*self._captures, *self._removed):
                capture.close()

    def _join(self, threads: Sequence[threading.Thread], deadline_ns: int, most_s: float) -> list[str]:
        limit_ns = min(deadline_ns, self._clock.mono_ns() + round(most_s * 1e9))
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, (limit_ns - self._clock.mono_ns()) / 1e9))
        return [thread.name for thread in threads if thread.is_alive()]

    def _close_behind_the_last(self) -> None:
        """The last worker closes the Outbox: at the end of all data the pipe runs empty by itself."""
        with self._lock:
            if not self._holding and all(seat.ended for seat, _ in self._seats.values()):
                self._outbox.close()

    def _seated(self, worker: Worker) -> tuple[Seat, threading.Thread]:
        seat = Seat(worker)
        return seat, self._thread(f"worker:{worker.name}", seat.run, seat.drain, after=self._close_behind_the_last)

    def _capture_thread(self, capture: Capture) -> threading.Thread:
        return self._thread(f"capture:{capture.stream}", capture.run, after=capture.close_lanes)

    def _thread(
        self,
        name: str,
        body: Callable[[], None],
        owe: Callable[[str], None] = lambda reason: None,
        after: Callable[[], None] = lambda: None,
    ) -> threading.Thread:
        """A daemon thread that never dies quietly: its end or its death is told on the notice board.

        `owe` does after a death what `body` still had to do. `after` passes the end of the data on; it comes last, so
        that the end of "publish" is told after whatever led to it.
        """

        def run() -> None:
            try:
                with self._progress.watched(name):
                    body()
            except BaseException as error:  # noqa: BLE001  a thread's body: told, and the run ends with it
                self._notices.put(ThreadDied(name, error))
                owe("stopped")
            else:
                self._notices.put(ThreadEnded(name))
            after()

        return threading.Thread(target=run, name=name, daemon=True)


def lanes_of(captures: Iterable[Capture]) -> list[Lane]:
    """The lanes of these captures, each cascade and what may stand in for a lane behind it."""
    own = [lane for capture in captures for lane in capture.lanes]
    return [one for lane in own for one in (lane, lane.cascade, *lane.stand_ins) if one is not None]
