"""The bounded hand-offs: the only places where something on its way can be dropped, and both count.

`Slot` lies between a stream's capture thread and the engine's worker: newest wins (`capacity` 1) or, for stateful
models, the oldest of N gives way. `Outbox` lies between the workers and the publish thread: on overflow its oldest
gives way. Neither drops by itself: `put` returns the victim, so that whoever put it counts and releases it. What
`put_wait` handed over was waited for, and never gives way.
Closing marks the end: what is inside is still taken, then `Closed` is raised.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from edgerun.errors import Closed

T = TypeVar("T")


class HandOffStats(msgspec.Struct, frozen=True):
    """How a hand-off stands: `put = taken + victims + waiting`."""

    capacity: int
    waiting: int
    put: int
    taken: int
    victims: int
    closed: bool


class Slot(Generic[T]):
    """A hand-off of stated size whose oldest entry put by `put` is the victim when it is full.

    Slots of one worker share its `ready` condition, so that the worker can wait for any of them (`take_any`).
    """

    def __init__(self, capacity: int, ready: threading.Condition | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"a hand-off holds at least 1 item; got capacity {capacity}")
        self._items: deque[tuple[T, bool]] = deque()  # with whether it may give way
        self._capacity = capacity
        self._ready = ready if ready is not None else threading.Condition()
        self._put = self._taken = self._victims = 0
        self._closed = False

    def put(self, item: T) -> T | None:
        """Hand `item` over at once; returns what had to give way, if anything. Raises `Closed`.

        The victim is the oldest that `put` handed over; `item` itself where all that waits came by `put_wait`.
        """
        with self._ready:
            if self._closed:
                raise Closed("put into a closed hand-off")
            full = len(self._items) >= self._capacity
            self._items.append((item, True))
            self._put += 1
            victim = None
            if full:
                at = next(i for i, (_, may_give_way) in enumerate(self._items) if may_give_way)
                victim, _ = self._items[at]
                del self._items[at]
                self._victims += 1
            self._ready.notify_all()
            return victim

    def put_wait(self, item: T) -> None:
        """Hand `item` over, waiting for room: for sources without a deadline, where nothing may be dropped."""
        with self._ready:
            while len(self._items) >= self._capacity and not self._closed:
                self._ready.wait()
            if self._closed:
                raise Closed("put into a closed hand-off")
            self._items.append((item, False))
            self._put += 1
            self._ready.notify_all()

    def nudge(self) -> None:
        """Make whoever waits for this or a fellow slot look again."""
        with self._ready:
            self._ready.notify_all()

    def take(self, timeout_s: float | None = None) -> T | None:
        """The oldest item; waits up to `timeout_s` (None: for ever) and returns None when that passed.

        Raises `Closed` when the hand-off is closed and empty.
        """
        with self._ready:
            self._ready.wait_for(lambda: self._items or self._closed, timeout_s)
            if self._items:
                return self._pop()
            if self._closed:
                raise Closed
            return None

    def close(self) -> None:
        """No more items: takers drain what waits, then get `Closed`. Idempotent."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called; what is inside may still be taken."""
        return self._closed

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._items)

    def newest(self) -> T | None:
        """The item put last, if it still waits; it stays."""
        with self._ready:
            return self._items[-1][0] if self._items else None

    def stats(self) -> HandOffStats:
        with self._ready:
            return HandOffStats(self._capacity, len(self._items), self._put, self._taken, self._victims, self._closed)

    def _pop(self) -> T:
        item, _ = self._items.popleft()
        self._taken += 1
        self._ready.notify_all()
        return item

    def _waiting(self) -> bool:
        return bool(self._items)


class Outbox(Slot[T]):
    """The hand-off to the sinks."""


def take_any(
    slots: Sequence[Slot[T]],
    ready: threading.Condition,
    pick: Callable[[Sequence[int]], int],
    live: list[bool],
    timeout_s: float | None = None,
    interrupt: Callable[[], bool] | None = None,
) -> tuple[int, T | None] | None:
    """Wait until any of `slots` (all made with `ready`) holds something and take from the one `pick` chooses.

    `pick` gets the indices of the slots with something waiting and returns one of them. Returns (index, item). A slot
    that is closed and empty is told once, as (index, None), and is then no longer `live`. None when `timeout_s` passed
    first (None: for ever), or when `interrupt`, asked at every notice of `ready`, says so. Raises `Closed` when no slot
    is live.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    with ready:
        while True:
            if interrupt is not None and interrupt():
                return None
            waiting = [i for i, slot in enumerate(slots) if slot._waiting()]
            if waiting:
                chosen = pick(waiting)
                return chosen, slots[chosen]._pop()
            for i, slot in enumerate(slots):
                if live[i] and slot._closed:
                    live[i] = False
                    return i, None
            if not any(live):
                raise Closed
            if deadline_s is None:
                ready.wait()
            elif not ready.wait(max(0.0, deadline_s - time.monotonic())):
                return None
