"""Whether anything moves: a small grey picture against an adaptive background.

The picture is smoothed (3×3 mean), the light is taken out of it (one gain and one offset for the whole picture, fitted
robustly), and what then differs from the background by more than the pixel's own noise has changed. The background
follows every pixel at a bounded speed, so somebody who walks past leaves hardly a trace in it and what stays is part of
it after some tens of seconds: a running mean with bounded influence, akin to the sigma-delta background of Manzanera
and Richefeu (2007). All rates are in time, not in frames.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgerun.polygon import Polygon, check_polygon
from edgerun.scene.mask import coverage
from edgerun.types import Box, GreyImage, Motion

_Floats = NDArray[np.float32]

SETTLE_S = 8.0
"""Time constant of the background where the picture is quiet."""
LEARN_S = 3.0
"""So long after a start the background is the plain mean of what was seen: who stood in the first frame fades."""
FOLLOW = 0.1
"""Share of a change beyond its threshold that the background follows all the same."""
NOISE_S = 20.0
"""Time constant of each pixel's noise."""
USUAL_S = 5.0
"""Time constant of what noise the whole picture usually has."""
LEAST_LEVELS = 7.0
"""A change below this many grey levels, after smoothing, is none: compression artefacts reach 4 to 5."""
NOISE_FACTOR = 5.0
"""Threshold over a pixel's mean absolute deviation: 4 σ of normally distributed noise."""
SPREAD_FACTOR = 4.0
"""Threshold over the whole picture's σ in this frame."""
UPHEAVAL = 0.5
"""When this share has changed it is another picture (the camera was turned, the lamps went on): learn anew."""
LIGHT_STEP_LEVELS = 5.0
"""Light that changes the mean by this much from one look to the next was switched: the background is learnt anew."""
RECENT_S = 0.7
"""What changed within so long counts together: somebody far away covers few pixels at once, but more as they walk."""
BOX_PADDING = 0.08
"""Added to each side of the box, as a share of its width and height, and a pixel besides."""

LIGHT_DOUBT = 0.25
"""Share of a pixel's correction for light by which it may be off."""
SATURATED_DOUBT = 1.2
"""The same near white, where the camera has cut the brightness off and nobody knows what it was."""
_NEAR_WHITE = 215.0
_DOUBT_A_LEVEL = SATURATED_DOUBT / 20.0
_MOST_NOISE = 8.0
_FIT_POINTS = 384
_FEWEST_FIT_POINTS = 24
_MOST_FITS = 5
_LEAST_GAIN = 0.4


class MotionGate:
    """See `ports.Gate`. Opens when `share` (0..1) of the watched pixels have changed and stays open `hold_s` longer.

    A changed pixel counts for `RECENT_S`, in `Motion.share` too, but the gate opens only while some pixel does change.
    `mask`: polygons in 0..1 whose pixels are not watched: nothing in them has any effect. The first frame counts as
    moving, also after a change of resolution. `box` is around everything that changed, padded; None when nothing moves,
    or when all of it may (first frame, another picture). While `hold_s` runs out it is the last one.

    Raises `ValueError` for an unusable `share`, `hold_s` or mask. No array is allocated after the first frame of a
    resolution.
    """

    def __init__(self, share: float = 0.005, hold_s: float = 1.0, mask: Sequence[Polygon] = ()) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of pixels that must change is 0 to 1, not {share}")
        if not (math.isfinite(hold_s) and hold_s >= 0):
            raise ValueError(f"the seconds that motion is held are 0 or more, not {hold_s}")
        for points in mask:
            check_polygon(points)
        self._share, self._hold_ns, self._mask = share, round(hold_s * 1e9), tuple(mask)
        self._background: _Background | None = None
        self._seen_ns = 0
        self._still_ns = 0
        self._held = False
        self._box: Box | None = None

    def look(self, grey: GreyImage, captured_ns: int) -> Motion:
        """`grey`: `H×W` uint8, else `ValueError`. A stamp that runs backwards counts as no time passed."""
        background = self._background
        if background is None or background.shape != grey.shape or grey.dtype != np.uint8:
            self._background = _Background(grey, self._mask)
            return self._opened(captured_ns, 1.0, None)
        passed_ns = max(0, captured_ns - self._seen_ns)
        now, recent = background.look(grey, passed_ns / 1e9)
        share = recent / background.watched if background.watched else 0.0
        upheaval = 0 < UPHEAVAL * background.watched <= now
        box = None if upheaval or not now else background.box()
        if upheaval:
            background.restart()
        if now and share >= self._share:
            return self._opened(captured_ns, share, box)
        self._seen_ns = captured_ns
        self._still_ns += passed_ns
        self._held = self._held and self._still_ns < self._hold_ns
        return Motion(share, self._held, self._box if self._held else None)

    def _opened(self, captured_ns: int, share: float, box: Box | None) -> Motion:
        self._seen_ns, self._still_ns, self._held, self._box = captured_ns, 0, True, box
        return Motion(share, True, box)


