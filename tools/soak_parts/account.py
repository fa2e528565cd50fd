"""Every result by its number: published by the daemon, heard from the broker."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, defaultdict
from typing import Any

import msgspec

WINDOW_S = 600
"""Ages are told apart by windows of this length."""


class _Line(msgspec.Struct):
    """The keys of a Result message that are counted here."""

    id: str
    stream: str
    seq: int
    age_ms: float
    replayed: bool = False


class _Said(msgspec.Struct):
    kind: str = ""


class _State(msgspec.Struct):
    state: str
    reason: str = ""


class _Answer(msgspec.Struct):
    ok: bool
    id: str = ""


class Account:
    """Fed by two threads, one for each `take_…`. One byte a result and one float, so that a day fits."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.run = ""
        """The first half of the ids of the daemon's one run."""
        self.torn = 0
        """Lines and messages that are no Result."""
        self.foreign = 0
        """Results of another run than the first one seen."""
        self.disorder = 0
        """Results that came for the first time, and after a later one of their stream, live and replayed apart."""
        self.live_twice = 0
        """Copies that came live, and not as a replay."""
        self.events: Counter[str] = Counter()
        self.states: dict[str, str] = {}
        """What each stream said last of itself, with its reason."""
        self.answers: dict[str, bool] = {}
        """By a command's id, whether it was done."""
        self.refused = 0
        """Answers to commands without an id that were not done."""
        self.published = bytearray()
        self.heard = bytearray()
        """How often each number came (255 at most)."""
        self.replayed = 0
        self.ages: dict[str, dict[int, array[float]]] = defaultdict(dict)
        self.latest_s: dict[str, float] = {}
        """When each stream published last (monotonic seconds)."""
        self._newest: dict[tuple[str, bool], int] = {}
        self._lock = threading.Lock()
        self._result = msgspec.json.Decoder(_Line)
        self._event = msgspec.json.Decoder(_Said)
        self._stated = msgspec.json.Decoder(_State)
        self._answered = msgspec.json.Decoder(_Answer)

    def take_line(self, line: bytes) -> None:
        """A line of the daemon's standard output."""
        now_s = time.monotonic()
        result = self._read(line)
        if result is None:
            return
        number = self._number(result)
        if number is None:
            return
        with self._lock:
            _count(self.published, number)
        windows = self.ages[result.stream]
        windows.setdefault(int((now_s - self.began_s) // WINDOW_S), array("f")).append(result.age_ms)
        self.latest_s[result.stream] = now_s

    def take_message(self, topic: str, payload: bytes) -> None:
        """A message of the broker's, below the device's root."""
        levels = topic.split("/")
        if levels[2] == "detections":
            self._take_result(payload)
        elif levels[2] == "event":
            self.events[self._event.decode(payload).kind] += 1
        elif levels[2] == "state":
            state = self._stated.decode(payload)
            self.states[levels[3]] = f"{state.state} ({state.reason})" if state.reason else state.state
        elif levels[2] == "cmd" and levels[-1] == "result":
            answer = self._answered.decode(payload)
            if answer.id:
                self.answers[answer.id] = answer.ok
            else:
                self.refused += not answer.ok

    def _take_result(self, payload: bytes) -> None:
        result = self._read(payload)
        number = None if result is None else self._number(result)
        if result is None or number is None:
            return
        with self._lock:
            copies = _count(self.heard, number)
        self.replayed += result.replayed
        if copies > 1:
            self.live_twice += not result.replayed
            return
        key = (result.stream, result.replayed)
        self.disorder += number < self._newest.get(key, -1)
        self._newest[key] = max(number, self._newest.get(key, -1))

    def missing(self, published: int | None = None) -> list[int]:
        """Numbers below `published`, by default those that the daemon wrote, that never came."""
        with self._lock:
            wanted = range(published) if published is not None else [n for n, one in enumerate(self.published) if one]
            return [n for n in wanted if n >= len(self.heard) or not self.heard[n]]

    def duplicates(self) -> int:
        """Copies beyond the first."""
        with self._lock:
            return sum(copies - 1 for copies in self.heard if copies > 1)

    def count(self) -> tuple[int, int]:
        """Results written by the daemon, and results that came."""
        with self._lock:
            return sum(map(bool, self.published)), sum(map(bool, self.heard))

    def _read(self, body: bytes) -> _Line | None:
        try:
            return self._result.decode(body)
        except msgspec.DecodeError:
            self.torn += 1
            return None

    def _number(self, result: _Line) -> int | None:
        run, _, number = result.id.partition("-")
        with self._lock:
            self.run = self.run or run
        if run != self.run:
            self.foreign += 1
            return None
        return int(number)


def _count(copies: bytearray, number: int) -> int:
    if number >= len(copies):
        copies.extend(bytes(number + 1 - len(copies) + 4096))
    copies[number] = min(copies[number] + 1, 255)
    return copies[number]


class Listener:
    """The consumer, and who sends commands: one MQTT client, straight to the broker.

    It subscribes with QoS 0: the broker then writes a message to its socket before it acknowledges it to the daemon, so
    that what a killed broker acknowledged has left it.
    """

    def __init__(self, port: int, root: str, account: Account) -> None:
        from paho.mqtt import client as paho

        self.ready = threading.Event()
        self._root = root
        client: Any = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_connect = lambda one, *_: one.subscribe(f"{root}/#", 0)
        client.on_subscribe = lambda *_: self.ready.set()
        client.on_disconnect = lambda *_: self.ready.clear()
        client.on_message = lambda _client, _data, message: account.take_message(message.topic, message.payload)
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", port, keepalive=300)
        client.loop_start()
        self._client = client
        if not self.ready.wait(30):
            raise TimeoutError("the broker did not take the subscription within 30 s")

    def send(self, verb: str, payload: bytes, *, retain: bool = False) -> None:
        """A command; it waits in the client while the broker is away."""
        self._client.publish(f"{self._root}/cmd/{verb}", payload, qos=1, retain=retain)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
