"""What an MQTT client has to expect of brokers and lines: expiry, poison, several brokers, things retained for ever."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.broker import ending as endings
from edgerun.broker.connection import Connection
from edgerun.broker.ending import Cause, Ending
from edgerun.broker.message import Message
from edgerun.broker.options import BrokerOptions
from edgerun.broker.outgoing import Outgoing
from edgerun.broker.reconnect import Route
from edgerun.clock import FakeClock, SystemClock
from edgerun.errors import BrokerError, ConfigError
from tests import mosquitto
from tests.broker.gate import REFUSED_BY_5, gate
from tests.broker.parts import DEVICE, LATE_S, STATUS, TOPIC, balanced, connection, options
from tests.mosquitto import wait_until


def test_a_message_that_has_expired_is_not_sent_and_counted() -> None:
    clock = FakeClock()
    queue = Outgoing()
    queue.put(Message("a", b"1", 1, expires_s=5), clock.mono_ns())
    queue.put(Message("a", b"2", 1, expires_s=60), clock.mono_ns())
    queue.put(Message("a", b"3", 1), clock.mono_ns())
    clock.advance(5)
    entries = iter(lambda: queue.take(True, clock.mono_ns()), None)
    assert [entry.message.payload for entry in entries] == [b"2", b"3"]
    assert queue.stats().dropped == {"expired": 1}


def test_the_broker_is_told_when_a_message_expires() -> None:
    with mosquitto.broker("log_type all") as broker, connection(broker.url) as link:
        wait_until(lambda: link.connected)
        listening = mosquitto.mosquitto_sub(broker, "edgerun/x", 1, "-V", "mqttv5", "-F", "%E %p")
        link.publish("edgerun/x", b"body", qos=1, expires_s=90)
        out, err = listening.communicate(timeout=40)
        assert listening.returncode == 0, err
    seconds, body = out.split()
    assert body == "body"
    assert 80 <= int(seconds) <= 90


def test_an_empty_retained_message_clears_what_was_retained() -> None:
    topic = f"edgerun/{DEVICE}/state/gone"
    with mosquitto.broker() as broker, connection(broker.url) as link:
        link.publish(topic, b"{}", qos=1, retain=True)
        link.publish(topic, b"", qos=1, retain=True)
        assert link.flush(LATE_S)
        with mosquitto.subscriber(broker, f"edgerun/{DEVICE}/#") as later:
            messages = later.wait(len)
    assert {m.topic for m in messages} == {STATUS}


@pytest.mark.parametrize("old", [REFUSED_BY_5, None], ids=["3.1.1", "5"])
def test_a_message_the_broker_hangs_up_on_does_not_end_every_link(old: bytes | None) -> None:
    """mosquitto closes the connection on a packet above its limit; 3.1.1 tells no limit and no reason."""
    with (
        mosquitto.broker("max_packet_size 3000" if old else "message_size_limit 3000") as broker,
        gate(broker.port, old) as door,
        mosquitto.subscriber(broker, TOPIC) as seen,
        connection(door.url, takeover_delay_s=0.1) as link,
    ):
        for n in range(10):
            link.publish(TOPIC, b"%d" % n, qos=1)
        link.publish(TOPIC, b"x" * 10_000, qos=1)
        for n in range(10, 20):
            link.publish(TOPIC, b"%d" % n, qos=1)
        assert link.flush(60)
        messages = seen.wait(lambda ms: len({m.payload for m in ms}) >= 20)
        assert {int(m.payload) for m in messages} == set(range(20))
        assert sum(link.stats().dropped.values()) == 1
        assert balanced(link)
        if old:
            assert link.stats().dropped == {"poison": 1}


ENTRIES = st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.booleans()), max_size=60)


@settings(max_examples=200, deadline=None)
@given(ENTRIES)
def test_suspicion_always_ends(story: list[tuple[bool, int, bool]]) -> None:
    """Links that end at random moments: what was acknowledged in between is no suspect any more, and none is lost
    before it was on the way alone three times.
    """
    queue = Outgoing()
    for n in range(20):
        queue.put(Message(f"t/{n}", b"", 1), n)
    for blame, window, acked in story:
        taken = []
        while len(taken) < (1 if queue.cautious else window):
            entry = queue.take(True, 0)
            if entry is None:
                break
            taken.append(entry)
        if acked and taken:
            queue.ack(taken.pop(0).ticket)
        queue.rewind(blame)
        stats = queue.stats()
        assert stats.put == stats.acked + sum(stats.dropped.values()) + stats.waiting
    while (entry := queue.take(True, 0)) is not None:
        assert entry.alone < 3
        queue.ack(entry.ticket)
    assert not queue.cautious


def test_an_innocent_neighbour_is_not_dropped() -> None:
    queue = Outgoing()
    for n in range(3):
        queue.put(Message(f"t/{n}", b"", 1), n)
    sent: list[str] = []
    for _ in range(40):
        hung_up = False
        while not hung_up:
            batch = []
            for _ in range(1 if queue.cautious else 3):
                entry = queue.take(True, 0)
                if entry is not None:
                    batch.append(entry)
            if not batch:
                break
            for entry in batch:
                if entry.message.topic == "t/1":
                    hung_up = True
                    break
                sent.append(entry.message.topic)
                if len(batch) == 1:
                    queue.ack(entry.ticket)
            if not hung_up and len(batch) > 1:
                for entry in batch:
                    queue.ack(entry.ticket)
        queue.rewind(hung_up)
    assert queue.stats().dropped == {"poison": 1}
    assert queue.stats().acked == 2
    assert "t/0" in sent
    assert "t/2" in sent


def failed(cause: Cause) -> Ending:
    return Ending(cause, BrokerError("x"))


def test_the_next_broker_comes_at_once_and_the_first_again_after_the_back_off() -> None:
    three = BrokerOptions(url="mqtt://a", client_id="d", more_urls=("mqtt://b", "mqtts://c:1"))
    route = Route(three, random.Random(1))
    seen, delays = [], []
    for _ in range(6):
        seen.append(route.address.host)
        delays.append(route.after(failed(Cause.UNREACHABLE), None).delay_s)
    assert seen == ["a", "b", "c", "a", "b", "c"]
    assert delays[0] == delays[1] == delays[3] == delays[4] == 0.0
    assert delays[2] > 0
    assert route.address.host == "a"


def test_after_a_link_that_worked_it_is_the_firsts_turn() -> None:
    two = BrokerOptions(url="mqtt://a", client_id="d", more_urls=("mqtt://b",))
    route = Route(two, random.Random(1))
    route.after(failed(Cause.REFUSED), None)
    assert route.address.host == "b"
    assert route.stands_in
    route.after(failed(Cause.LOST), 100.0)
    assert route.address.host == "a"
    route.after(failed(Cause.UNREACHABLE), None)
    route.after(failed(Cause.TAKEN), 1.0)
    assert route.address.host == "b", "whoever took our session over there is not to be found at another broker"


def test_a_broker_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ConfigError):
        BrokerOptions(url="mqtt://a", client_id="d", more_urls=("http://b",))
    kept = BrokerOptions(url="mqtt://a", client_id="d", more_urls=("mqtt://u:pl4nted@b",))
    assert "pl4nted" not in repr(kept)


def test_the_second_broker_stands_in_for_the_first(caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto.broker(start=False) as first, mosquitto.broker() as second:
        with (
            mosquitto.subscriber(second, TOPIC) as seen,
            connection(first.url, more_urls=(second.url,)) as link,
        ):
            link.publish(TOPIC, b"1", qos=1)
            assert link.flush(LATE_S)
            assert seen.wait(len)[0].payload == b"1"
            assert link.stats().broker.endswith(f":{second.port}")
            first.start()
        assert "stands in for" in caplog.text


@pytest.fixture
def quiet_listener() -> Iterator[str]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"


def test_the_watchdog_sees_the_thread_at_work(quiet_listener: str) -> None:
    with mosquitto.broker() as broker, connection(broker.url) as link:
        wait_until(lambda: link.connected)
        before = link.turned_ns
        wait_until(lambda: link.turned_ns > before + 1_000_000_000, what="two turns without anything to do")
    made = Connection(options(quiet_listener, connect_timeout_s=0.2), SystemClock())
    made.start()
    try:
        before = made.turned_ns
        wait_until(lambda: made.turned_ns > before)
    finally:
        made.stop(5)


@pytest.mark.parametrize("code", [0x80, 0x81, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x97, 0x9C, 0x9D, 0x9F])
def test_every_refusal_is_told_in_one_paragraph(code: int) -> None:
    opts = options("mqtt://a")
    ending = endings.refused(opts, opts.addresses[0], code, "words of the broker")
    assert ending.cause is Cause.REFUSED
    assert "words of the broker" in str(ending.error)
    assert f"0x{code:02X}" in str(ending.error)
