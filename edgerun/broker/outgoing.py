"""What waits to be sent: bounded, oldest dropped, everything counted."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping

import msgspec

from edgerun.broker.message import Kind, Message

SUSPECT = 2
"""Links hung up on with a message on the way, and it is suspected of being why: see `Outgoing.rewind`."""
_GUILTY = 3


class Entry(msgspec.Struct, eq=False):
    """A message with its ticket: tickets only ever grow, in the order of `put`; those of replayed ones lie below 0."""

    ticket: int
    message: Message
    put_ns: int
    place: tuple[Kind, int] | None = None
    """Where a spool keeps it: class and number there."""
    tries: int = 0
    """How many links were hung up on while it was on the way."""
    alone: int = 0
    """How many of them while nothing else was."""


class OutgoingStats(msgspec.Struct, frozen=True):
    """`put = acked + sent0 + Σ dropped + waiting + in_flight`."""

    put: int
    """With a spool, what it held at the start among them."""
    acked: int
    """QoS 1 messages whose PUBACK came."""
    sent0: int
    """QoS 0 messages handed to the network."""
    dropped: Mapping[str, int]
    """By reason: `full` the queue, `offline` QoS 0 without a link, `too_large`, `refused` by the broker, `expired`,
    `poison` what the broker hangs up on, `stopped`; with a spool also `spool_full`, `disk_full`, `damaged` and
    `unsaid`: states and answers at the stop, which the next start says anew."""
    waiting: int
    """With a spool, what lies on the disk only among them."""
    in_flight: int
    waiting_bytes: int
    """In memory."""
    oldest_unacked_ns: int | None
    """When the oldest QoS 1 message in memory that is not acknowledged yet was put."""


class Outgoing:
    """The queue in front of the network, in memory. Thread-safe; nothing in it blocks but `wait_acked`.

    QoS 0 and QoS 1 wait in lanes of their own, so that a full window of unacknowledged messages does not hold up QoS 0.
    A QoS 1 message stays here until `ack`; `rewind` after a lost link puts the unacknowledged ones back in front, in
    their order. `spool.Spool` is this queue with a disk behind it.
    """

    def __init__(self, max_messages: int = 1000, max_bytes: int = 16 << 20) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._changed = threading.Condition()  # its lock is re-entrant
        self._lanes: tuple[deque[Entry], deque[Entry]] = (deque(), deque())
        self._in_flight: OrderedDict[int, Entry] = OrderedDict()
        self._bytes = self._put = self._acked = self._sent0 = 0
        self._dropped: Counter[str] = Counter()
        self._suspects = 0

    def start(self, nudge: Callable[[], None]) -> None:
        """Before the first `take`. `nudge`, callable from any thread, says that `take` may have something new."""

    def opened(self, window: int) -> None:
        """A link is up, which takes `window` unacknowledged messages at a time."""

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

    def take(self, durable: bool, now_ns: int) -> Entry | None:
        """The next message to send, oldest first; QoS 1 only when `durable`. None when there is none.

        A QoS 1 entry is in flight from then on; a QoS 0 entry is done with.
        """
        with self._changed:
            return self._take(durable, now_ns)

    def _take(self, durable: bool, now_ns: int) -> Entry | None:
        passing, lasting = self._lanes
        while passing or lasting:
            lane = passing
            if durable and lasting and (not passing or lasting[0].ticket < passing[0].ticket):
                lane = lasting
            if lane is lasting and lane and not self._may_go(lane[0]):
                lane = passing
            if not lane:
                return None
            entry = lane.popleft()
            self._bytes -= entry.message.weight
            expires_s = entry.message.expires_s
            if expires_s is not None and now_ns - entry.put_ns >= expires_s * 1e9:
                self._dropped["expired"] += 1
                self._settled(entry)
                continue
            if lane is lasting:
                self._in_flight[entry.ticket] = entry
            else:
                self._sent0 += 1
            return entry
        return None

    def _may_go(self, entry: Entry) -> bool:
        """Whether a QoS 1 message may be handed to the network yet."""
        return True

    def ack(self, ticket: int) -> None:
        """The broker has it."""
        with self._changed:
            entry = self._in_flight.pop(ticket, None)
            if entry is not None:
                self._acked += 1
                self._settled(entry)

    def drop(self, entry: Entry, reason: str) -> None:
        """A taken entry that will never be sent, or that the broker refused."""
        with self._changed:
            known = self._in_flight.pop(entry.ticket, None)
            if known is None and entry.message.qos == 0:
                self._sent0 -= 1
            self._dropped[reason] += 1
            self._settled(entry)

    def _settled(self, entry: Entry) -> None:
        """`entry` is out of everybody's hands."""
        if entry.tries >= SUSPECT:
            self._suspects -= 1
        self._changed.notify_all()

    def refuse(self, reason: str) -> None:
        """Count a message that is not even queued."""
        with self._changed:
            self._put += 1
            self._dropped[reason] += 1

    def rewind(self, blame: bool = False) -> int:
        """The link is lost: what was in flight waits again, before everything else; QoS 0 is dropped.

        Returns the number of messages that were in flight. `blame`: the broker hung up, and what it was sent last may
        be why. MQTT 3.1.1 has no other way to refuse a message (a PUBACK says nothing but yes), and sent again it would
        end every link there is. Whoever was on the way twice is suspected, and while there is a suspect one message
        is on the way at a time (`cautious`); what the broker hangs up on three times with nothing else on the way is
        dropped as `poison`.
        """
        with self._changed:
            if blame:
                self._blame()
            count = len(self._in_flight)
            self._return()
            passing = self._lanes[0]
            self._bytes -= sum(entry.message.weight for entry in passing)
            self._dropped["offline"] += len(passing)
            passing.clear()
            self._trim()
            self._changed.notify_all()
            return count

    def _blame(self) -> None:
        for entry in self._in_flight.values():
            entry.tries += 1
            self._suspects += entry.tries == SUSPECT
        if len(self._in_flight) == 1:
            (entry,) = self._in_flight.values()
            entry.alone += entry.tries > SUSPECT
            if entry.alone >= _GUILTY:
                del self._in_flight[entry.ticket]
                self._dropped["poison"] += 1
                self._settled(entry)
                self._poisoned(entry)

    def _poisoned(self, entry: Entry) -> None:
        """`entry` was given up as poison."""

    def _return(self) -> None:
        """What was in flight waits again."""
        lasting = self._lanes[1]
        back = sorted(self._in_flight.values(), key=lambda entry: entry.ticket, reverse=True)
        self._in_flight.clear()
        for entry in back:
            lasting.appendleft(entry)
            self._bytes += entry.message.weight

    @property
    def cautious(self) -> bool:
        """Whether only one message at a time should be on the way."""
        return self._suspects > 0

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

    def waits(self, durable: bool, now_ns: int) -> bool:
        """Whether `take` would give something; a glance without the lock."""
        return bool(self._lanes[0]) or (durable and bool(self._lanes[1]))

    def due_ns(self, durable: bool) -> int | None:
        """When something paced may be taken (monotonic ns); None when nothing waits for its time."""
        return None

    def wait_acked(self, timeout_s: float) -> bool:
        """Wait until every QoS 1 message put so far is acknowledged or counted as dropped; False when time ran out."""
        with self._changed:
            mark = self._put
            return self._changed.wait_for(lambda: self._oldest_ticket() > mark, max(0.0, timeout_s))

    def stats(self) -> OutgoingStats:
        with self._changed:
            return self._stats()

    def _stats(self) -> OutgoingStats:
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
                entry = lane.popleft()
                self._bytes -= entry.message.weight
                victims += self._give_way(entry)
        if victims:
            self._dropped["full"] += victims
            self._changed.notify_all()
        return victims

    def _give_way(self, entry: Entry) -> int:
        """`entry` found no room in memory; 1 when it is lost."""
        if entry.tries >= SUSPECT:
            self._suspects -= 1
        return 1

    def _oldest(self) -> Entry | None:
        """The oldest QoS 1 message in memory."""
        lasting = self._lanes[1]
        candidates = [min(self._in_flight.values(), key=lambda entry: entry.ticket)] if self._in_flight else []
        if lasting:
            candidates.append(lasting[0])
        return min(candidates, key=lambda entry: entry.ticket, default=None)

    def _oldest_ticket(self) -> float:
        oldest = self._oldest()
        return float("inf") if oldest is None else oldest.ticket
