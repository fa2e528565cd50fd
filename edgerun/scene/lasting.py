"""Hysteresis in time: something is there when it has lasted, and gone when it has been away for a while."""

from __future__ import annotations


class Lasting:
    """Becomes present after `begin_s` of yes without a no, and absent after `end_s` of no without a yes.

    A look that cannot tell (None) counts as a pause of both clocks.
    """

    def __init__(self, begin_s: float, end_s: float) -> None:
        self.present = False
        self._begin_s, self._end_s = begin_s, end_s
        self._for_s: float | None = None

    def feed(self, there: bool | None, passed_s: float) -> bool:
        """One look, `passed_s` after the one before; returns whether `present` changed with it."""
        if there is None:
            return False
        if there == self.present:
            self._for_s = None
            return False
        self._for_s = 0.0 if self._for_s is None else self._for_s + passed_s
        if self._for_s < (self._end_s if self.present else self._begin_s):
            return False
        self.present, self._for_s = there, None
        return True


FACTOR = 4.0
_MOST_S = 6 * 3600.0


class Stillness:
    """Whether something stands still for longer than it does by itself.

    That is at least `least_s`, and `FACTOR` times the longest time after which it moved again by itself. Where it was
    taken for dead and then moved, nobody knows who moved it: twice as long is waited the next time, at most six hours.
    """

    def __init__(self, least_s: float) -> None:
        self._limit_s = least_s
        self._still_s = 0.0

    def feed(self, still: bool, passed_s: float) -> bool:
        """One look, `passed_s` after the one before."""
        if still:
            self._still_s += passed_s
            return self._still_s >= self._limit_s
        wrong = self._still_s >= self._limit_s
        longer_s = 2.0 * self._limit_s if wrong else FACTOR * self._still_s
        self._limit_s = max(self._limit_s, min(longer_s, _MOST_S))
        self._still_s = 0.0
        return False
