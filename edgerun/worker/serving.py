"""A worker at its broker: it takes what the group's subscription gives it, answers, and ends with nothing in hand."""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from edgerun import __version__
from edgerun.app.opening import LoadedModel
from edgerun.broker.connection import Connection
from edgerun.broker.message import Message, check_topic
from edgerun.broker.options import BrokerOptions
from edgerun.clock import Clock
from edgerun.errors import BrokerError, Closed
from edgerun.infer.work import Told, encode, shared_filter
from edgerun.ports import Incoming
from edgerun.slot import Slot
from edgerun.worker.answering import Answerer

_log = logging.getLogger(__name__)

_LOOK_S = 0.25
_MORE = 32
"""Requests of QoS 0, which no Receive Maximum holds back, that may wait besides."""
_GOODBYE_S = 2.0
_SEEN = 1024
_KEEPALIVE_S = 10  # so long, and half as long again, the broker gives requests to a worker that was cut off


class ServiceOptions(msgspec.Struct, frozen=True):
    """`in_flight`: requests that the broker may hand over before the first is answered; one is inferred at a time, the
    others wait so that it never stands idle.
    """

    broker: BrokerOptions
    group: str
    in_flight: int = 2


class ServiceStats(msgspec.Struct, frozen=True):
    """`taken = answered + Σ refused + mute + twice`: `mute` had nowhere to be answered to, `twice` came again to the
    worker that has it already.
    """

    taken: int
    answered: int
    refused: dict[str, int]
    mute: int
    twice: int
    infer_ms: float
    """Of the last one."""


