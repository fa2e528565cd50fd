"""Reshapes and transpositions of values that lie in any order, against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgerun.convert.bridge.layout import (
    between,
    channels_last,
    identity,
    last,
    moves_nothing,
    regroup,
    stored,
    without,
)

SIZES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5)


@st.composite
def reshapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    before = tuple(draw(SIZES))
    factors = [factor for size in before for factor in ([2, 2] if size == 4 else [size])]
    after: list[int] = []
    for factor in factors:
        if after and draw(st.booleans()):
            after[-1] *= factor
        else:
            after.append(factor)
    return before, tuple(draw(st.permutations(range(len(before))))), tuple(after)


@given(reshapes())
def test_a_reshape_of_a_stored_value_is_that_of_the_value(
    told: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    before, order, after = told
    value = np.arange(math.prod(before)).reshape(before)
    first, result = regroup(before, order, after)
    assert sorted(first) == list(range(len(before)))
    assert sorted(result) == list(range(len(after)))
    moved = value.transpose(order).transpose(between(order, first))
    assert np.array_equal(moved.reshape(stored(after, result)), value.reshape(after).transpose(result))


@given(SIZES, st.data())
def test_what_moves_nothing_may_be_a_reshape(sizes: list[int], data: Any) -> None:
    permutation = tuple(data.draw(st.permutations(range(len(sizes)))))
    value = np.arange(math.prod(sizes)).reshape(sizes)
    moved = value.transpose(permutation)
    if moves_nothing(tuple(sizes), permutation):
        assert np.array_equal(value.reshape(moved.shape), moved)


def test_merging_height_and_width_of_a_picture_leaves_its_channels_last() -> None:
    assert regroup((1, 8, 4, 4), channels_last(4), (1, 8, 16)) == (channels_last(4), (0, 2, 1))


def test_orders() -> None:
    assert channels_last(4) == (0, 2, 3, 1)
    assert identity(3) == (0, 1, 2)
    assert last((0, 2, 3, 1), 2) == (0, 3, 1, 2)
    assert without((0, 2, 3, 1), {2}) == (0, 2, 1)
    assert stored((1, 3, 5, 7), (0, 2, 3, 1)) == (1, 5, 7, 3)
