"""Thousands of MQTT clients on one thread: paho driven by one selector, back-off by `broker.reconnect`."""

from __future__ import annotations

import heapq
import itertools
import random
import selectors
import socket
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgerun.broker import ending as endings
from edgerun.broker.ending import Ending
from edgerun.broker.message import Message
from edgerun.broker.options import BrokerOptions
from edgerun.broker.reconnect import Reconnect
from tools.fleet_sim_parts.device import SimDevice

_MISC_S = 5.0
_SPREAD_S = 0.005


class NoDice(random.Random):
    """What back-off is without jitter: always the longest."""

    def uniform(self, a: float, b: float) -> float:
        return b

    def random(self) -> float:
        return 1.0


class PatientClient(paho.Client):  # type: ignore[misc]
    """Connects without waiting: one thread cannot stand still for one of thousands."""

    def _create_socket_connection(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex((self._host, self._port))
        return sock


class Member:
    """One device's link."""

    def __init__(self, crowd: Crowd, device: SimDevice, options: BrokerOptions, dice: random.Random) -> None:
        self._crowd, self.device, self._options = crowd, device, options
        self._address = options.addresses[0]
        self._reconnect = Reconnect(options, self._address, dice)
        self._client: Any = None
        self.sock: socket.socket | None = None
        self.up_since: float | None = None
        self._began = 0.0
        self._lost = False
        self._mask = 0
        self.generation = 0

    def connect(self, now: float) -> None:
        self.generation += 1
        self._lost, self._began, self.up_since = False, now, None
        client = self._client = PatientClient(
            paho.CallbackAPIVersion.VERSION2, client_id=self.device.name, protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )  # fmt: skip
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_socket_close = self._on_message, self._crowd.drop
        will = Properties(PacketTypes.WILLMESSAGE)
        will.WillDelayInterval = self._options.will_delay_s
        client.will_set(self._options.status_topic, b"offline", 1, True, will)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._options.session_expiry_s
        self._crowd.counts["attempts"] += 1
        client.connect(
            "127.0.0.1", self._address.port, self._options.keepalive_s, clean_start=False, properties=properties
        )
        self.sock = client.socket()
        self._crowd.later(now + self._options.connect_timeout_s, self, "timeout")
        if self.sock is None:
            self.end(endings.closed_early(self._address), now)
            return
        self._mask = selectors.EVENT_READ | selectors.EVENT_WRITE
        self._crowd.selector.register(self.sock, self._mask, self)

    def handle(self, mask: int, now: float) -> None:
        client = self._client
        if mask & selectors.EVENT_WRITE:
            client.loop_write()
        if mask & selectors.EVENT_READ and not self._lost:
            client.loop_read()
        self.settle(now)

    def settle(self, now: float) -> None:
        """After anything was done with paho: is it lost, has it to write?"""
        if self.sock is None:
            return
        if self._lost or self._client.socket() is None:
            served = self.up_since is not None
            ending = endings.lost(self._address, "", hung_up=True) if served else endings.closed_early(self._address)
            self.end(ending, now)
            return
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._client.want_write() else 0)
        if mask != self._mask:
            self._mask = mask
            self._crowd.selector.modify(self.sock, mask, self)

    def timeout(self, now: float) -> None:
        """Neither TCP nor a CONNACK came in time."""
        if self.up_since is None and self.sock is not None:
            self.end(endings.no_connack(self._options, self._address), now)

    def end(self, ending: Ending, now: float) -> None:
        served_s = None if self.up_since is None else now - self.up_since
        self.sock = None
        self._client.on_disconnect = None
        self._client._sock_close()
        self._crowd.counts["lost" if served_s is not None else f"failed_{ending.cause.value}"] += 1
        self._crowd.up -= served_s is not None
        self.up_since = None
        plan = self._reconnect.after(ending, served_s)
        self._crowd.later(now + plan.delay_s, self, "connect")

    def speak(self, now: float) -> None:
        for message in self.device.due(now):
            if self.up_since is not None:
                self.send(message)
        self._crowd.later(max(self.device.next_at(), now + _SPREAD_S), self, "speak")
        self.settle(now)

    def send(self, message: Message) -> None:
        properties = None
        if message.expires_s is not None:
            properties = Properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = message.expires_s
        self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        self._crowd.counts["published"] += 1

    def misc(self, now: float) -> None:
        if self.up_since is not None:
            self._client.loop_misc()
            self.settle(now)

    def _on_connect(self, client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._lost = True
            return
        now = time.monotonic()
        self.up_since = now
        self._crowd.up += 1
        self._crowd.accepted.append((now, now - self._began))
        client.subscribe([(topic, 1) for topic in self.device.commands])
        for message in self.device.birth():
            self.send(message)

    def _on_disconnect(self, *_: Any) -> None:
        self._lost = True

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        if message.topic.endswith("/result"):  # its own answer, under the filter of commands
            return
        now = time.monotonic()
        for answer in self.device.take(message.topic, bytes(message.payload), now):
            self.send(answer)
        self._crowd.later(now, self, "speak-once")


class Crowd:
    """The members of one process. `turn` is called for ever."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.members: list[Member] = []
        self.counts: Counter[str] = Counter()
        self.accepted: list[tuple[float, float]] = []
        """When each CONNACK came (monotonic), and how long after its connect."""
        self.up = 0
        self._later: list[tuple[float, int, Member, str, int]] = []
        self._numbers = itertools.count()

    def add(self, member: Member, at: float) -> None:
        """It connects at `at` and speaks from then on."""
        self.members.append(member)
        self.later(at, member, "connect")
        self.later(max(at, member.device.next_at()), member, "speak")
        self.later(at + _MISC_S, member, "misc")

    def later(self, at: float, member: Member, what: str) -> None:
        heapq.heappush(self._later, (at, next(self._numbers), member, what, member.generation))

    def drop(self, _client: Any, _data: Any, sock: socket.socket) -> None:
        """paho is about to close it."""
        with suppress(KeyError):  # it failed before it was watched
            self.selector.unregister(sock)

    def turn(self, longest_s: float = 0.1) -> None:
        now = time.monotonic()
        wait = min(longest_s, max(0.0, self._later[0][0] - now)) if self._later else longest_s
        for key, mask in self.selector.select(wait):
            if isinstance(key.data, Member):
                key.data.handle(mask, time.monotonic())
        now = time.monotonic()
        for _ in range(2000):
            if not self._later or self._later[0][0] > now:
                return
            _, _, member, what, generation = heapq.heappop(self._later)
            if what == "timeout":
                if generation == member.generation:
                    member.timeout(now)
            elif what == "misc":
                member.misc(now)
                self.later(now + _MISC_S, member, "misc")
            elif what == "connect":
                member.connect(now)
            elif what == "speak":
                member.speak(now)
            else:  # a command has made it busy: until its next turn
                self._speak_once(member, now)

    def _speak_once(self, member: Member, now: float) -> None:
        rollout = member.device.rollout
        for message in member.device.due(now):
            if member.up_since is not None:
                member.send(message)
        member.settle(now)
        if rollout is not None and not rollout.ended and rollout.state != "active":
            self.later(max(member.device.next_at(), now + _SPREAD_S), member, "speak-once")
