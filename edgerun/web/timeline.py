"""The last quarter of an hour in constant memory, and what has happened lately."""

from __future__ import annotations

import math
import threading
from array import array
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

_NOTHING = math.nan


class Timeline:
    """Values by group and name, one of each for every step; the oldest make room. Thread-safe.

    A name takes 4 bytes a step whether it has values or not; one without any in all steps is forgotten.
    """

    def __init__(self, step_s: float = 5.0, steps: int = 180) -> None:
        self.step_s, self._steps = step_s, steps
        self._lock = threading.Lock()
        self._at: deque[float] = deque(maxlen=steps)
        self._series: dict[tuple[str, str], array[float]] = {}

    def add(self, unix_s: float, values: Mapping[str, Mapping[str, float | None]]) -> None:
        """The values of one step; what is None or not there is not known."""
        with self._lock:
            self._at.append(unix_s)
            known = {(group, name): value for group, names in values.items() for name, value in names.items()}
            for key in known:
                self._series.setdefault(key, array("f", [_NOTHING] * (len(self._at) - 1)))
            for key, series in list(self._series.items()):
                value = known.get(key)
                series.append(_NOTHING if value is None else value)
                if len(series) > self._steps:
                    del series[0]
                if value is None and all(math.isnan(one) for one in series):
                    del self._series[key]

    def view(self) -> dict[str, Any]:
        """`{"step_s", "ts": […], "series": {group: {name: […]}}}`; null is a value that is not known."""
        with self._lock:
            out: dict[str, dict[str, list[float | None]]] = {}
            for (group, name), series in self._series.items():
                out.setdefault(group, {})[name] = [None if math.isnan(one) else _rounded(one) for one in series]
            return {"step_s": self.step_s, "ts": [round(one, 1) for one in self._at], "series": out}


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened. `kind` for programs, `text` for a person; `number` counts from 1."""

    number: int
    ts: float
    kind: str
    text: str
    stream: str | None = None
    grave: bool = False


class Journal:
    """The newest entries, the newest first. Thread-safe."""

    def __init__(self, most: int = 200) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=most)
        self._count = 0

    def add(self, unix_s: float, kind: str, text: str, stream: str | None = None, *, grave: bool = False) -> None:
        """Something happened."""
        with self._lock:
            self._count += 1
            self._entries.appendleft(Entry(self._count, round(unix_s, 3), kind, text, stream, grave))

    @property
    def count(self) -> int:
        """How many there were so far."""
        return self._count

    def entries(self) -> list[Entry]:
        """Those that are kept."""
        with self._lock:
            return list(self._entries)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
