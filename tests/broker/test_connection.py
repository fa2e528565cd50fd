"""The connection against a real broker."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from edgerun.broker.message import Message
from tests import mosquitto
from tests.broker.gate import gate
from tests.broker.parts import DEVICE, LATE_S, STATUS, TOPIC, Ahead, balanced, connection, numbers
from tests.mosquitto import wait_until


def test_a_real_subscriber_sees_what_is_published() -> None:
    with mosquitto.broker("log_type all") as broker:
        listening = mosquitto.mosquitto_sub(broker, "edgerun/#", 3)
        with connection(broker.url) as link:
            wait_until(lambda: link.connected)
            link.publish(TOPIC, b'{"v":1}', qos=1)
            link.publish(f"edgerun/{DEVICE}/telemetry", b"{}", qos=0)
            seen = {line["topic"]: line for line in mosquitto.lines_of(listening)}
            assert link.flush(LATE_S)
            assert balanced(link)
            stats = link.stats()
    assert json.loads(seen[TOPIC]["payload"]) == {"v": 1}
    assert seen[TOPIC]["qos"] == 1
    assert seen[STATUS]["payload"] == "online"
    assert (stats.protocol, stats.sent, stats.sent0, stats.acked) == ("5", 3, 1, 1)


def test_bytes_arrive_as_they_were_sent_in_order() -> None:
    payloads = [bytes([n % 256]) * (n * 37 % 5000) for n in range(300)]
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, TOPIC) as seen, connection(broker.url) as link:
        for payload in payloads:
            link.publish(TOPIC, payload, qos=1)
        messages = seen.wait(lambda ms: len(ms) >= len(payloads))
    assert [m.payload for m in messages] == payloads
    assert {(m.qos, m.retain) for m in messages} == {(1, False)}


def test_a_publisher_wakes_an_idle_link() -> None:
    with mosquitto.broker() as broker, connection(broker.url) as link:
        wait_until(lambda: link.connected)
        deadline = time.monotonic() + 20
        for _ in range(40):  # a link that is not woken looks up once a second
            link.publish(TOPIC, b"1", qos=1)
            assert link.flush(deadline - time.monotonic())


def test_online_birth_then_the_rest_and_offline_at_the_end() -> None:
    info = Message(f"edgerun/{DEVICE}/info", b"{}", 1, True)
    with mosquitto.broker() as broker:
        with mosquitto.subscriber(broker) as seen:
            with connection(broker.url, birth=lambda: [info]) as link:
                link.publish(TOPIC, b"1", qos=1)
                assert link.flush(LATE_S)
            messages = seen.wait(lambda ms: ms[-1].payload == b"offline")
        assert [(m.topic, m.payload) for m in messages] == [
            (STATUS, b"online"), (info.topic, b"{}"), (TOPIC, b"1"), (STATUS, b"offline"),
        ]  # fmt: skip
        with mosquitto.subscriber(broker) as later:
            kept = later.wait(lambda ms: len(ms) >= 2)
    assert {(m.topic, m.payload, m.retain) for m in kept} == {(STATUS, b"offline", True), (info.topic, b"{}", True)}


def test_who_comes_later_sees_that_it_is_online() -> None:
    with mosquitto.broker() as broker, connection(broker.url) as link:
        wait_until(lambda: link.connected and link.stats().sent == 1)
        link.publish(TOPIC, b"1", qos=1)
        assert link.flush(LATE_S)
        with mosquitto.subscriber(broker, STATUS) as seen:
            assert seen.wait(len) == [(STATUS, b"online", 1, True)]


def test_qos_0_without_a_link_is_dropped_and_counted() -> None:
    with connection("mqtt://127.0.0.1:1", start=False) as link:
        link.publish(TOPIC, b"1")
        assert link.stats().dropped == {"offline": 1}
        assert balanced(link)


def test_a_birth_that_raises_is_told_and_does_not_end_the_link(caplog: pytest.LogCaptureFixture) -> None:
    def birth() -> list[Message]:
        raise ZeroDivisionError("no birth today")

    with mosquitto.broker() as broker, connection(broker.url, birth=birth) as link:
        link.publish(TOPIC, b"1", qos=1)
        assert link.flush(LATE_S)
        assert link.stats().reconnects == 0
    assert "no birth today" in caplog.text


def test_the_will_speaks_for_a_killed_process() -> None:
    program = """