class _Background:
    """What the scene looks like when nothing moves, for pictures of one shape; all buffers are made here."""

    def __init__(self, grey: GreyImage, mask: Sequence[Polygon]) -> None:
        import cv2

        if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
            raise ValueError(f"looking for motion needs an H×W uint8 picture, this one is {grey.shape} {grey.dtype}")
        self.shape = height, width = grey.shape
        self._watch = cv2.bitwise_not(coverage(mask, width, height)) if mask else None
        self.watched = cv2.countNonZero(self._watch) if self._watch is not None else grey.size
        self._clean = np.zeros(self.shape, np.uint8)
        self._changed = np.zeros(self.shape, np.uint8)
        self._moved = np.zeros(self.shape, np.uint8)
        buffers = [np.zeros(self.shape, np.float32) for _ in range(7)]
        self._seen, self._ground, self._expected, self._difference, self._limit, self._step, self._bound = buffers
        self._noise = np.ones(self.shape, np.float32)
        self._weight = self._smoothing_weight()
        self._light = _Light(self.shape, self._watch)
        self._recent = np.zeros(self.shape, np.uint8)
        self._faded = 0.0
        self._age_s = 0.0
        self._smooth(grey)
        np.copyto(self._ground, self._seen)

    def look(self, grey: GreyImage, passed_s: float) -> tuple[int, int]:
        """How many watched pixels have changed in this picture, and within `RECENT_S`; learns from the picture."""
        import cv2

        self._smooth(grey)
        light = self._light
        light.fit(self._seen, self._ground, passed_s)
        if light.switched and self._age_s >= LEARN_S:
            self._age_s = 0.0
        expected, difference, limit = self._expected, self._difference, self._limit
        np.multiply(self._ground, light.gain, out=expected)
        np.add(expected, light.offset, out=expected)
        np.clip(expected, 0.0, 255.0, out=expected)
        np.subtract(self._seen, expected, out=difference)
        np.multiply(self._noise, NOISE_FACTOR, out=limit)
        np.maximum(limit, max(LEAST_LEVELS, SPREAD_FACTOR * light.spread), out=limit)
        self._doubt()
        np.abs(difference, out=self._step)
        cv2.compare(self._step, limit, cv2.CMP_GT, dst=self._changed)
        if self._watch is not None:
            cv2.bitwise_and(self._changed, self._watch, dst=self._changed)
        cv2.medianBlur(self._changed, 3, dst=self._moved)
        if self._watch is not None:
            cv2.bitwise_and(self._moved, self._watch, dst=self._moved)
        now = cv2.countNonZero(self._moved)
        self._fade(passed_s)
        cv2.max(self._recent, self._moved, dst=self._recent)
        self._learn(passed_s)
        return now, cv2.countNonZero(self._recent)

    def restart(self) -> None:
        """Begin anew with the picture seen last."""
        np.copyto(self._ground, self._seen)
        self._recent.fill(0)
        self._age_s = 0.0

    def box(self) -> Box:
        """Around all that changed within `RECENT_S`."""
        import cv2

        height, width = self.shape
        x, y, w, h = cv2.boundingRect(self._recent)
        dx, dy = BOX_PADDING * w + 1, BOX_PADDING * h + 1
        return (
            max(0.0, (x - dx) / width),
            max(0.0, (y - dy) / height),
            min(1.0, (x + w + dx) / width),
            min(1.0, (y + h + dy) / height),
        )

    def _smooth(self, grey: GreyImage) -> None:
        """3×3 mean over watched pixels only, so that what is masked does not shine through at its edge."""
        import cv2

        if self._watch is not None:
            cv2.bitwise_and(grey, self._watch, dst=self._clean)
            grey = self._clean
        cv2.boxFilter(grey, cv2.CV_32F, (3, 3), dst=self._seen, normalize=False)
        np.multiply(self._seen, self._weight, out=self._seen)

    def _smoothing_weight(self) -> _Floats:
        import cv2

        if self._watch is None:
            return np.full(self.shape, 1 / 9, np.float32)
        count = cv2.boxFilter(self._watch // 255, cv2.CV_32F, (3, 3), normalize=False)
        weight = np.zeros(self.shape, np.float32)
        np.divide(1.0, count, out=weight, where=self._watch > 0)
        return weight

    def _doubt(self) -> None:
        """Raise each pixel's limit by a part of its correction for light: one gain and offset do not fit all pixels."""
        shift, part = self._step, self._bound
        np.subtract(self._expected, self._ground, out=shift)
        np.abs(shift, out=shift)
        np.maximum(self._expected, self._ground, out=part)
        np.subtract(part, _NEAR_WHITE, out=part)
        np.multiply(part, _DOUBT_A_LEVEL, out=part)
        np.clip(part, LIGHT_DOUBT, SATURATED_DOUBT, out=part)
        np.multiply(shift, part, out=shift)
        np.add(self._limit, shift, out=self._limit)

    def _fade(self, passed_s: float) -> None:
        """Let go of what changed longer ago than `RECENT_S`: 255 is now, 0 is gone."""
        self._faded += min(passed_s / RECENT_S, 1.0) * 255.0
        whole = int(self._faded)
        self._faded -= whole
        # Not cv2.subtract: it takes a number for a column of pixels when the picture is 4×1.
        np.maximum(self._recent, whole, out=self._recent)
        np.subtract(self._recent, whole, out=self._recent)

    def _learn(self, passed_s: float) -> None:
        """Move noise and background towards what was seen; `_step` holds the size of the difference."""
        import cv2

        difference, limit, step, bound = self._difference, self._limit, self._step, self._bound
        self._age_s += passed_s
        # Outliers count for little: else people who walk by would make the pixels on their way insensitive.
        np.multiply(self._noise, 2.5, out=bound)
        np.add(bound, 0.5, out=bound)
        np.minimum(step, bound, out=step)
        cv2.accumulateWeighted(step, self._noise, -math.expm1(-passed_s / NOISE_S))
        np.minimum(self._noise, _MOST_NOISE, out=self._noise)

        follow = 1.0 if self._age_s < LEARN_S else FOLLOW
        target = self._expected
        np.negative(limit, out=bound)
        np.maximum(difference, bound, out=step)
        np.minimum(step, limit, out=step)
        cv2.addWeighted(step, 1.0 - follow, difference, follow, 0.0, dst=bound)
        np.add(target, bound, out=target)
        cv2.accumulateWeighted(target, self._ground, -math.expm1(-passed_s / min(SETTLE_S, self._age_s + 0.04)))


class _Light:
    """How the light of a picture differs from the background's: `picture ≈ gain · background + offset`.

    Least squares over a few hundred pixels, reweighted with Geman and McClure's function (1987) so that what moves does
    not count. `spread` is the σ of what is left, by its median (1.4826 · MAD, Rousseeuw and Croux, 1993), and follows
    upwards only so far per look: whoever fills most of the picture must not pass for noise.
    """

    def __init__(self, shape: tuple[int, ...], watch: GreyImage | None) -> None:
        watched = np.arange(math.prod(shape)) if watch is None else np.flatnonzero(watch)
        count = min(_FIT_POINTS, len(watched)) if len(watched) >= _FEWEST_FIT_POINTS else 0
        # Scattered, not every n-th: a grid could fall in with a fence or with the columns of the picture.
        # Python's own generator: importing numpy's costs 3 MiB.
        picked = np.array(random.Random(3).sample(range(len(watched)), count), np.intp)
        self._points = np.sort(watched[picked])
        self._x, self._y, self._rest, self._weight, self._sorted = np.zeros((5, count), np.float32)
        self.gain, self.offset, self.spread = 1.0, 0.0, 0.0
        self.switched = False
        self._usual: float | None = None

    def fit(self, seen: _Floats, ground: _Floats, passed_s: float) -> None:
        """Set `gain`, `offset`, `spread` and `switched`: whether the light jumped since the look before."""
        if len(self._points) == 0:
            return
        x, y = self._x, self._y
        np.take(ground.reshape(-1), self._points, out=x, mode="clip")
        np.take(seen.reshape(-1), self._points, out=y, mode="clip")
        middle = float(x.mean())
        before = self.gain * middle + self.offset
        np.subtract(x, middle, out=x)
        # y ≈ gain · (x - middle) + level, from the light of the background itself.
        gain, level = 1.0, middle
        for _ in range(_MOST_FITS):
            spread = self._spread(gain, level)
            new_gain, new_level = self._refit(spread)
            moved = abs(new_gain - gain) * 50.0 + abs(new_level - level)
            gain, level = new_gain, new_level
            if moved < 0.1:
                break
        spread = self._spread(gain, level)
        usual = self._usual if self._usual is not None else min(spread, _MOST_NOISE)
        self.spread = min(spread, 3.0 * usual + 1.0, _MOST_NOISE)
        self._usual = usual - math.expm1(-passed_s / USUAL_S) * (self.spread - usual)
        self.gain, self.offset = gain, level - gain * middle
        self.switched = abs(level - before) > LIGHT_STEP_LEVELS

    def _spread(self, gain: float, level: float) -> float:
        """Writes what the fit leaves into `_rest`; its σ, at least half a level."""
        rest, size = self._rest, self._sorted
        np.multiply(self._x, -gain, out=rest)
        np.add(rest, self._y, out=rest)
        np.subtract(rest, level, out=rest)
        np.abs(rest, out=size)
        middle = len(size) // 2
        size.partition(middle)
        return max(0.5, 1.4826 * float(size[middle]))

    def _refit(self, spread: float) -> tuple[float, float]:
        x, y, rest, weight = self._x, self._y, self._rest, self._weight
        np.multiply(rest, 0.5 / spread, out=weight)
        np.multiply(weight, weight, out=weight)
        np.add(weight, 1.0, out=weight)
        np.multiply(weight, weight, out=weight)
        np.divide(1.0, weight, out=weight)
        total = float(weight.sum())
        mean_y = float(np.dot(weight, y)) / total
        np.multiply(weight, x, out=rest)
        mean_x = float(rest.sum()) / total
        # What pulls the gain to 1 decides where the scene has no contrast to tell it by.
        pull = 4.0 * total
        across = float(np.dot(rest, y)) - total * mean_x * mean_y
        along = float(np.dot(rest, x)) - total * mean_x * mean_x
        gain = min(max((across + pull) / (along + pull), _LEAST_GAIN), 1 / _LEAST_GAIN)
        return gain, mean_y - gain * mean_x
