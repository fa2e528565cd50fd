"""The optimal assignment of a few dozen objects: pairs of the largest total weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Edge = tuple[int, int, float]
"""Row, column, weight (0 or more) of a pair that is possible."""


def assign(edges: Iterable[Edge]) -> list[tuple[int, int]]:
    """Pairs (row, column), none used twice, of the largest total weight.

    Rows and columns that share no possible pair do not influence each other, so each connected group is solved by
    itself; a group of one pair is the pair. Greedy choice would not do: two people who cross share their best box.
    """
    rows: dict[int, dict[int, float]] = {}
    columns: dict[int, list[int]] = {}
    for row, column, weight in edges:
        rows.setdefault(row, {})[column] = weight
        columns.setdefault(column, []).append(row)
    pairs: list[tuple[int, int]] = []
    solved: set[int] = set()
    for row, reach in rows.items():
        if row in solved:
            continue
        if len(reach) == 1 and len(columns[column := next(iter(reach))]) == 1:
            pairs.append((row, column))
            continue
        group_rows, group_columns = _group(row, rows, columns)
        solved.update(group_rows)
        upright = len(group_rows) <= len(group_columns)
        near, far = (group_rows, group_columns) if upright else (group_columns, group_rows)
        # A pair that is not possible weighs 0, which is what leaving both alone weighs.
        weights = [[rows[a if upright else b].get(b if upright else a, 0.0) for b in far] for a in near]
        found = [(near[a], far[b]) if upright else (far[b], near[a]) for a, b in enumerate(_heaviest(weights))]
        pairs += [(one, other) for one, other in found if other in rows[one]]
    return pairs


def _group(row: int, rows: dict[int, dict[int, float]], columns: dict[int, list[int]]) -> tuple[list[int], list[int]]:
    """The rows and columns that are connected with `row`, in the order they are reached."""
    group_rows, group_columns = {row: None}, dict.fromkeys(rows[row])
    waiting = list(group_columns)
    while waiting:
        for other in columns[waiting.pop()]:
            if other not in group_rows:
                group_rows[other] = None
                fresh = [column for column in rows[other] if column not in group_columns]
                group_columns.update(dict.fromkeys(fresh))
                waiting += fresh
    return list(group_rows), list(group_columns)


def _heaviest(weights: Sequence[Sequence[float]]) -> list[int]:
    """For each row of `weights` (no more rows than columns) its column in the assignment of the largest total.

    The Hungarian method by shortest augmenting paths (Kuhn 1955; Jonker and Volgenant, *A shortest augmenting path
    algorithm for dense and sparse linear assignment problems*, 1987): rows are added one by one; prices keep every
    reduced cost at 0 or more, so Dijkstra finds the cheapest change of what was given away before. O(rows² · columns).
    """
    count, width = len(weights), len(weights[0])
    row_price, column_price = [0.0] * count, [0.0] * width
    owner = [-1] * width
    for start in range(count):
        distance, before = [math.inf] * width, [-1] * width
        visited: list[int] = []
        free = set(range(width))
        row, column, shortest = start, -1, 0.0
        while row >= 0:
            line, base = weights[row], shortest - row_price[row]
            nearest, following = math.inf, -1
            for other in free:
                length = base - line[other] - column_price[other]
                if length < distance[other]:
                    distance[other], before[other] = length, column
                if distance[other] < nearest:
                    nearest, following = distance[other], other
            shortest, column = nearest, following
            free.discard(column)
            visited.append(column)
            row = owner[column]
        row_price[start] += shortest
        for other in visited[:-1]:
            row_price[owner[other]] += shortest - distance[other]
            column_price[other] -= shortest - distance[other]
        while column >= 0:
            previous = before[column]
            owner[column] = owner[previous] if previous >= 0 else start
            column = previous
    by_row = {row: column for column, row in enumerate(owner)}
    return [by_row[row] for row in range(count)]
