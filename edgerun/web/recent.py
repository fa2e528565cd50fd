"""What the meters say of the last seconds: rates, ages, and how long each stage takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from edgerun.clock import Clock
from edgerun.meter import AccountView, Histogram

_STAGES = ("capture", "wait", "preprocess", "infer", "decode")
_LEAST_NS = 4_000_000_000
_LEAST_S = 1.0
"""A shorter time says nothing about a rate."""


class Totals(Protocol):
    """What one account's meter has measured since the beginning."""

    @property
    def account(self) -> AccountView: ...

    @property
    def age(self) -> Histogram: ...

    @property
    def stages(self) -> Mapping[str, Histogram]: ...


class Recent:
    """The difference between now and some seconds ago. Used by one thread.

    `mark`, called about every five seconds, remembers the totals; `view` compares with the newest of them that is at
    least four seconds old, else with the oldest.
    """

    def __init__(self, read: Callable[[], Mapping[str, Totals]], clock: Clock) -> None:
        self._read, self._clock = read, clock
        self._marks: deque[tuple[int, Mapping[str, Totals]]] = deque(maxlen=3)
        self._marks.append((clock.mono_ns(), {}))

    def mark(self) -> dict[str, dict[str, Any]]:
        """Remember the totals of this moment; returns what `view` would."""
        now_ns, totals = self._clock.mono_ns(), self._read()
        out = self._compare(now_ns, totals)
        self._marks.append((now_ns, totals))
        return out

    def view(self) -> dict[str, dict[str, Any]]:
        """By account: the counters since the beginning; `fps`, `grabbed_fps`, `age_ms` and `latency_ms` (p50) of the
        last seconds, and `lately`: what became of their frames.
        """
        return self._compare(self._clock.mono_ns(), self._read())

    def _compare(self, now_ns: int, totals: Mapping[str, Totals]) -> dict[str, dict[str, Any]]:
        then_ns, before = next((m for m in reversed(self._marks) if now_ns - m[0] >= _LEAST_NS), self._marks[0])
        seconds = max(1e-3, (now_ns - then_ns) / 1e9)
        return {name: _summary(now, before.get(name), seconds) for name, now in totals.items()}


def _summary(now: Totals, before: Totals | None, seconds: float) -> dict[str, Any]:
    account, old = now.account, None if before is None else before.account
    out: dict[str, Any] = {"grabbed": account.grabbed, **account.fates, "in_flight": account.in_flight}
    if account.failed_reasons:
        out["failed_reasons"] = dict(account.failed_reasons)
    lately = {fate: max(0, n - (old.fates[fate] if old else 0)) for fate, n in account.fates.items()}
    out["lately"] = lately
    if seconds >= _LEAST_S:
        out["fps"] = round(lately["published"] / seconds, 2)
        out["grabbed_fps"] = round(max(0, account.grabbed - (old.grabbed if old else 0)) / seconds, 2)
    if age_ms := now.age.since(None if before is None else before.age).summary((50, 99), with_max=False):
        out["age_ms"] = age_ms
    latency_ms = {}
    for stage in _STAGES:
        spent = now.stages[stage].since(None if before is None else before.stages[stage])
        if (p50 := spent.percentile(50)) is not None:
            latency_ms[stage] = round(p50, 3)
    return out | ({"latency_ms": latency_ms} if latency_ms else {})
