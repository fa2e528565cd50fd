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

    A shared subscription (`$share/group/filter`; MQTT 5.0, 4.8.2) is matched by the filter in it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inboxes: dict[str, tuple[Slot[Incoming], int]] = {}
        self._to_ask: deque[str] = deque()

    def add(self, topic_filter: str, inbox: Slot[Incoming], qos: int) -> None:
        with self._lock:
            self._inboxes[topic_filter] = (inbox, qos)
            self._to_ask.append(topic_filter)

    @property
    def waits(self) -> bool:
        """Whether the broker has still to be asked for something."""
        return bool(self._to_ask)

    def ask_all(self) -> None:
        """A new link: everything has to be asked for again; a broker that kept the session does not mind."""
        with self._lock:
            self._to_ask = deque(self._inboxes)

    def ask(self, link: Link) -> None:
        while self._to_ask and link.ready:
            with self._lock:
                topic_filter = self._to_ask.popleft()
                wanted = self._inboxes.get(topic_filter)
            if wanted is not None:
                link.subscribe(topic_filter, wanted[1])

    def deliver(self, incoming: Incoming) -> None:
        """Into every inbox whose filter matches. A full inbox loses its oldest, a closed one is forgotten."""
        from paho.mqtt.client import topic_matches_sub

        with self._lock:
            wanted = [
                (wish, inbox)
                for wish, (inbox, _) in self._inboxes.items()
                if topic_matches_sub(wish.split("/", 2)[2] if wish.startswith("$share/") else wish, incoming.topic)
            ]
        for topic_filter, inbox in wanted:
            try:
                inbox.put(incoming)
            except Closed:
                with self._lock:
                    self._inboxes.pop(topic_filter, None)