import threading
from edgerun.broker.connection import Connection
from edgerun.clock import SystemClock
from tests.broker.parts import options
link = Connection(options(%r), SystemClock())
link.start()
threading.Event().wait()
"""
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, STATUS) as seen:
        process = subprocess.Popen([sys.executable, "-c", program % broker.url])
        try:
            seen.wait(lambda ms: ms[-1].payload == b"online", 30)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        messages = seen.wait(lambda ms: ms[-1].payload == b"offline", 30)
    assert [m.payload for m in messages] == [b"online", b"offline"]


def test_a_killed_broker_gets_what_was_queued_once_each_and_in_order() -> None:
    with mosquitto.broker() as broker, gate(broker.port) as door, connection(door.url) as link:
        with mosquitto.subscriber(broker, TOPIC) as seen:
            for n in range(50):
                link.publish(TOPIC, b"%d" % n, qos=1)
            assert numbers(seen.wait(lambda ms: len(ms) >= 50)) == list(range(50))
            assert link.flush(LATE_S)
        door.locked.set()
        broker.kill()
        wait_until(lambda: not link.connected)
        for n in range(50, 350):
            link.publish(TOPIC, b"%d" % n, qos=1)
        link.publish(TOPIC, b"-1", qos=0)
        assert not link.flush(0.05)
        wait_until(lambda: link.last_error is not None)
        broker.restart()
        with mosquitto.subscriber(broker, TOPIC) as seen:
            door.locked.clear()
            messages = seen.wait(lambda ms: len(ms) >= 300)
            assert link.flush(LATE_S)
        assert numbers(messages) == list(range(50, 350))
        assert link.last_error is None
        stats = link.stats()
        assert stats.reconnects >= 1
        assert stats.dropped == {"offline": 1}
        assert balanced(link)


def test_cut_lines_lose_nothing_and_keep_the_order() -> None:
    with (
        mosquitto.broker() as broker,
        gate(broker.port) as door,
        connection(door.url, queue_max=5000, takeover_delay_s=0.1) as link,
    ):
        with mosquitto.subscriber(broker, TOPIC) as seen:
            for n in range(2000):
                link.publish(TOPIC, b"%d" % n, qos=1)
                if n % 400 == 200:
                    reached = n // 2
                    seen.wait(lambda ms, reached=reached: len(ms) >= reached)
                    door.cut()
            assert link.flush(LATE_S)
            messages = numbers(seen.wait(lambda ms: int(ms[-1].payload) == 1999))
        assert sorted(set(messages)) == list(range(2000))
        firsts = list(dict.fromkeys(messages))
        assert firsts == sorted(firsts)
        stats = link.stats()
        assert stats.reconnects >= 1
        assert len(messages) - 2000 <= stats.resent <= stats.reconnects * 20
        assert balanced(link)


def test_a_broker_that_appears_later_is_found() -> None:
    with mosquitto.broker(start=False) as broker, connection(broker.url) as link:
        wait_until(lambda: link.last_error is not None)
        assert str(broker.port) in str(link.last_error)
        assert not link.connected
        link.publish(TOPIC, b"1", qos=1)
        broker.start()
        assert link.flush(LATE_S)
        assert link.connected


def test_flush_gives_up_in_time_when_there_is_no_broker() -> None:
    with connection(f"mqtt://127.0.0.1:{mosquitto.free_port()}") as link:
        assert link.flush(0)
        link.publish(TOPIC, b"1", qos=1)
        assert not link.flush(0.2)


def test_a_frozen_broker_blocks_nobody_and_costs_no_memory() -> None:
    payload = b"x" * 20_000
    with mosquitto.broker() as broker, connection(broker.url, queue_max=100) as link:
        wait_until(lambda: link.connected)
        broker.freeze()
        for n in range(3000):
            link.publish(TOPIC, payload, qos=n % 2)
        stats = link.stats()
        assert stats.waiting <= 200
        assert stats.in_flight <= 20
        assert stats.waiting_bytes <= 200 * 20_100
        assert stats.dropped["full"] >= 3000 - 200 - 20 - stats.sent0
        assert balanced(link)
        broker.thaw()
        assert link.flush(LATE_S)
        assert link.stats().reconnects == 0
        assert balanced(link)


def test_qos_0_for_a_frozen_broker_fills_the_kernels_buffers_and_nothing_of_ours() -> None:
    payload = b"x" * 20_000
    with mosquitto.broker() as broker, connection(broker.url, queue_max=100) as link:
        wait_until(lambda: link.connected)
        broker.freeze()
        for _ in range(3000):
            link.publish(TOPIC, payload)
            later_ns = time.monotonic_ns() + 1_500_000_000  # seen at work then, the thread "mqtt" could not write it
            wait_until(lambda later_ns=later_ns: not link.stats().waiting or link.turned_ns > later_ns)
            if link.stats().waiting:
                break
        assert link.stats().sent0 * len(payload) < 16 << 20
        assert link.stats().waiting == 1
        broker.thaw()
        wait_until(lambda: not link.stats().waiting)


def test_a_broker_that_acknowledges_nothing_is_left_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Ahead()
    with (
        mosquitto.broker() as broker,
        gate(broker.port) as door,
        connection(door.url, clock=clock, ack_timeout_s=600) as link,
    ):
        wait_until(lambda: link.connected)
        door.deaf.set()
        link.publish(TOPIC, b"1", qos=1)
        wait_until(lambda: link.stats().in_flight == 1)
        door.locked.set()  # who comes again is heard again
        clock.ahead_ns = 601_000_000_000
        wait_until(lambda: link.last_error is not None)
        assert "no PUBACK for 600 s" in caplog.text
        door.deaf.clear()
        door.locked.clear()
        assert link.flush(LATE_S)
        assert link.stats().resent == 1


def test_a_message_over_the_brokers_limit_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto.broker("max_packet_size 2000") as broker, connection(broker.url) as link:
        wait_until(lambda: link.connected)
        link.publish(TOPIC, b"x" * 1900, qos=1)
        for qos in (0, 1, 1):
            link.publish(TOPIC, b"x" * 2100, qos=qos)
        assert link.flush(LATE_S)
        wait_until(lambda: link.stats().dropped == {"too_large": 3})
        stats = link.stats()
        assert (stats.acked, stats.reconnects) == (1, 0)
        assert balanced(link)
    assert "2000 bytes" in caplog.text


def test_never_more_on_the_way_than_the_broker_takes() -> None:
    with (
        mosquitto.broker("max_inflight_messages 3") as broker,
        gate(broker.port) as door,
        connection(door.url, ack_timeout_s=60) as link,
    ):
        wait_until(lambda: link.connected and link.stats().sent == 1)
        assert link.flush(LATE_S)
        door.deaf.set()
        for n in range(50):
            link.publish(TOPIC, b"%d" % n, qos=1)
        wait_until(lambda: link.stats().in_flight >= 2)
        door.deaf.clear()
        door.cut()
        assert link.flush(LATE_S)
        assert link.stats().resent <= 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_thread_is_started_again_by_the_next_publisher(caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto.broker() as broker, connection(broker.url) as link:
        wait_until(lambda: link.connected)
        thread = link._thread
        assert thread is not None
        assert thread.name == "mqtt"
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        wait_until(lambda: not thread.is_alive())
        link.publish(TOPIC, b"1", qos=1)
        assert link.flush(LATE_S)
        assert link.stats().acked == 1
    assert "died" in caplog.text


def test_many_publishers_at_once_are_all_counted() -> None:
    with (
        mosquitto.broker() as broker,
        mosquitto.subscriber(broker, "t/#") as seen,
        connection(broker.url, queue_max=10_000) as link,
    ):
        threads = [
            threading.Thread(target=lambda k=k: [link.publish(f"t/{k}", b"%d" % n, qos=1) for n in range(400)])
            for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert link.flush(LATE_S)
        messages = seen.wait(lambda ms: len(ms) >= 1600)
        assert balanced(link)
    for k in range(4):
        assert numbers(messages, f"t/{k}") == list(range(400))


def test_stop_without_a_broker_is_quick_counted_and_idempotent(caplog: pytest.LogCaptureFixture) -> None:
    with connection(f"mqtt://127.0.0.1:{mosquitto.free_port()}") as link:
        link.publish(TOPIC, b"1", qos=1)
        link.stop(5)
        link.stop(5)
        link.publish(TOPIC, b"2", qos=1)
        assert link.stats().dropped == {"stopped": 2}
        assert balanced(link)
        assert link._thread is not None
        assert not link._thread.is_alive()
    assert "1 messages were not sent" in caplog.text


def test_stop_with_a_frozen_broker_leaves_offline_to_the_will(caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, STATUS) as seen:
        with connection(broker.url) as link:
            seen.wait(len)
            broker.freeze()
            began = time.monotonic()
            link.stop(0.3)
            assert time.monotonic() - began < 10  # not the ack time-out, not the keep-alive
        broker.thaw()
        assert seen.wait(lambda ms: ms[-1].payload == b"offline", 30)
    assert "its will says it" in caplog.text


def test_what_cannot_be_published_is_said_at_once() -> None:
    with connection("mqtt://127.0.0.1:1", start=False) as link:
        with pytest.raises(ValueError, match="topic"):
            link.publish("a/#", b"")
        with pytest.raises(ValueError, match="QoS"):
            link.publish("a", b"", qos=2)
