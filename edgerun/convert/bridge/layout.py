"""In which order the axes of an ONNX value lie in a TFLite tensor: pure functions on tuples of axes.

An order names, for each axis of the stored tensor, the axis of the ONNX value that it is: `(0, 2, 3, 1)` is N×C×H×W
stored as N×H×W×C. A transposition in the ONNX graph only renames axes, so it costs nothing until an operator needs
the values in a certain order.
"""

from __future__ import annotations

import math

from edgerun.convert.bridge.graph import Shape

Order = tuple[int, ...]


def identity(rank: int) -> Order:
    """The axes as ONNX has them."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """N×C×… stored as N×…×C."""
    return (0, *range(2, rank), 1)


def stored(shape: Shape, order: Order) -> Shape:
    """The shape of the stored tensor."""
    return tuple(shape[axis] for axis in order)


def between(order: Order, wanted: Order) -> Order:
    """The permutation that takes a tensor stored in `order` to `wanted`."""
    return tuple(order.index(axis) for axis in wanted)


def moves_nothing(shape: Shape, permutation: Order) -> bool:
    """Whether a transposition leaves the values of a tensor of that (stored) shape in place: only axes of 1 move."""
    moving = [axis for axis in permutation if shape[axis] != 1]
    return moving == sorted(moving)


def last(order: Order, axis: int) -> Order:
    """`order` with the ONNX axis at the end."""
    return (*(other for other in order if other != axis), axis)


def without(order: Order, axes: set[int]) -> Order:
    """The order that is left when those ONNX axes are gone."""
    left = sorted(set(order) - axes)
    return tuple(left.index(axis) for axis in order if axis not in axes)


def regroup(before: Shape, order: Order, after: Shape) -> tuple[Order, Order]:
    """How a reshape from `before` to `after` (ONNX shapes) of a value stored in `order` moves fewest axes.

    A reshape splits and merges neighbouring axes: what becomes one group of axes must lie together, in its own order;
    the groups themselves may lie as they do. Returns the order to bring the value into first (`order` itself where
    nothing has to move), and the order of the result.
    """
    groups = _groups(before, after)
    if groups is None:
        return identity(len(before)), identity(len(after))
    lying = [axis for axis in order if before[axis] != 1]
    groups.sort(key=lambda group: max(lying.index(axis) for axis in group[0]))
    wanted = [axis for mine, _ in groups for axis in mine]
    result = [axis for _, becomes in groups for axis in becomes]
    first = order if wanted == lying else _with_ones(wanted, before)
    return first, _with_ones(result, after)


def _groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]] | None:
    """Pairs of lists of axes, those of size 1 left out, with the same product; None where an axis is empty."""
    if 0 in before or math.prod(before) != math.prod(after):
        return None
    old = [axis for axis, size in enumerate(before) if size != 1]
    new = [axis for axis, size in enumerate(after) if size != 1]
    groups = []
    while old:
        mine, becomes = [old.pop(0)], [new.pop(0)]
        while (left := math.prod(before[axis] for axis in mine)) != (
            right := math.prod(after[axis] for axis in becomes)
        ):
            if left < right:
                mine.append(old.pop(0))
            else:
                becomes.append(new.pop(0))
        groups.append((mine, becomes))
    return groups


def _with_ones(axes: list[int], shape: Shape) -> Order:
    """`axes` (those larger than 1, as they lie) completed by the axes of size 1, where the next operator wants them."""
    rank = len(shape)
    for usual in (identity(rank), channels_last(rank) if rank > 2 else identity(rank)):
        if [axis for axis in usual if shape[axis] != 1] == axes:
            return usual
    return (*(axis for axis in range(rank) if shape[axis] == 1), *axes)
