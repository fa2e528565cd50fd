"""How often something may be asked for: token buckets, one for each verb and one for all together."""

from __future__ import annotations

from edgerun.clock import Clock


class Bucket:
    """Holds at most `burst`; one comes back every 1 / `per_s` seconds. Used by one thread."""

    def __init__(self, per_s: float, burst: int, clock: Clock) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left, self._at_ns = float(burst), clock.mono_ns()

    def take(self) -> bool:
        """Whether there was one left."""
        now_ns = self._clock.mono_ns()
        self._left = min(self._burst, self._left + (now_ns - self._at_ns) / 1e9 * self._per_s)
        self._at_ns = now_ns
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Limits:
    """Of commands. A verb that is asked for too often does not use up what the others may have, unless all are."""

    def __init__(self, clock: Clock, *, per_s: float = 1.0, burst: int = 20, all_per_s: float = 5.0) -> None:
        """`per_s` and `burst` of each verb; `all_per_s`, and twice `burst`, of all."""
        self._clock, self._per_s, self._burst = clock, per_s, burst
        self._all = Bucket(all_per_s, 2 * burst, clock)
        self._verbs: dict[str, Bucket] = {}

    def take(self, verb: str) -> bool:
        """Whether `verb` may be done now. `verb` is one that is known: the names are kept."""
        bucket = self._verbs.get(verb)
        if bucket is None:
            bucket = self._verbs[verb] = Bucket(self._per_s, self._burst, self._clock)
        return bucket.take() and self._all.take()
