"""Inference on other machines: requests to whichever worker of a group is free, through the broker both know.

The broker shares the requests out (`$share`), in turn and without regard to who is slow or gone. What makes the share
move is here: a request that is not answered in the time that answers usually take goes out once more, and so to the
next worker; the first answer counts (J. Dean, L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013). Repetitions have
to be worth it: a request that one of them saved has paid for all of its own, and of the others one comes to ten
answers, so that workers which are merely busy are not given twice the work.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable

import msgspec

from edgerun.clock import Clock
from edgerun.errors import Closed, FrameError
from edgerun.infer.work import Ask, Told, encode, read_told
from edgerun.ports import Broker, Incoming
from edgerun.slot import Slot

_log = logging.getLogger(__name__)

_LOOK_S = 0.02
_REST_S = 0.25
_LEAST_PATIENCE_NS = 30_000_000
_FIRST_PATIENCE_NS = 300_000_000
_MOST_PATIENCE_NS = 2_000_000_000
_MOST_TRIES = 4
_MOST_REFUSALS = 8
"""By workers that have another version: a refusal costs nobody anything, and the next one may have the right one."""
_SPURNED = 3
"""So many requests in a row that nobody but such workers was found for: nobody else is there."""
_MOST_CREDIT = 8.0
_CREDIT = 0.1
_ABSENT_PATIENCES = 3
_PROBE_EVERY_NS = 500_000_000
_INBOX = 256

LOST = "remote_lost"
"""What a frame is counted under whose answer did not come."""


class Landing(msgspec.Struct, frozen=True):
    """What became of the request `ticket`: an answer, or why there is none (counted under `reason`)."""

    ticket: int
    told: Told | None
    reason: str = ""
    text: str = ""


class Patience:
    """How long an answer usually takes at most: mean + 4 mean deviations, as TCP waits for one (RFC 6298 §2)."""

    def __init__(self) -> None:
        self._mean_ns = self._deviation_ns = 0

    @property
    def mean_ns(self) -> int:
        """0 until the first answer."""
        return self._mean_ns

    @property
    def limit_ns(self) -> int:
        """After so long an answer is overdue."""
        if not self._mean_ns:
            return _FIRST_PATIENCE_NS
        return min(max(self._mean_ns + 4 * self._deviation_ns, _LEAST_PATIENCE_NS), _MOST_PATIENCE_NS)

    def add(self, took_ns: int) -> None:
        """One answer, since that copy of its request went out."""
        if not self._mean_ns:
            self._mean_ns, self._deviation_ns = took_ns, took_ns // 2
            return
        error_ns = took_ns - self._mean_ns
        self._deviation_ns += (abs(error_ns) - self._deviation_ns) // 4
        self._mean_ns += error_ns // 8


class Acquaintance(msgspec.Struct):
    """What a device knows of the workers for one model: kept where another `Remote` takes the place of this one."""

    patience: Patience
    credit: float
    absent: str
    """Why nobody is expected to answer, the link to the broker aside."""


class _Flight(msgspec.Struct):
    ticket: int
    correlation: bytes
    ask: Ask
    deadline_ns: int
    again_ns: int
    sent: list[int]
    probe: bool = False
    refused: str = ""
    strangers: int = 0
    """Refusals by workers that have another version."""
    free: bool = False
    """To be sent again at once, whatever that costs."""


class Remote:
    """The workers for one model, as one device sees them. Thread-safe; a thread of its own reads the answers.

    `topic`: where requests go, `answers`: below which answers are awaited. `window`: requests on the way at most; only
    one while nobody answers. `landed` is called, by that thread, whenever `take` may have something. `known`: what the
    one before knew of the same workers.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        topic: str,
        answers: str,
        window: int,
        landed: Callable[[], None],
        known: Acquaintance | None = None,
    ) -> None:
        self._broker, self._clock, self._topic = broker, clock, topic
        self._answers = f"{answers}/{os.urandom(8).hex()}"
        self._window, self._notify = window, landed
        self._inbox: Slot[Incoming] = Slot(_INBOX)
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight] = {}
        self._landings: list[Landing] = []
        self._patience = Patience() if known is None else known.patience
        self._credit = _MOST_CREDIT if known is None else known.credit
        self._next = self._spurned = 0
        self._asked_ns = self._landed_ns = 0
        self._absent_why = "" if known is None else known.absent
        self._probed_ns = 0
        self.counts: Counter[str] = Counter()
        """answered, again (sent once more), stray (nobody's, or too late), garbage, and refusals by their reason."""
        broker.subscribe(self._answers, self._inbox, 0)
        self._thread = threading.Thread(target=self._listen, name=f"answers:{topic}", daemon=True)
        self._thread.start()

    @property
    def absent(self) -> str:
        """Why nobody is expected to answer; empty while somebody is."""
        if not self._broker.connected:
            return "no link to the broker"
        return self._absent_why

    @property
    def in_flight(self) -> int:
        """Requests on the way, without probes."""
        return sum(not flight.probe for flight in list(self._flights.values()))

    @property
    def has_room(self) -> bool:
        """Whether another request may be sent."""
        return self.in_flight < (1 if self.absent else self._window)

    @property
    def usual_ns(self) -> int:
        """How long answers take, on average; 0 before the first."""
        return self._patience.mean_ns

    @property
    def patience_ns(self) -> int:
        """After so long an answer is overdue."""
        return self._patience.limit_ns

    def probe_due(self, now_ns: int) -> bool:
        """Whether it is time to ask, of a frame that is not lost by it, if somebody answers again."""
        return bool(self.absent) and self._broker.connected and now_ns - self._probed_ns >= _PROBE_EVERY_NS

    def send(self, ask: Ask, deadline_ns: int, *, probe: bool = False) -> int:
        """Ask; returns the ticket of the landing that there will be by `deadline_ns`. Never blocks."""
        now_ns = self._clock.mono_ns()
        with self._lock:
            self._next += 1
            if probe or self.absent:
                self._probed_ns = now_ns
            again_ns = now_ns + self._patience.limit_ns
            rested = not self.in_flight and now_ns - self._landed_ns > self._patience.limit_ns
            if (rested or not self._asked_ns) and not probe:
                self._asked_ns = now_ns
            flight = _Flight(self._next, os.urandom(16), ask, deadline_ns, again_ns, [now_ns], probe=probe)
            self._flights[flight.correlation] = flight
        self._publish(flight, now_ns)
        return flight.ticket

    def take(self) -> list[Landing]:
        """What has landed since this was asked last; of probes nothing."""
        with self._lock:
            landed, self._landings = self._landings, []
        return landed

    @property
    def waiting(self) -> bool:
        """Whether `take` has something."""
        return bool(self._landings)

    def hurry(self, within_ns: int) -> None:
        """Whatever is on the way has so long left at most."""
        limit_ns = self._clock.mono_ns() + within_ns
        with self._lock:
            for flight in self._flights.values():
                flight.deadline_ns = min(flight.deadline_ns, limit_ns)

    def recall(self) -> None:
        """Somebody else is to have what is on the way: it lands at once, as lost."""
        with self._lock:
            for flight in [one for one in self._flights.values() if not one.probe]:
                del self._flights[flight.correlation]
                self._landings.append(Landing(flight.ticket, None, LOST, flight.refused))

    def close(self) -> Acquaintance:
        """End the thread; what is still on the way lands nowhere. Returns what is known by now. Idempotent."""
        self._inbox.close()
        self._thread.join()
        return Acquaintance(self._patience, self._credit, self._absent_why)

    def _publish(self, flight: _Flight, now_ns: int) -> None:
        left_ns = max(1_000_000, flight.deadline_ns - now_ns)
        ask = msgspec.structs.replace(flight.ask, patience_ms=left_ns / 1e6, again=len(flight.sent) - 1)
        self._broker.publish(
            self._topic,
            encode(ask),
            qos=1,
            correlation=flight.correlation,
            response_topic=self._answers,
            expires_s=-(-left_ns // 10**9),  # MQTT counts whole seconds
        )

    def _listen(self) -> None:
        """The thread's body: until `close`."""
        try:
            while True:
                incoming = self._inbox.take(_LOOK_S if self._flights else _REST_S)
                landed = self._hear(incoming) if incoming is not None else False
                if self._look_at_clock() or landed:
                    self._notify()
        except Closed:
            return

    def _hear(self, incoming: Incoming) -> bool:
        """Whether something landed with this message."""
        flight = self._flights.get(incoming.correlation or b"")
        if flight is None:
            self.counts["stray"] += 1
            return False
        try:
            told = read_told(incoming.payload)
        except FrameError as error:
            self.counts["garbage"] += 1
            if self.counts["garbage"] & (self.counts["garbage"] - 1) == 0:  # the first, and whenever they have doubled
                _log.warning("%s: %s (%d so far)", self._topic, error, self.counts["garbage"])
            return False
        if told.refusal is not None:
            return self._refused(flight, told)
        now_ns = self._clock.mono_ns()
        with self._lock:
            if self._flights.pop(flight.correlation, None) is None:  # recalled a moment ago
                self.counts["stray"] += 1
                return False
            copy = told.again if 0 <= told.again < len(flight.sent) else 0
            self._patience.add(now_ns - flight.sent[copy])
            self._credit = min(_MOST_CREDIT, self._credit + (len(flight.sent) - 1 if copy else _CREDIT))
            self._asked_ns, self._landed_ns = now_ns if self.in_flight else 0, now_ns
            self.counts["answered"] += 1
            self._spurned = 0
            if not flight.probe:
                self._landings.append(Landing(flight.ticket, told))
        self._appear(told.by)
        return True

    def _refused(self, flight: _Flight, told: Told) -> bool:
        """Another worker may take it; what this picture is to blame for, none will."""
        assert told.refusal is not None, "asked for"
        why, text = told.refusal.why, f"{told.by}: {told.refusal.text[:300]}"
        self.counts[why] += 1
        if self.counts[why] & (self.counts[why] - 1) == 0:
            _log.warning("%s: refused by %s (%d so far)", self._topic, text, self.counts[why])
        with self._lock:
            if flight.correlation not in self._flights:
                return False
            flight.refused = text
            if why == "frame":
                del self._flights[flight.correlation]
                if not flight.probe:
                    self._landings.append(Landing(flight.ticket, None, "remote_frame", text))
                return True
            flight.again_ns = 0
            flight.free = why == "version"
            flight.strangers += flight.free
            if flight.strangers < (1 if flight.probe else _MOST_REFUSALS):
                return False
            del self._flights[flight.correlation]
            if flight.probe:
                return False
            self._landings.append(Landing(flight.ticket, None, LOST, text))
            self._spurned += 1
            if self._spurned >= _SPURNED and not self._absent_why:
                self._absent_why = text
                _log.warning("%s: %s", self._topic, text)
        return True

    def _look_at_clock(self) -> bool:
        """Send again what is overdue, give up what is too late; whether something landed."""
        now_ns, before = self._clock.mono_ns(), self.absent
        again: list[_Flight] = []
        landed = False
        with self._lock:
            for flight in list(self._flights.values()):
                if now_ns >= flight.deadline_ns:
                    del self._flights[flight.correlation]
                    landed, self._landed_ns = True, now_ns
                    if not flight.probe:
                        self._landings.append(Landing(flight.ticket, None, LOST, flight.refused))
                elif now_ns >= flight.again_ns and self._may_repeat(flight):
                    flight.sent.append(now_ns)
                    self._credit -= 0.0 if flight.free else 1.0
                    flight.again_ns, flight.free = now_ns + self._patience.limit_ns, False
                    again.append(flight)
            overdue_ns = _ABSENT_PATIENCES * self._patience.limit_ns
            silent_ns = now_ns - self._asked_ns if self._asked_ns and self.in_flight else 0
            if not self._absent_why and silent_ns > overdue_ns:
                refused = next((flight.refused for flight in self._flights.values() if flight.refused), "")
                self._absent_why = refused or "no worker answers"
        for flight in again:
            self.counts["again"] += 1
            self._publish(flight, now_ns)
        if self._absent_why and not before:
            _log.warning("%s: %s", self._topic, self._absent_why)
        return landed or before != self.absent

    def _may_repeat(self, flight: _Flight) -> bool:
        if not self._broker.connected or flight.probe:
            return False
        return flight.free or (len(flight.sent) - flight.strangers < _MOST_TRIES and self._credit >= 1.0)

    def _appear(self, by: str) -> None:
        if self._absent_why:
            self._absent_why = ""
            with self._lock:
                for flight in self._flights.values():  # what was sent meanwhile reached nobody
                    flight.free, flight.again_ns, flight.refused = True, 0, ""
            _log.warning("%s: answered by %s again", self._topic, by)
