"""The pool of picture buffers: what is used stays, what a burst has left is let go."""

from __future__ import annotations

import weakref

import numpy as np

from edgerun.pipeline.pool import BufferPool

TAKES = 2000
"""Several looks of the pool."""


class Buffer(np.ndarray):
    """An array whose end can be seen."""


def buffers(count: int) -> list[Buffer]:
    return [np.zeros((2, 3, 3), np.uint8).view(Buffer) for _ in range(count)]


def test_what_a_burst_has_left_is_let_go_and_what_is_used_stays() -> None:
    pool, made = BufferPool(), buffers(4)
    seen = [weakref.ref(one) for one in made]
    while made:
        pool.give(made.pop())
    for _ in range(TAKES):
        one, other = pool.take(), pool.take()
        assert one is not None, "two are in use all the time: never is one to be made anew"
        assert other is not None
        pool.give(one)
        pool.give(other)
        del one, other
    assert sum(one() is not None for one in seen) == 2


def test_one_in_use_at_a_time_is_always_the_same() -> None:
    pool = BufferPool()
    (only,) = buffers(1)
    pool.give(only)
    for _ in range(TAKES):
        assert pool.take() is only
        pool.give(only)


def test_no_more_than_four_lie_idle_and_none_of_another_shape() -> None:
    pool, made = BufferPool(), buffers(6)
    for one in made:
        pool.give(one)
    assert [pool.take() is not None for _ in range(5)] == [True] * 4 + [False]
    for one in made:
        pool.give(one)
    pool.give(np.zeros((4, 4, 3), np.uint8))
    taken = pool.take()
    assert taken is not None
    assert taken.shape == (4, 4, 3)
    assert pool.take() is None
