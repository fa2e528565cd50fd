"""Whether a sensor still says something: channels that stand still, and channels at the end of their range.

A microphone that is muted gives nothing but zeros, a sensor that lost its supply the same number for ever, and one that
is driven beyond its range piles its samples up at the largest or smallest value (clipping).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgerun.scene.health import Change
from edgerun.scene.lasting import Lasting, Stillness

FLAT_S = 30.0
"""At least; see `Stillness`: a thermometer stands still by itself."""
SATURATED_S = 5.0
SATURATED_SHARE = 0.02
"""Share of a window's samples that lie at the end of the range."""
PILED_UP = 2.0
"""So many times as many as in the 2 % of the range next to it: the crest of a wave is not a pile."""
_NEAR = 0.02
_FEWEST_LEVELS = 64
"""A channel with fewer values in a window (a switch, a counter, a faint sound) rests at its ends by nature."""
_MOST_PASSED_S = 5.0


class SignalHealth:
    """Looks at one stream's windows of samples. Used by one thread."""

    def __init__(self, *, flat_s: float = FLAT_S) -> None:
        self._flat_s = flat_s
        self._looked_ns: int | None = None
        self._channels: list[_Channel] = []
        self._flat = Lasting(0.0, 0.0)
        self._saturated = Lasting(SATURATED_S, SATURATED_S)

    @property
    def present(self) -> tuple[str, ...]:
        """The faults there are now."""
        faults = (("flat", self._flat), ("saturated", self._saturated))
        return tuple([name for name, lasting in faults if lasting.present])

    def look(self, window: NDArray[np.float32], captured_ns: int) -> tuple[Change, ...]:
        """`window`: `samples×channels` float32, finite, not kept; what began or ended with it. `ValueError` else."""
        if window.ndim != 2 or window.size == 0:
            raise ValueError(f"a window is samples×channels, not empty; this one is {window.shape}")
        passed_s = 0.0 if self._looked_ns is None else (captured_ns - self._looked_ns) / 1e9
        passed_s = min(max(0.0, passed_s), _MOST_PASSED_S)
        self._looked_ns = captured_ns
        if len(self._channels) != window.shape[1]:
            self._channels = [_Channel(self._flat_s) for _ in range(window.shape[1])]
        seen = [one.look(window[:, i], passed_s) for i, one in enumerate(self._channels)]
        changes = []
        if self._flat.feed(any(flat for flat, _ in seen), passed_s):
            changes.append(_flat_change(self._flat.present, [i for i, (flat, _) in enumerate(seen) if flat]))
        if self._saturated.feed(any(clipped for _, clipped in seen), passed_s):
            changes.append(_saturated_change(self._saturated.present))
        return tuple(changes)


class _Channel:
    def __init__(self, flat_s: float) -> None:
        self._stillness = Stillness(flat_s)
        self._last: float | None = None
        self._lowest, self._highest = np.inf, -np.inf

    def look(self, values: NDArray[np.float32], passed_s: float) -> tuple[bool, bool]:
        """Whether it is flat, and whether it is clipped in this window."""
        low, high = float(values.min()), float(values.max())
        self._lowest, self._highest = min(self._lowest, low), max(self._highest, high)
        still = low == high == (low if self._last is None else self._last)
        self._last = float(values[-1])
        flat = self._stillness.feed(still, passed_s)
        at_end = low < high and (high >= self._highest or low <= self._lowest)
        return flat, at_end and self._is_clipped(values)

    def _is_clipped(self, values: NDArray[np.float32]) -> bool:
        margin = _NEAR * (self._highest - self._lowest)
        for end, near in (
            (values >= self._highest, values > self._highest - margin),
            (values <= self._lowest, values < self._lowest + margin),
        ):
            piled = np.count_nonzero(end)
            beside = np.count_nonzero(near) - piled
            if piled >= SATURATED_SHARE * len(values) and piled >= PILED_UP * beside and piled > 1:
                return len(np.unique(values)) >= _FEWEST_LEVELS
        return False


def _flat_change(present: bool, channels: list[int]) -> Change:
    if not present:
        return Change("flat", False, "the sensor's values change again")
    which = ", ".join(str(i) for i in channels)
    text = f"the sensor gives the same value again and again (channel {which}): it is muted, unplugged or stuck"
    return Change("flat", True, text)


def _saturated_change(present: bool) -> Change:
    if not present:
        return Change("saturated", False, "the sensor is within its range again")
    return Change("saturated", True, "the sensor is at the end of its range: turn down its gain, or widen its range")
