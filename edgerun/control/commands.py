"""Commands over MQTT: `<prefix>/<device>/cmd/<verb>` in, what came of each out."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial

from edgerun.broker.message import check_topic
from edgerun.control.desk import Command, Desk, Origin
from edgerun.errors import Closed
from edgerun.ports import Broker, Incoming
from edgerun.slot import Slot
from edgerun.validate import show

_log = logging.getLogger(__name__)

_WAITING = 16  # commands that may wait; people send them
VERB = re.compile(r"[a-z0-9_-]{1,32}(/[a-z0-9_-]{1,32})?")
_ORIGIN = Origin("mqtt", "the broker")


class Commands:
    """Takes commands from the broker on the thread "control" and has them done, one after the other, by `hand_over`.

    Who may send them is the broker's to say (its access list), and then the desk's. Refused here are retained messages,
    which every reconnect would bring again, and what is no verb. A command is answered on its response topic, else on
    `…/cmd/<verb>/result`. Of more than 16 that wait the oldest give way, which is told in the log.
    """

    def __init__(self, broker: Broker, root: str, desk: Desk) -> None:
        self._broker = broker
        self._device = f"{root}/"
        self._root = f"{root}/cmd/"
        self._desk = desk
        self._inbox: Slot[Incoming] = Slot(_WAITING)
        self._told_dropped = 0
        for levels in ("+", "+/+"):
            # Else clearing a retained command, by an empty message, would be that command.
            broker.subscribe(self._root + levels, self._inbox, 1, as_published=True)

    def run(self, hand_over: Callable[[Command], None]) -> None:
        """The thread's body, until `close`: what is asked for, as it comes."""
        while True:
            try:
                incoming = self._inbox.take()
            except Closed:
                return
            assert incoming is not None  # it waits for ever
            self._tell_dropped()
            command = self._read(incoming)
            if command is not None:
                hand_over(command)

    def close(self) -> None:
        """Take no more commands; `run` ends."""
        self._inbox.close()

    def _read(self, incoming: Incoming) -> Command | None:
        """The command in a message; None for what is none, or refused."""
        verb = incoming.topic.removeprefix(self._root)
        if verb.endswith("/result"):  # ours
            return None
        if not VERB.fullmatch(verb):
            _log.warning("a message on %s is no command: no verb is called so", show(incoming.topic))
            return None
        if incoming.retain:
            self._desk.refuse(verb, _ORIGIN, "a retained command is refused: every reconnect would bring it again")
            return None
        reply = partial(self._send, self._reply_topic(verb, incoming), incoming.correlation)
        return self._desk.read(verb, incoming.payload, _ORIGIN, reply, expires_in_s=incoming.expires_in_s)

    def _reply_topic(self, verb: str, incoming: Incoming) -> str:
        """Where the answer goes. Not to topics of this device's own, where it would pass for what the device says."""
        topic, own = incoming.response_topic, self._root + verb + "/result"
        if topic is None or topic == own:
            return own
        try:
            check_topic(topic)
        except ValueError:
            _log.warning("command %s: its response topic is none that can be published to", verb)
            return own
        if topic.startswith(self._device) and not (topic.startswith(self._root) and topic.endswith("/result")):
            _log.warning("command %s: its response topic is one of this device's own", verb)
            return own
        return topic

    def _tell_dropped(self) -> None:
        """With the first, and whenever they have doubled."""
        dropped = self._inbox.stats().victims
        if dropped > 2 * self._told_dropped:
            self._told_dropped = dropped
            _log.warning("%d commands gave way so far, more than %d waited", dropped, _WAITING)

    def _send(self, topic: str, correlation: bytes | None, body: bytes) -> None:
        self._broker.publish(topic, body, qos=1, correlation=correlation)
