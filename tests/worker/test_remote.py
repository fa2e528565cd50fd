"""The sender's side against a real mosquitto and workers by hand: silent, slow, hostile, gone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from edgerun.broker.connection import Connection
from edgerun.broker.options import BrokerOptions
from edgerun.clock import SystemClock
from edgerun.infer.remote import LOST, Landing, Patience, Remote
from edgerun.infer.work import Ask, Refusal, Told, read_ask, work_topic
from edgerun.ports import Incoming
from edgerun.types import Answer, Detection
from tests import mosquitto
from tests.mosquitto import wait_until
from tests.worker.parts import NAME, QUICK, Hand, hand

ASK = Ask("a" * 64, "b" * 16, "tensor", (1, 2, 2, 3), "uint8", bytes(12), 0.5, 5, (1.0, 0.0, 1.0, 0.0), 0.0)
CLOCK = SystemClock()
LONG_NS = 20 * 10**9


@pytest.fixture(scope="module")
def broker() -> Iterator[mosquitto.Broker]:
    with mosquitto.broker() as made:
        yield made


class Site:
    """One device's view of its workers."""

    def __init__(self, url: str, window: int = 4) -> None:
        self.connection = Connection(BrokerOptions(url=url, client_id="dock-7", **QUICK), CLOCK)  # type: ignore[arg-type]
        self.connection.start()
        wait_until(lambda: self.connection.connected)
        self.landed = threading.Event()
        topic = work_topic("edgerun", NAME, device="dock-7")
        self.remote = Remote(self.connection, CLOCK, topic, "edgerun/dock-7/_answers", window, self.landed.set)
        self.landings: list[Landing] = []

    def send(self, within_ns: int = LONG_NS, *, probe: bool = False) -> int:
        return self.remote.send(ASK, CLOCK.mono_ns() + within_ns, probe=probe)

    def lands(self, ticket: int) -> Landing:
        def there() -> bool:
            self.landings += self.remote.take()
            return any(one.ticket == ticket for one in self.landings)

        wait_until(there, 30, f"the landing of {ticket}")
        return next(one for one in self.landings if one.ticket == ticket)

    def close(self) -> None:
        self.remote.close()
        self.connection.stop(2)


@pytest.fixture
def site(broker: mosquitto.Broker) -> Iterator[Site]:
    made = Site(broker.url)
    try:
        yield made
    finally:
        made.close()


def answer(worker: Hand, request: Incoming) -> None:
    worker.answer(request)


def silent(worker: Hand, request: Incoming) -> None:
    """Takes it and says nothing: partitioned, hung, or dead before the broker knows."""


def test_a_request_says_who_is_to_be_answered_and_for_how_long(broker: mosquitto.Broker, site: Site) -> None:
    with hand(broker.url, "w1", answer) as worker:
        landing = site.lands(site.send(5 * 10**9))
        assert landing.told is not None
        assert landing.told.by == "w1"
        request = worker.requests[0]
        assert len(worker.requests) <= 1 + site.remote.counts["again"]
    assert request.topic == f"edgerun/_work/{NAME}/dock-7"
    assert request.response_topic is not None
    assert request.response_topic.startswith("edgerun/dock-7/_answers/")
    assert request.correlation is not None
    assert len(request.correlation) == 16
    assert request.expires_in_s == 5
    assert 0 < read_ask(request.payload).patience_ms <= 5000


def test_each_request_goes_to_one_of_the_group(broker: mosquitto.Broker, site: Site) -> None:
    with hand(broker.url, "w1", answer) as one, hand(broker.url, "w2", answer) as other:
        for _ in range(20):
            site.lands(site.send())
        again = site.remote.counts["again"]
        assert 20 <= len(one.requests) + len(other.requests) <= 20 + again
        assert min(len(one.requests), len(other.requests)) >= 5


def test_without_an_answer_it_is_lost_at_its_deadline_and_nobody_is_there(site: Site) -> None:
    tickets = [site.send(1_500_000_000) for _ in range(4)]
    assert not site.remote.has_room
    for ticket in tickets:
        assert site.lands(ticket).reason == LOST
    assert site.remote.absent == "no worker answers"
    assert site.remote.in_flight == 0
    site.send()
    assert not site.remote.has_room, "while nobody answers one request is enough to notice"


