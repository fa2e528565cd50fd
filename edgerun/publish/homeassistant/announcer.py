"""Keeping Home Assistant told: at every connection, when it comes up, and when something changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from edgerun.broker.message import Message
from edgerun.ports import Broker, Incoming
from edgerun.publish.homeassistant.description import DescribedDevice
from edgerun.publish.homeassistant.discovery import Discovery, announced, discovery, topic
from edgerun.slot import Slot

_log = logging.getLogger(__name__)

_WAITING = 8


class Announcer:
    """Sends the discovery message of `device` through `broker`. Used by one thread; `birth` by any.

    A broker keeps the message of an earlier run; its components that are no longer there are removed, once, as Home
    Assistant demands. `prefix` is Home Assistant's discovery prefix, whose `…/status` says when it comes up.
    """

    def __init__(self, broker: Broker, device: DescribedDevice, prefix: str = "homeassistant") -> None:
        self._broker, self._prefix = broker, prefix
        self._status_topic = f"{prefix}/status"
        self._told: set[str] = set()
        self._device = device
        self._now = self._made()
        self._inbox: Slot[Incoming] = Slot(_WAITING)
        broker.subscribe(self._now.topic, self._inbox, 1)
        broker.subscribe(self._status_topic, self._inbox, 1)

    @property
    def current(self) -> Discovery:
        """What is announced now."""
        return self._now

    def birth(self) -> Message:
        """The message that every new connection begins with."""
        return Message(self._now.topic, self._now.payload, qos=1, retain=True)

    def tick(self) -> None:
        """Take what came: Home Assistant came up, or an earlier run's message lies at the broker."""
        while len(self._inbox):
            incoming = self._inbox.take(0)
            if incoming is None:
                return
            if incoming.topic == self._status_topic:
                if incoming.payload == b"online" and not incoming.retain:  # a retained one is older than our birth
                    _log.info("Home Assistant has come up; the discovery message is sent again")
                    self._send(self._now)
            elif incoming.retain:
                self._remove(announced(incoming.payload))

    def update(self, device: DescribedDevice) -> None:
        """The device is `device` from now on. Sends what changed; nothing when nothing did."""
        if topic(device, self._prefix) != self._now.topic:
            raise ValueError(f"a device keeps its id; got {device.id} after {self._device.id}")
        self._device, before = device, self._now
        self._now = self._made()
        if self._now.payload == before.payload:
            return
        if not self._remove(before.platforms):
            self._send(self._now)

    def withdraw(self) -> None:
        """Take the whole device out of Home Assistant: an empty retained message."""
        self._broker.publish(self._now.topic, b"", qos=1, retain=True)

    def close(self) -> None:
        """Listen no more; what was announced stays, its availability says that the device is offline."""
        self._inbox.close()

    def _made(self) -> Discovery:
        made = discovery(self._device, self._prefix)
        news = [one for one in made.left_out if one not in self._told]
        if news:
            self._told.update(news)
            more = f" and {len(news) - 5} more" if len(news) > 5 else ""
            _log.warning(
                "Home Assistant is not told of %s%s: the discovery message would be too long; list fewer labels",
                ", ".join(news[:5]),
                more,
            )
        return made

    def _remove(self, before: Mapping[str, str]) -> bool:
        """Remove what is in `before` and not there now; whether there was anything."""
        gone = {key: platform for key, platform in before.items() if self._now.platforms.get(key) != platform}
        if not gone:
            return False
        _log.info("Home Assistant: %d entities that are no longer there are removed", len(gone))
        self._send(discovery(self._device, self._prefix, removed=gone))
        self._send(self._now)
        return True

    def _send(self, message: Discovery) -> None:
        self._broker.publish(message.topic, message.payload, qos=1, retain=True)
