"""What waits to be sent: bounded, oldest dropped, everything counted."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping

import msgspec

from edgerun.broker.message import Message


class Entry(msgspec.Struct, frozen=True):
    """A message with its ticket: tickets only ever grow, in the order of `put`."""

    ticket: int
    message: Message
    put_ns: int


class OutgoingStats(msgspec.Struct, frozen=True):
    """`put = acked + sent0 + Σ dropped + waiting + in_flight`."""

    put: int
    acked: int
    """QoS 1 messages whose PUBACK came."""
    sent0: int
    """QoS 0 messages handed to the network."""
    dropped: Mapping[str, int]
    """By reason: `full` the queue, `offline` QoS 0 without a link, `too_large`, `refused` by the broker, `stopped`."""
    waiting: int
    in_flight: int
    waiting_bytes: int
    oldest_unacked_ns: int | None
    """When the oldest QoS 1 message that is not acknowledged yet was put."""


class Outgoing:
    """The queue in front of the network, in memory. Thread-safe; nothing in it blocks but `wait_acked`.

    QoS 0 and QoS 1 wait in lanes of their own, so that a full window of unacknowledged messages does not hold up QoS 0.
    A QoS 1 message stays here until `ack`; `rewind` after a lost link puts the unacknowledged ones back in front, in
    their order.

    The disk spool goes in here: it is a class with these same methods, given to `Connection` as `outgoing`. It
    writes in `put`, reads its segments in `take`, moves its cursor in `ack` and forgets its read-ahead in `rewind`;
    what `drop_waiting` drops here is what it keeps.
    """

    def __init__(self, max_messages: int = 1000, max_bytes: int = 16 << 20) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._changed = threading.Condition()
        self._lanes: tuple[deque[Entry], deque[Entry]] = (deque(), deque())
        self._in_flight: OrderedDict[int, Entry] = OrderedDict()
        self._bytes = self._put = self._acked = self._sent0 = 0
        self._dropped: Counter[str] = Counter()

    def put(self, message: Message, now_ns: int) -> int:
        """Queue `message`; returns how many messages had to give way (itself among them when it is over the limit)."""
        with self._changed:
            self._put += 1
            lane = self._lanes[message.qos]
            if message.weight > self._max_bytes:
                self._dropped["full"] += 1
                return 1
            lane.append(Entry(self._put, message, now_ns))
            self._bytes += message.weight
            return self._trim()

    def take(self, durable: bool) -> Entry | None:
        """The next message to send, oldest first; QoS 1 only when `durable`. None when there is none.

        A QoS 1 entry is in flight from then on; a QoS 0 entry is done with.
        """
        passing, lasting = self._lanes
        with self._changed:
            lane = passing
            if durable and lasting and (not passing or lasting[0].ticket < passing[0].ticket):
                lane = lasting
            if not lane:
                return None
            entry = lane.popleft()
            self._bytes -= entry.message.weight
            if lane is lasting:
                self._in_flight[entry.ticket] = entry
            else:
                self._sent0 += 1
            return entry

    def ack(self, ticket: int) -> None:
        """The broker has it."""
        with self._changed:
            if self._in_flight.pop(ticket, None) is not None:
                self._acked += 1
                self._changed.notify_all()

    def drop(self, entry: Entry, reason: str) -> None:
        """A taken entry that will never be sent, or that the broker refused."""
        with self._changed:
            if self._in_flight.pop(entry.ticket, None) is None and entry.message.qos == 0:
                self._sent0 -= 1
            self._dropped[reason] += 1
            self._changed.notify_all()

    def refuse(self, reason: str) -> None:
        """Count a message that is not even queued."""
        with self._changed:
            self._put += 1
            self._dropped[reason] += 1

    def rewind(self) -> int:
        """The link is lost: what was in flight waits again, before everything else; QoS 0 is dropped.

        Returns the number of messages that were in flight.
        """
        passing, lasting = self._lanes
        with self._changed:
            back = sorted(self._in_flight.values(), key=lambda entry: entry.ticket, reverse=True)
            self._in_flight.clear()
            for entry in back:
                lasting.appendleft(entry)
                self._bytes += entry.message.weight
            self._bytes -= sum(entry.message.weight for entry in passing)
            self._dropped["offline"] += len(passing)
            passing.clear()
            self._trim()
            return len(back)

    def drop_waiting(self) -> int:
        """The end of the process: what is left is lost, counted as `stopped`. Returns how many."""
        self.rewind()
        with self._changed:
            left = sum(len(lane) for lane in self._lanes)
            for lane in self._lanes:
                lane.clear()
            self._bytes = 0
            if left:
                self._dropped["stopped"] += left
            self._changed.notify_all()
            return left

    def waits(self, durable: bool) -> bool:
        """Whether `take` would give something; a glance without the lock."""
        return bool(self._lanes[0]) or (durable and bool(self._lanes[1]))

    def wait_acked(self, timeout_s: float) -> bool:
        """Wait until every QoS 1 message put so far is acknowledged or counted as dropped; False when time ran out."""
        with self._changed:
            mark = self._put
            return self._changed.wait_for(lambda: self._oldest_ticket() > mark, max(0.0, timeout_s))

    def stats(self) -> OutgoingStats:
        with self._changed:
            oldest = self._oldest()
            return OutgoingStats(
                put=self._put,
                acked=self._acked,
                sent0=self._sent0,
                dropped={reason: n for reason, n in self._dropped.items() if n},
                waiting=sum(len(lane) for lane in self._lanes),
                in_flight=len(self._in_flight),
                waiting_bytes=self._bytes,
                oldest_unacked_ns=None if oldest is None else oldest.put_ns,
            )

    def _trim(self) -> int:
        victims = 0
        for lane in self._lanes:
            while len(lane) > self._max_messages or (lane and self._bytes > self._max_bytes):
                self._bytes -= lane.popleft().message.weight
                victims += 1
        if victims:
            self._dropped["full"] += victims
            self._changed.notify_all()
        return victims

    def _oldest(self) -> Entry | None:
        lasting = self._lanes[1]
        candidates = [next(iter(self._in_flight.values()))] if self._in_flight else []
        if lasting:
            candidates.append(lasting[0])
        return min(candidates, key=lambda entry: entry.ticket, default=None)

    def _oldest_ticket(self) -> float:
        oldest = self._oldest()
        return float("inf") if oldest is None else oldest.ticket
