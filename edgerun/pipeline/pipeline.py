"""The running whole: named threads, started downstream first and stopped in data order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from edgerun.clock import Clock
from edgerun.errors import StageError
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.ending import Delivery
from edgerun.pipeline.lane import Lane
from edgerun.pipeline.notice import NoticeBoard, ThreadDied, ThreadEnded
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.worker import Worker
from edgerun.progress import Progress
from edgerun.slot import Outbox


class Pipeline:
    """Capture threads → workers → publisher. Built by `app`, driven by `daemon`."""

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
        self.captures = tuple(captures)
        self.workers = tuple(workers)
        self.publisher = publisher
        self._outbox = outbox
        self._clock = clock
        self._notices = notices
        self._progress = progress or Progress()
        self._workers_left = len(self.workers)
        self._lock = threading.Lock()
        self._publish_thread = self._thread("publish", publisher.run, publisher.drain)
        self._worker_threads = [
            self._thread(f"worker:{w.name}", w.run, w.drain, after=self._worker_ended) for w in self.workers
        ]
        self._capture_threads = [self._thread(f"capture:{c.stream}", c.run, after=c.close_lanes) for c in self.captures]

    @property
    def lanes(self) -> list[Lane]:
        """All (stream, model) pairs, in the config's order of streams, each cascade and what may stand in for it behind
        the lane that they belong to.
        """
        own = [lane for capture in self.captures for lane in capture.lanes]
        return [one for lane in own for one in (lane, lane.cascade, *lane.stand_ins) if one is not None]

    @property
    def held(self) -> list[str]:
        """The threads that have been started and have not ended."""
        threads = (*self._capture_threads, *self._worker_threads, self._publish_thread)
        return [thread.name for thread in threads if thread.is_alive()]

    def start(self) -> None:
        """Start every thread, consumers first. When all sources have ended, all threads end, "publish" last."""
        for thread in (self._publish_thread, *self._worker_threads, *self._capture_threads):
            thread.start()

    def stop(self, limit_s: float) -> list[str]:
        """Close the upstream end and let the end run down the pipe; at most `limit_s` seconds in all.

        Returns the capture threads that a driver still holds (given up: their Slots are closed over their heads, no
        frame is lost with them). Raises `StageError` naming a worker or publisher that would not end.
        """
        deadline_ns = self._clock.mono_ns() + round(limit_s * 1e9)
        for capture in self.captures:
            capture.stop()
        stuck = self._join(self._capture_threads, deadline_ns, limit_s * 0.4)
        for capture in self.captures:
            capture.close_lanes()
        hung = self._join(self._worker_threads, deadline_ns, limit_s * 0.3)
        if hung:  # the crops that a hung worker was to give will not come
            for lane in self.lanes:
                lane.slot.close()
            hung = self._join(self._worker_threads, deadline_ns, limit_s * 0.1)
        self._outbox.close()
        hung += self._join([self._publish_thread], deadline_ns, limit_s)
        if hung:
            raise StageError(
                f"{', '.join(hung)} did not end within {limit_s:g} s of being asked to",
                remedy="a runtime or a sink hangs; the process ends without waiting for it",
            )
        return stuck

    def close(self) -> None:
        """Give back what waits between the threads; nothing where one of them has not ended. Idempotent."""
        if not self.held:
            for capture in self.captures:
                capture.close()

    def _join(self, threads: Sequence[threading.Thread], deadline_ns: int, most_s: float) -> list[str]:
        limit_ns = min(deadline_ns, self._clock.mono_ns() + round(most_s * 1e9))
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, (limit_ns - self._clock.mono_ns()) / 1e9))
        return [thread.name for thread in threads if thread.is_alive()]

    def _worker_ended(self) -> None:
        """The last worker closes the Outbox: at the end of all data the pipe runs empty by itself."""
        with self._lock:
            self._workers_left -= 1
            if not self._workers_left:
                self._outbox.close()

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
