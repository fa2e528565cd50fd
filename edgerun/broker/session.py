"""An accepted link at work: what is handed over to it, what has been acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from edgerun.broker.complaints import Complaints
from edgerun.broker.link import Accepted, Link
from edgerun.broker.message import Message, packet_bytes
from edgerun.broker.options import BrokerOptions
from edgerun.broker.outgoing import Entry, Outgoing
from edgerun.broker.reconnect import MQTT_5
from edgerun.errors import BrokerError

_BATCH = 64  # messages handed over before the network is looked at again
_FAILURES = 0x80  # reason codes from here on are failures (MQTT 5.0, 2.4)


class Session:
    """From an accepted CONNACK to the end of the link. Used by the thread "mqtt" only.

    First come `online` and the birth messages (`greeting`), then what waits in `outgoing`.
    """

    def __init__(
        self,
        link: Link,
        accepted: Accepted,
        options: BrokerOptions,
        outgoing: Outgoing,
        complaints: Complaints,
        greeting: Iterable[Message],
        now_ns: int,
    ) -> None:
        self._link, self._accepted, self._options = link, accepted, options
        self._outgoing, self._complaints = outgoing, complaints
        self._greeting = deque([Message(options.status_topic, b"online", 1, True), *greeting])
        self._unacked: dict[int, tuple[Message, Entry | None]] = {}
        self._window = min(options.inflight_max, accepted.receive_maximum)
        self._mqtt5 = link.protocol == MQTT_5
        self._acked_ns = now_ns
        self._leaving = False
        self.acked = 0
        """PUBACKs of this link."""
        self.began_ns = now_ns
        self.sent = 0

    @property
    def window(self) -> int:
        """QoS 1 messages that may be on the way at a time."""
        return self._window

    def has_more(self, now_ns: int) -> bool:
        """Whether `hand_over` would do something: a glance, for the sake of a publisher that came just now."""
        if not self._link.ready:
            return False
        room = self._has_room()
        return (room and bool(self._greeting)) or (not self._leaving and self._outgoing.waits(room, now_ns))

    def due_ns(self) -> int | None:
        """When something that waits for its time may be handed over (monotonic ns)."""
        return None if self._leaving or not self._link.ready else self._outgoing.due_ns(self._has_room())

    def _has_room(self) -> bool:
        """Among messages of which one makes the broker hang up, each goes alone: see `Outgoing.rewind`."""
        return len(self._unacked) < (1 if self._outgoing.cautious else self._window)

    def hand_over(self, now_ns: int) -> bool:
        """Give paho what fits: QoS 1 up to the window, and nothing while a packet still waits for the socket.

        True when it stopped only to look at the network in between.
        """
        for _ in range(_BATCH):
            room = self._has_room()
            if not self._link.ready:
                return False
            if self._greeting:
                if not room:
                    return False
                self._send(self._greeting.popleft(), None, now_ns)
                continue
            entry = None if self._leaving else self._outgoing.take(room, now_ns)
            if entry is None:
                return False
            self._send(entry.message, entry, now_ns)
        return True

    def settle(self, now_ns: int) -> None:
        """Book the PUBACKs that the last step brought."""
        if not self._link.acks:
            return
        for mid, code, words in self._link.acks:
            message, entry = self._unacked.pop(mid, (None, None))
            if message is None:
                continue  # of a QoS 0 message: paho reports it when it is written
            self._acked_ns = now_ns
            self.acked += 1
            if code >= _FAILURES:
                self._refused(message, entry, code, words)
            elif entry is not None:
                self._outgoing.ack(entry.ticket)
        self._link.acks.clear()

    def overdue(self, now_ns: int) -> bool:
        """The broker, or what lies between, takes our bytes and acknowledges nothing.

        While bytes of ours wait for the socket it is the keep-alive's turn to judge: a slow link is not a dead one.
        """
        waited_ns = now_ns - self._acked_ns
        return bool(self._unacked) and self._link.ready and waited_ns > self._options.ack_timeout_s * 1e9

    def leave(self) -> None:
        """From now on only `offline` is sent. Idempotent."""
        if not self._leaving:
            self._leaving = True
            self._greeting = deque([Message(self._options.status_topic, b"offline", 1, True)])

    @property
    def said_offline(self) -> bool:
        """Whether the broker has acknowledged everything up to and including `offline`."""
        return self._leaving and not self._greeting and not self._unacked

    def _send(self, message: Message, entry: Entry | None, now_ns: int) -> None:
        message = self._within(message)
        limit = self._accepted.packet_max_bytes
        if limit is not None and (size := packet_bytes(message, mqtt5=self._mqtt5)) > limit:
            self._too_large(message, entry, size, limit)
            return
        waited_s = 0 if entry is None else (now_ns - entry.put_ns) // 10**9
        mid = self._link.publish(message, waited_s)
        self.sent += 1
        if message.qos:
            if not self._unacked:
                self._acked_ns = now_ns
            self._unacked[mid] = (message, entry)
        elif entry is not None and entry.message.qos:
            self._outgoing.ack(entry.ticket)

    def _within(self, message: Message) -> Message:
        """The message as far as this broker can take it (MQTT 5.0, 3.2.2.3.4 and 3.2.2.3.5)."""
        if message.qos > self._accepted.qos_max:
            error = BrokerError("this broker knows QoS 0 only: messages can get lost", where=self._options.url)
            self._complaints.once("qos", error)
            message = msgspec.structs.replace(message, qos=0)
        if message.retain and not self._accepted.can_retain:
            self._complaints.once("retain", BrokerError("this broker retains nothing", where=self._options.url))
            message = msgspec.structs.replace(message, retain=False)
        return message

    def _too_large(self, message: Message, entry: Entry | None, size: int, limit: int) -> None:
        error = BrokerError(
            "a message too large for this broker is dropped; all such are counted",
            where=message.topic,
            expected=f"at most {limit} bytes",
            got=f"{size} bytes",
            remedy="send less in one message, or raise the broker's maximum packet size",
        )
        self._complaints.once(f"too_large:{message.topic}", error)
        if entry is not None:
            self._outgoing.drop(entry, "too_large")

    def _refused(self, message: Message, entry: Entry | None, code: int, words: str) -> None:
        error = BrokerError(
            "the broker refuses a message, which is lost; all such are counted",
            where=message.topic,
            got=f"{words} (0x{code:02X})",
            remedy="check what the broker allows this user to publish",
        )
        self._complaints.once(f"refused:{message.topic}:{code}", error)
        if entry is not None:
            self._outgoing.drop(entry, "refused")
