"""What `ports.Broker` promises, over every implementation there is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from edgerun.ports import Broker
from tests import mosquitto
from tests.broker.parts import connection
from tests.mosquitto import wait_until


class Bench(NamedTuple):
    broker: Broker
    seen: mosquitto.Subscriber


@pytest.fixture(params=["connection"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto.broker())
        seen = stack.enter_context(mosquitto.subscriber(broker, "t/#"))
        yield Bench(stack.enter_context(connection(broker.url)), seen)


@pytest.fixture(params=["connection"])
def unreachable(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with connection(f"mqtt://127.0.0.1:{mosquitto.free_port()}") as made:
        yield made


def test_flush_means_that_the_broker_has_it(bench: Bench) -> None:
    for n in range(100):
        bench.broker.publish("t/a", b"%d" % n, qos=1)
    assert bench.broker.flush(15)
    assert [m.payload for m in bench.seen.wait(lambda ms: len(ms) >= 100)] == [b"%d" % n for n in range(100)]


def test_qos_and_retain_arrive(bench: Bench) -> None:
    wait_until(lambda: bench.broker.connected)
    bench.broker.publish("t/0", b"passing")
    bench.broker.publish("t/1", b"", qos=1, retain=True)
    messages = bench.seen.wait(lambda ms: len(ms) >= 2)
    assert {(m.topic, m.payload, m.qos) for m in messages} == {("t/0", b"passing", 0), ("t/1", b"", 1)}


def test_qos_1_waits_for_the_link(bench: Bench) -> None:
    bench.broker.publish("t/early", b"1", qos=1)
    assert bench.seen.wait(len)[0].topic == "t/early"


def test_threads_may_share_it(bench: Bench) -> None:
    threads = [
        threading.Thread(target=lambda k=k: [bench.broker.publish(f"t/{k}", b"%d" % n, qos=1) for n in range(50)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.broker.flush(15)
    assert len(bench.seen.wait(lambda ms: len(ms) >= 200)) == 200


def test_without_a_link_nothing_blocks_and_flush_says_no(unreachable: Broker) -> None:
    assert not unreachable.connected
    for n in range(5000):
        unreachable.publish("t/a", b"x" * 100, qos=n % 2)
    assert not unreachable.flush(0.1)


@pytest.mark.parametrize("topic", ["", "a/+", "#"])
def test_a_bad_topic_is_the_callers_mistake(unreachable: Broker, topic: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        unreachable.publish(topic, b"")
