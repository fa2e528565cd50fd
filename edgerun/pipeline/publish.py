"""The publish stage: one thread gives each result of the Outbox its age and number and hands it to every sink."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from edgerun.clock import Clock
from edgerun.errors import Closed
from edgerun.pipeline.ending import Delivery, count_failed
from edgerun.ports import Sink
from edgerun.progress import waiting
from edgerun.slot import Outbox
from edgerun.types import Publication


class Publisher:
    """The end of the pipe: the last check of age, the account's `published`, and the sinks in their order."""

    def __init__(
        self,
        outbox: Outbox[Delivery],
        sinks: Sequence[Sink],
        clock: Clock,
        run_id: str,
        *,
        on_published: Callable[[int, int], None] = lambda n, now_ns: None,
    ) -> None:
        self.published = 0
        self._outbox = outbox
        self._sinks = tuple(sinks)
        self._changing = threading.Lock()
        self._clock = clock
        self._run_id = run_id
        self._on_published = on_published

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Who is given the results, in this order."""
        return self._sinks

    def add(self, sink: Sink) -> None:
        """One more sink, behind the others, from the next result on. Any thread."""
        with self._changing:
            self._sinks = (*self._sinks, sink)

    def remove(self, sink: Sink) -> None:
        """Give a sink no more results; that one may just be given its last. Any thread."""
        with self._changing:
            self._sinks = tuple([one for one in self._sinks if one is not sink])

    def run(self) -> None:
        """The thread's body: until the Outbox is closed and empty."""
        for delivery in self._deliveries():
            self._publish(delivery)

    def drain(self, reason: str) -> None:
        """Count what is still to come as failed, until the Outbox is closed: what a dead publisher owes."""
        for delivery in self._deliveries():
            count_failed(delivery, reason)

    def _deliveries(self) -> Iterator[Delivery]:
        with suppress(Closed):
            while True:
                with waiting():
                    delivery = self._outbox.take()
                if delivery is None:
                    return
                yield delivery

    def _publish(self, delivery: Delivery) -> None:
        lane, result = delivery
        now_ns = self._clock.mono_ns()
        age_ns = now_ns - result.stamp.captured_ns
        try:
            if result.max_age_ns and age_ns > result.max_age_ns:
                lane.expire(result.stamp, now_ns)
                return
            age_ms = age_ns / 1e6
            publication = Publication(result, f"{self._run_id}-{self.published:06d}", age_ms)
            try:
                for sink in self._sinks:
                    sink.publish(publication)
            except BaseException:
                lane.meter.account.end("failed", "sink", result.stamp)
                raise
            self.published += 1
            lane.meter.account.end("published")
            lane.meter.age.record(age_ms)
            self._on_published(self.published, now_ns)
        finally:
            if result.lease is not None:
                result.lease.release()