def test_who_was_absent_is_noticed_by_a_probe(broker: mosquitto.Broker, site: Site) -> None:
    assert site.lands(site.send(1_200_000_000)).reason == LOST
    assert site.remote.absent
    wait_until(lambda: site.remote.probe_due(CLOCK.mono_ns()))
    with hand(broker.url, "w1", answer):
        site.send(probe=True)
        wait_until(lambda: not site.remote.absent, what="its return")
    assert not site.remote.probe_due(CLOCK.mono_ns())
    assert site.remote.take() == [], "a probe lands nowhere"


def test_what_a_silent_worker_keeps_another_one_answers(broker: mosquitto.Broker, site: Site) -> None:
    with hand(broker.url, "w1", silent) as dead, hand(broker.url, "w2", answer):
        for _ in range(12):
            landing = site.lands(site.send())
            assert landing.told is not None
            assert landing.told.by == "w2"
        assert dead.requests
        assert site.remote.counts["again"] >= len(dead.requests) - 4
        assert not site.remote.absent


def test_repetitions_are_paid_for_by_answers(broker: mosquitto.Broker) -> None:
    site = Site(broker.url, window=64)
    try:
        with hand(broker.url, "w1", silent, receive_max=1000) as dead:
            for _ in range(64):
                site.send(3 * 10**9)
            wait_until(lambda: site.remote.in_flight == 0)
            assert site.remote.counts["again"] <= 8
            assert len(dead.requests) <= 64 + 8
    finally:
        site.close()


def test_a_worker_holds_no_more_than_it_said(broker: mosquitto.Broker, site: Site) -> None:
    with hand(broker.url, "w1", silent, receive_max=2) as worker:
        for _ in range(4):
            site.send(3 * 10**9)
        wait_until(lambda: len(worker.requests) == 2)
        wait_until(lambda: site.remote.in_flight == 0)
        assert len(worker.requests) == 2, "the broker keeps the others until these are acknowledged"


def test_what_expires_the_broker_itself_drops(broker: mosquitto.Broker, site: Site) -> None:
    with hand(broker.url, "w1", silent, receive_max=1) as worker:
        for _ in range(4):
            site.send(900_000_000)
        wait_until(lambda: site.remote.in_flight == 0)
        wait_until(lambda: len(worker.requests) == 1)
        now_ns = CLOCK.mono_ns()
        wait_until(lambda: CLOCK.mono_ns() - now_ns > 2_500_000_000)  # MQTT counts whole seconds
        worker.connection.ack(worker.requests[0])
        later = {site.send()}

        def delivered() -> bool:
            # mosquitto 2.0.11 may stop at what has expired until the next request comes
            if site.remote.probe_due(CLOCK.mono_ns()):
                later.add(site.send())
            return len(worker.requests) == 2

        wait_until(delivered)
        assert read_ask(worker.requests[1].payload).patience_ms > 10_000, "the ones before it are gone"


def test_hostile_answers_change_nothing(broker: mosquitto.Broker, site: Site) -> None:
    wrong = Answer(detections=(Detection("person", 0, float("nan"), (0.0, 0.0, 1.0, 1.0)),))

    def attack(worker: Hand, request: Incoming) -> None:
        worker.tell(request, b"\xff" * 100)
        worker.tell(request, b"")
        worker.tell(request, Told("x", "", answer=wrong))
        worker.tell(request, Told("../../x", "", answer=Answer()))
        worker.tell(request, Told("x", "", answer=Answer()), correlation=b"of somebody else")
        worker.tell(request, bytes(2 << 20))
        for i in range(500):
            worker.tell(request, Told("x", "", answer=Answer()), correlation=i.to_bytes(16, "big"))
        worker.answer(request)
        worker.answer(request)

    with hand(broker.url, "w1", attack):
        for _ in range(3):
            landing = site.lands(site.send())
            assert landing.told is not None
            assert landing.told.by == "w1"
            assert landing.told.answer == Answer(detections=())
        wait_until(lambda: site.remote.counts["garbage"] >= 3)
        assert site.remote.counts["stray"] >= 3
    site.landings += site.remote.take()
    assert len(site.landings) == 3, "an answer counts once"


