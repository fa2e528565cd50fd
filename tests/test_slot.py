"""The hand-offs against a model of themselves, and across real threads."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import Closed
from edgerun.slot import Outbox, Slot, take_any


@given(capacity=st.integers(1, 5), steps=st.lists(st.booleans(), max_size=60))
def test_behaves_like_a_deque_that_names_its_victim(capacity: int, steps: list[bool]) -> None:
    slot: Slot[int] = Slot(capacity)
    model: deque[int] = deque()
    for number, is_put in enumerate(steps):
        if is_put:
            victim = model.popleft() if len(model) == capacity else None
            model.append(number)
            assert slot.put(number) == victim
        else:
            assert slot.take(timeout_s=0) == (model.popleft() if model else None)
        stats = slot.stats()
        assert stats.put == stats.taken + stats.victims + stats.waiting
        assert stats.waiting == len(model)


@given(capacity=st.integers(1, 4), waited_for=st.lists(st.booleans(), min_size=1, max_size=40))
def test_what_was_waited_for_never_gives_way(capacity: int, waited_for: list[bool]) -> None:
    slot: Slot[int] = Slot(capacity)
    inside: list[int] = []
    for number, waited in enumerate(waited_for):
        if waited and len(inside) == capacity:
            taken = slot.take()
            assert taken == inside.pop(0)
        inside.append(number)
        if waited:
            slot.put_wait(number)
        elif len(inside) <= capacity:
            assert slot.put(number) is None
        else:
            victim = next(n for n in inside if not waited_for[n])
            assert slot.put(number) == victim
            inside.remove(victim)
        stats = slot.stats()
        assert stats.put == stats.taken + stats.victims + stats.waiting
    slot.close()
    assert [slot.take() for _ in inside] == inside


@given(st.lists(st.integers(), min_size=1, max_size=20))
def test_one_slot_always_holds_the_newest(items: list[int]) -> None:
    slot: Slot[int] = Slot(1)
    for item in items:
        slot.put(item)
    assert slot.take() == items[-1]


def test_what_is_inside_outlives_closing() -> None:
    box: Outbox[str] = Outbox(3)
    box.put("a")
    box.put("b")
    box.close()
    box.close()
    assert [box.take(), box.take()] == ["a", "b"]
    with pytest.raises(Closed):
        box.take()
    with pytest.raises(Closed):
        box.put("c")
    with pytest.raises(Closed):
        box.put_wait("c")


def test_capacity_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="got capacity 0"):
        Slot(0)


def test_closing_wakes_a_waiting_taker_and_a_waiting_putter() -> None:
    empty: Slot[int] = Slot(1)
    full: Slot[int] = Slot(1)
    full.put(1)
    ends: list[str] = []

    def take() -> None:
        try:
            empty.take()
        except Closed:
            ends.append("taker")

    def put() -> None:
        try:
            full.put_wait(2)
        except Closed:
            ends.append("putter")

    threads = [threading.Thread(target=take), threading.Thread(target=put)]
    for thread in threads:
        thread.start()
    empty.close()
    full.close()
    for thread in threads:
        thread.join(60)
    assert sorted(ends) == ["putter", "taker"]


def test_put_wait_loses_nothing_between_threads() -> None:
    slot: Slot[int] = Slot(2)
    taken: list[int] = []

    def consume() -> None:
        while True:
            try:
                item = slot.take()
            except Closed:
                return
            assert item is not None
            taken.append(item)

    consumer = threading.Thread(target=consume)
    consumer.start()
    for number in range(2000):
        slot.put_wait(number)
    slot.close()
    consumer.join(60)
    assert taken == list(range(2000))


def test_take_any_gives_the_picked_one_and_ends_when_all_are_closed() -> None:
    ready = threading.Condition()
    slots: list[Slot[str]] = [Slot(1, ready) for _ in range(3)]
    slots[0].put("first")
    slots[2].put("third")
    live = [True] * 3
    assert take_any(slots, ready, max, live) == (2, "third")
    for slot in slots:
        slot.close()
    assert take_any(slots, ready, max, live) == (0, "first")
    assert sorted(take_any(slots, ready, max, live)[0] for _ in slots) == [0, 1, 2], "each end is told once"
    with pytest.raises(Closed):
        take_any(slots, ready, max, live)


def test_take_any_is_woken_by_any_slot() -> None:
    ready = threading.Condition()
    slots: list[Slot[int]] = [Slot(1, ready) for _ in range(4)]
    got: list[tuple[int, int]] = []
    worker = threading.Thread(target=lambda: got.append(take_any(slots, ready, min, [True] * 4)))
    worker.start()
    slots[3].put(7)
    worker.join(60)
    assert got == [(3, 7)]