class Service:
    """One worker. `run` is one thread's; `stop` and `stats` any thread's.

    The broker's own flow control is used: it hands over at most `in_flight` requests of QoS 1 (Receive Maximum) and
    each is acknowledged when it has been answered. What the broker still has, it drops when it expires. The session
    ends with the link, so that no request waits for a worker that has gone.
    """

    def __init__(self, answerer: Answerer, options: ServiceOptions, clock: Clock) -> None:
        self._answerer, self._options, self._clock = answerer, options, clock
        bundle = answerer.model.bundle
        self._filter = shared_filter(options.broker.prefix, bundle.name, options.group)
        self._run = os.urandom(4).hex()
        self._capacity = answerer.measure()
        self._inbox: Slot[Incoming] = Slot(options.in_flight + _MORE)
        broker = msgspec.structs.replace(
            options.broker,
            receive_max=options.in_flight,
            session_expiry_s=0,
            will_delay_s=0,
            keepalive_s=min(options.broker.keepalive_s, _KEEPALIVE_S),
        )
        self._connection = Connection(broker, clock, birth=self._birth)
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._infer_ms = 0.0
        self._seen: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._stop = threading.Event()

    @property
    def capacity(self) -> float:
        """Frames a second, as measured when the model was opened."""
        return self._capacity

    @property
    def model(self) -> LoadedModel:
        """What it serves with."""
        return self._answerer.model

    @property
    def name(self) -> str:
        """As answers and topics have it."""
        return self._options.broker.client_id

    def change(self, answerer: Answerer, capacity: float) -> None:
        """Serve with this one from the next frame on: of the same name. By the thread that serves."""
        self._answerer, self._capacity = answerer, capacity
        for message in self._birth():
            self._connection.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)

    def stop(self) -> None:
        """Take no more; `run` answers what is in hand and returns. For signal handlers too."""
        self._stop.set()

    def stats(self) -> ServiceStats:
        """What was done so far."""
        counts = self._counts
        return ServiceStats(
            counts["taken"],
            counts["answered"],
            dict(self._refused),
            counts["mute"],
            counts["twice"],
            round(self._infer_ms, 3),
        )

    def why_not_ready(self) -> str:
        """Why no frames come; empty where they may. Any thread."""
        if self._connection.connected:
            return ""
        return f"not connected to the broker: {self._connection.last_error or 'it has not answered yet'}"

    def run(self, turn: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; `turn` is called several times a second, unless a frame takes longer.

        Raises `BrokerError` when the broker speaks no MQTT 5, or another worker has this id.
        """
        self._connection.start()
        self._connection.subscribe(self._filter, self._inbox, 1)
        try:
            while not self._stop.is_set():
                self._check()
                turn()
                request = self._inbox.take(_LOOK_S)
                if request is not None:
                    self._serve(request)
            self._inbox.close()
            self._drain()
        finally:
            self._inbox.close()
            if self._connection.connected:
                self._connection.publish(self._info_topic, b"", qos=1, retain=True)
                self._connection.flush(_GOODBYE_S)
            self._connection.stop(_GOODBYE_S)

    def _drain(self) -> None:
        try:
            while True:
                request = self._inbox.take()
                if request is not None:
                    self._serve(request)
        except Closed:
            return

    def _serve(self, request: Incoming) -> None:
        self._counts["taken"] += 1
        topic = request.response_topic
        if topic is None or request.retain or not _answerable(topic):
            self._counts["mute"] += 1
            if self._counts["mute"] == 1:
                _log.warning("%s: a request without a usable response topic is answered to nobody", request.topic)
        elif self._has_seen(topic, request.correlation):
            self._counts["twice"] += 1
        else:
            told = self._answerer.answer(request.payload, (self._clock.mono_ns() - request.came_ns) / 1e6)
            self._note(told)
            if told.refusal is not None:  # it may come back here, and is to be told again
                self._seen.pop((topic, request.correlation or b""), None)
            self._connection.publish(topic, encode(told), correlation=request.correlation)
        self._connection.ack(request)

    def _has_seen(self, topic: str, correlation: bytes | None) -> bool:
        """Whether this request came here before: who is impatient sends it again, meant for another worker."""
        if correlation is None:
            return False
        key = (topic, correlation)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return False

    def _note(self, told: Told) -> None:
        if told.refusal is None:
            self._counts["answered"] += 1
            self._infer_ms = told.infer_ms
            return
        why = told.refusal.why
        self._refused[why] += 1
        if self._refused[why] & (self._refused[why] - 1) == 0:  # the first, and whenever they have doubled
            _log.warning("refused (%s, %d so far): %s", why, self._refused[why], told.refusal.text)

    def _check(self) -> None:
        """Raises `BrokerError` for what no waiting mends."""
        connection = self._connection
        if connection.taken_over and connection.last_error is not None:
            raise BrokerError(
                "another client has this worker's id",
                where=connection.stats().broker,
                expected="an id of its own for every worker",
                got=self._options.broker.client_id,
                remedy="choose another --id",
            )
        if connection.connected and connection.stats().protocol == "3.1.1":
            raise BrokerError(
                "this broker speaks MQTT 3.1.1 only",
                where=connection.stats().broker,
                expected="MQTT 5: shared subscriptions, response topics and Receive Maximum",
                remedy="use mosquitto 2.0 or newer, or another broker of MQTT 5",
            )

    @property
    def _info_topic(self) -> str:
        return f"{self._options.broker.prefix}/{self._options.broker.client_id}/info"

    def _birth(self) -> Sequence[Message]:
        bundle, engine = self._answerer.model.bundle, self._answerer.model.engine
        info = {
            "v": 1,
            "device": self._options.broker.client_id,
            "ts": round(self._clock.unix_s(), 3),
            "run": self._run,
            "versions": {
                "edgerun": __version__,
                "python": platform.python_version(),
                "runtimes": [engine.info.runtime],
            },
            "models": {"main": {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256}},
            "streams": {},
            "accelerators": {"main": engine.info.accelerator},
            "worker": {
                "group": self._options.group,
                "topic": self._filter,
                "in_flight": self._options.in_flight,
                "capacity_fps": round(self._capacity, 1),
            },
        }
        return [Message(self._info_topic, msgspec.json.encode(info), qos=1, retain=True)]


def _answerable(topic: str) -> bool:
    try:
        check_topic(topic)
    except ValueError:
        return False
    return not topic.startswith("$")
