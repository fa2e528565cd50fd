"""The queue in front of the network: bounded, in order, everything in exactly one place."""

from __future__ import annotations

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.broker.message import Message
from edgerun.broker.outgoing import SUSPECT, Entry, Outgoing


def message(number: int, qos: int = 1, size: int = 1) -> Message:
    return Message(f"t/{number}", b"x" * size, qos)


ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 1), st.integers(1, 40)),
    st.tuples(st.just("take"), st.booleans()),
    st.tuples(st.just("ack"), st.integers(0, 5)),
    st.tuples(st.just("drop"), st.integers(0, 5)),
    st.tuples(st.just("rewind")),
    st.tuples(st.just("refuse")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTIONS, max_size=80), st.integers(1, 6), st.integers(10, 120))
def test_every_message_is_in_exactly_one_place(actions: list[tuple], max_messages: int, max_bytes: int) -> None:
    queue = Outgoing(max_messages, max_bytes)
    taken: list[Entry] = []
    for n, (what, *how) in enumerate(actions):
        if what == "put":
            queue.put(message(n, *how), n)
        elif what == "take":
            entry = queue.take(how[0], 0)
            assert entry is None or how[0] or entry.message.qos == 0
            if entry is not None and entry.message.qos == 1:
                assert all(entry.ticket > other.ticket for other in taken), "out of order"
                taken.append(entry)
        elif what == "ack" and how[0] < len(taken):
            queue.ack(taken.pop(how[0]).ticket)
        elif what == "drop" and how[0] < len(taken):
            queue.drop(taken.pop(how[0]), "refused")
        elif what == "rewind":
            assert queue.rewind() == len(taken)
            taken.clear()
        elif what == "refuse":
            queue.refuse("offline")
        stats = queue.stats()
        assert stats.put == stats.acked + stats.sent0 + sum(stats.dropped.values()) + stats.waiting + stats.in_flight
        assert stats.in_flight == len(taken)
        assert stats.waiting <= 2 * max_messages
        assert 0 <= stats.waiting_bytes <= max_bytes
    queue.drop_waiting()
    stats = queue.stats()
    assert (stats.waiting, stats.in_flight, stats.waiting_bytes) == (0, 0, 0)
    assert stats.put == stats.acked + stats.sent0 + sum(stats.dropped.values())


def test_the_oldest_gives_way() -> None:
    queue = Outgoing(max_messages=3)
    assert [queue.put(message(n), n) for n in range(5)] == [0, 0, 0, 1, 1]
    assert [entry.message.topic for entry in iter(lambda: queue.take(True, 0), None)] == ["t/2", "t/3", "t/4"]
    assert queue.stats().dropped == {"full": 2}


def test_qos_0_gives_its_bytes_first() -> None:
    queue = Outgoing(max_messages=10, max_bytes=100)
    queue.put(message(0, qos=1, size=40), 0)
    queue.put(message(1, qos=0, size=40), 1)
    queue.put(message(2, qos=1, size=40), 2)
    assert [entry.message.topic for entry in iter(lambda: queue.take(True, 0), None)] == ["t/0", "t/2"]


def test_a_full_window_does_not_hold_up_qos_0() -> None:
    queue = Outgoing()
    queue.put(message(0, qos=1), 0)
    queue.put(message(1, qos=0), 1)
    assert not queue.waits(False, 0) or queue.waits(True, 0)
    entry = queue.take(False, 0)
    assert entry is not None
    assert entry.message.topic == "t/1"
    assert queue.take(False, 0) is None


def test_a_rewind_keeps_the_order_and_forgets_qos_0() -> None:
    queue = Outgoing()
    for n in range(4):
        queue.put(message(n), n)
    queue.put(message(9, qos=0), 9)
    entries = [queue.take(True, 0) for _ in range(3)]
    assert entries[1] is not None
    queue.ack(entries[1].ticket)
    assert queue.rewind() == 2
    assert [entry.message.topic for entry in iter(lambda: queue.take(True, 0), None)] == ["t/0", "t/2", "t/3"]
    assert queue.stats().dropped == {"offline": 1}


def test_waiting_for_acknowledgements_ends_with_the_last_one_before_the_call() -> None:
    queue = Outgoing()
    assert queue.wait_acked(0)
    queue.put(message(0), 0)
    assert not queue.wait_acked(0)
    entry = queue.take(True, 0)
    assert entry is not None
    done = threading.Event()
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        if queue.wait_acked(60):
            done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(60)
    queue.ack(entry.ticket)
    thread.join(60)
    assert done.is_set()
    assert queue.stats().oldest_unacked_ns is None


def test_a_suspect_that_expires_ends_the_caution() -> None:
    queue = Outgoing()
    queue.put(Message("t", b"x", 1, expires_s=5), 0)
    for _ in range(SUSPECT):
        assert queue.take(True, 0) is not None
        queue.rewind(blame=True)
    assert queue.cautious
    assert queue.take(True, 5_000_000_000) is None
    assert queue.stats().dropped == {"expired": 1}
    assert not queue.cautious