def test_another_version_is_told_and_the_next_worker_asked(broker: mosquitto.Broker, site: Site) -> None:
    def refuse(worker: Hand, request: Incoming) -> None:
        worker.tell(request, Told(worker.name, "", refusal=Refusal("version", "this worker runs another model")))
        worker.connection.ack(request)

    with hand(broker.url, "w1", refuse), hand(broker.url, "w2", answer):
        for _ in range(6):
            landing = site.lands(site.send())
            assert landing.told is not None
            assert landing.told.by == "w2"
        assert site.remote.counts["version"]
    with hand(broker.url, "w3", refuse):
        landing = site.lands(site.send(2 * 10**9))
        assert landing.reason == LOST
        assert "another model" in landing.text


def test_without_a_link_nobody_is_there_and_it_comes_back() -> None:
    with mosquitto.broker() as own:
        site = Site(own.url)
        with contextlib.closing(site), hand(own.url, "w1", answer):
            site.lands(site.send())
            own.kill()
            wait_until(lambda: site.remote.absent == "no link to the broker")
            ticket = site.send(1_000_000_000)
            assert site.lands(ticket).told is None
            own.restart()
            wait_until(lambda: site.connection.connected)
            ticket = 0

            def answered() -> bool:
                nonlocal ticket
                if site.remote.in_flight == 0:
                    ticket = site.send(1_000_000_000)
                site.landings += site.remote.take()
                return site.landings[-1].told is not None if site.landings[-1:] else False

            wait_until(answered, 30)
            assert not site.remote.absent


def test_whom_nobody_can_serve_is_told_long_before_its_deadline(broker: mosquitto.Broker, site: Site) -> None:
    def refuse(worker: Hand, request: Incoming) -> None:
        worker.tell(request, Told(worker.name, "", refusal=Refusal("version", "this worker runs another model")))
        worker.connection.ack(request)

    with hand(broker.url, "w1", refuse) as other:
        for _ in range(3):
            landing = site.lands(site.send(10**12))
            assert (landing.reason, landing.text) == (LOST, "w1: this worker runs another model")
        assert site.remote.absent == "w1: this worker runs another model"
        assert site.remote.counts["version"] == 24, "each of them eight times"
        assert 24 <= len(other.requests) <= 3 + site.remote.counts["again"]


def test_what_is_recalled_lands_at_once_and_its_answer_is_nobodys(broker: mosquitto.Broker, site: Site) -> None:
    with hand(broker.url, "w1", silent) as worker:
        ticket = site.send(10**12)
        wait_until(lambda: worker.requests)
        site.remote.recall()
        assert site.lands(ticket).reason == LOST
        assert (site.remote.in_flight, site.remote.has_room) == (0, True)
        worker.answer(worker.requests[0])
        wait_until(lambda: site.remote.counts["stray"])
    assert len(site.landings) == 1


def test_who_follows_knows_what_was_known(broker: mosquitto.Broker, site: Site) -> None:
    assert site.lands(site.send(1_200_000_000)).reason == LOST
    known = site.remote.close()
    assert known.absent == "no worker answers"
    topic = work_topic("edgerun", NAME, device="dock-7")
    site.remote = Remote(site.connection, CLOCK, topic, "edgerun/dock-7/_answers", 4, site.landed.set, known)
    site.landings.clear()  # tickets begin anew
    assert site.remote.absent == "no worker answers"
    with hand(broker.url, "w1", answer):
        assert site.lands(site.send()).told is not None
    assert not site.remote.absent


def test_a_hurry_leaves_a_second(site: Site) -> None:
    ticket = site.send()
    site.remote.hurry(10**9)
    assert site.lands(ticket).reason == LOST


def test_patience_follows_the_answers_and_has_bounds() -> None:
    patience = Patience()
    assert patience.limit_ns == 300_000_000
    for _ in range(100):
        patience.add(1_000_000)
    assert patience.limit_ns == 30_000_000
    for _ in range(200):
        patience.add(100_000_000)
    assert 100_000_000 < patience.limit_ns < 120_000_000
    for _ in range(200):
        patience.add(10 * 10**9)
    assert patience.limit_ns == 2_000_000_000
