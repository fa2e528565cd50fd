"""Who wants which incoming messages."""

from __future__ import annotations

import threading
from collections import deque

from edgerun.broker.link import Link
from edgerun.errors import Closed
from edgerun.ports import Incoming
from edgerun.slot import Slot


class Inboxes:
    """Topic filters and the bounded hand-offs behind them. `add` from any thread, the rest from the thread "mqtt".

    Several may want the same filter. When the last of them is closed the broker is told: what it goes on sending would
    come to nothing, and of a shared subscription that part belongs to the others. A shared subscription
    (`$share/group/filter`; MQTT 5.0, 4.8.2) is matched by the filter in it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inboxes: dict[str, list[tuple[Slot[Incoming], int]]] = {}
        self._as_published: set[str] = set()
        self._to_ask: deque[str] = deque()
        self._to_end: deque[str] = deque()

    def add(self, topic_filter: str, inbox: Slot[Incoming], qos: int, *, as_published: bool = False) -> None:
        with self._lock:
            if as_published:
                self._as_published.add(topic_filter)
            self._inboxes.setdefault(topic_filter, []).append((inbox, qos))
            self._to_ask.append(topic_filter)

    @property
    def waits(self) -> bool:
        """Whether the broker has still to be told something."""
        with self._lock:
            self._forget_closed()
            return bool(self._to_ask or self._to_end)

    def ask_all(self) -> None:
        """A new link: everything has to be asked for again; a broker that kept the session does not mind."""
        with self._lock:
            self._to_ask = deque(self._inboxes)

    def ask(self, link: Link) -> None:
        """Subscribe, and end subscriptions, as far as the link takes it."""
        while (self._to_ask or self._to_end) and link.ready:
            with self._lock:
                ending = self._to_end.popleft() if self._to_end else None
                topic_filter = self._to_ask.popleft() if ending is None else ending
                wanted = [qos for _, qos in self._inboxes.get(topic_filter, ())]
            if wanted:  # asked for again meanwhile, where it was to end
                link.subscribe(topic_filter, max(wanted), as_published=topic_filter in self._as_published)
            elif ending is not None:
                link.unsubscribe(topic_filter)

    def deliver(self, incoming: Incoming) -> list[Incoming]:
        """Into every inbox whose filter matches. A full inbox loses its oldest, a closed one is forgotten.

        Returns what nobody will take: what was lost, and `incoming` itself where nobody wants it.
        """
        from paho.mqtt.client import topic_matches_sub

        with self._lock:
            wanted = [
                inbox
                for wish, inboxes in self._inboxes.items()
                if topic_matches_sub(wish.split("/", 2)[2] if wish.startswith("$share/") else wish, incoming.topic)
                for inbox, _ in inboxes
            ]
        left: list[Incoming] = [] if wanted else [incoming]
        for inbox in wanted:
            try:
                victim = inbox.put(incoming)
            except Closed:  # `waits` notices
                victim = incoming
            if victim is not None:
                left.append(victim)
        return left

    def _forget_closed(self) -> None:
        """Call it with the lock held."""
        for topic_filter, inboxes in list(self._inboxes.items()):
            left = [(inbox, qos) for inbox, qos in inboxes if not inbox.closed]
            if len(left) == len(inboxes):
                continue
            if left:
                self._inboxes[topic_filter] = left
            else:
                del self._inboxes[topic_filter]
                self._to_end.append(topic_filter)
