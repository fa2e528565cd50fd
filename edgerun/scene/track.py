"""ByteTrack: which detection is which object of the frame before.

Zhang et al., *ByteTrack: Multi-Object Tracking by Associating Every Detection Box* (2022, arXiv 2110.06864), on the
motion model of Wojke et al., *Simple Online and Realtime Tracking with a Deep Association Metric* (2017, DeepSORT).
Each class is tracked for itself. It is written out here because the published trackers bring torch, scipy, lap or a
second OpenCV along, for what is four small filters and an assignment of a few dozen boxes.

Unlike the original it runs on time, not on frames: frames are skipped, and a camera's rate is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerun.scene.assign import assign
from edgerun.types import Box, Detection

_FIRST_IOU, _SECOND_IOU, _NEW_IOU = 0.1, 0.5, 0.3
"""Least overlap with a track's prediction: of strong boxes, of weak boxes, of strong boxes with a track seen but once.
The paper has 0.2 for the first, at the full rate of its videos; with frames skipped predictions are further off, and
0.1 cut a track in pieces less often (the bundled clip at a third of its rate: 14 tracks instead of 19)."""
_PACE, _REACH = 0.8, 0.5
"""How far an object may have come between its first two frames: heights per second (a person 1.7 m tall walking at
1.4 m/s), and heights at most."""
_SECOND_BOX_IOU = 0.3
"""A box that overlaps one already given to a track by more does not begin another. Not in the paper: detectors for
small devices leave two boxes on one person more often (on the bundled clip a third of all changes of id)."""
_FRAME_S = 1 / 15
"""The frame interval the published noise is taken for: the paper's videos have 14 to 30 frames a second, and the slow
end keeps courses straighter where people cross. Variances grow in proportion to time."""
_POSITION, _VELOCITY = 1 / 20, 1 / 160
"""DeepSORT's standard deviations, in box heights: of a position, and of a velocity per frame."""
_LEAST = 1e-4
"""Sides below this share of the frame (a tenth of a pixel at 1080p) are no box; also bounds the predictions."""
_FAR = 8.0
"""Corners beyond this many frames are no box."""
_NOBODY = 0
_IDS = itertools.count(1)
"""One count for the process: a reload or another stream never gives an id a second time."""


class TrackOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How objects are followed.

    `high` divides strong boxes from weak ones: only strong ones begin a track, weak ones carry one on over the frames
    in which its object is half hidden. It belongs at the stream's threshold, with a decoder that reports from lower
    down. With every box above it (the default) there are no weak ones, the second association has nothing to do, and
    what the paper gains by it is lost: an object whose score dips is bridged by prediction alone, for `lost_s`.
    """

    high: Annotated[float, Meta(ge=0, le=1)] = 0.0
    lost_s: Annotated[float, Meta(gt=0, le=3600)] = 2.0
    """How long an object that is not seen is waited for. Below the interval of the answers nothing can be followed."""
    confirm: Annotated[int, Meta(ge=1, le=100)] = 2
    """Answers in a row that must show an object before it counts and has an id."""


class Track(msgspec.Struct, frozen=True):
    """One followed object: `box` as last detected; `since_ns` and `seen_ns` are its first and its last frame."""

    id: int
    label: str
    class_id: int
    box: Box
    since_ns: int
    seen_ns: int

    @property
    def seconds(self) -> float:
        return (self.seen_ns - self.since_ns) / 1e9


class Tracks(msgspec.Struct, frozen=True):
    """What one frame did to the tracks: `current[i]` is that of detection i, None where it has no confirmed one."""

    current: tuple[Track | None, ...]
    appeared: tuple[Track, ...] = ()
    lost: tuple[Track, ...] = ()


class _Object:
    """What is known of one object besides its motion, which is the same column of `_Motion`."""

    __slots__ = ("box", "class_id", "hits", "id", "label", "missing", "seen_ns", "since_ns")

    def __init__(self, found: Detection, now_ns: int) -> None:
        self.id = _NOBODY
        self.label, self.class_id, self.box = found.label, found.class_id, found.box
        self.since_ns = self.seen_ns = now_ns
        self.hits = 1
        self.missing = False

    def track(self) -> Track:
        return Track(self.id, self.label, self.class_id, self.box, self.since_ns, self.seen_ns)


class Tracker:
    """Follows the objects of one stream. Used by one thread; about 100 µs for ten objects on a desktop core.

    Stamps that run backwards a little (or stand still) count as the same moment; by more than `lost_s`, the clock is
    another one and every track is lost. `ids` gives the next id.
    """

    def __init__(self, options: TrackOptions, ids: Iterator[int] = _IDS) -> None:
        self._options = options
        self._ids = ids
        self._lost_ns = round(options.lost_s * 1e9)
        self._objects: list[_Object] = []
        self._motion = _Motion()
        self._now_ns = 0

    def update(self, detections: Sequence[Detection], captured_ns: int) -> Tracks:
        """The tracks of one frame's `detections`, in their order. A detection has at most one track, and a track one.

        Boxes that are not finite, have no area or lie far outside the frame belong to none. An object unseen for more
        than `lost_s` is lost before the new boxes are looked at, whatever was or was not grabbed meanwhile.
        """
        lost, seconds = self._advance(captured_ns)
        usable = [index for index, found in enumerate(detections) if _is_box(found.box)]
        boxes = np.array([detections[index].box for index in usable], np.float64).reshape(-1, 4)
        pairs = self._associate([detections[index] for index in usable], boxes, min(_PACE * seconds, _REACH))
        self._motion.correct([column for column, _ in pairs], boxes[[row for _, row in pairs]])
        for one in self._objects:
            one.missing = True
        current: list[_Object | None] = [None] * len(detections)
        appeared = []
        for column, row in pairs:
            one, found = self._objects[column], detections[usable[row]]
            one.box, one.seen_ns, one.missing = found.box, self._now_ns, False
            one.hits += 1
            current[usable[row]] = one
        # One that was seen but now and then was noise; only a confirmed one is waited for.
        self._drop([one.missing and one.id == _NOBODY for one in self._objects])
        taken = {row for _, row in pairs}
        fresh = self._fresh([detections[index] for index in usable], boxes, taken)
        self._motion.begin(boxes[fresh])
        for row in fresh:
            one = _Object(detections[usable[row]], self._now_ns)
            self._objects.append(one)
            current[usable[row]] = one
        for shown in current:
            if shown is not None and shown.id == _NOBODY and shown.hits >= self._options.confirm:
                shown.id = next(self._ids)
                appeared.append(shown.track())
        return Tracks(
            current=tuple([None if one is None or one.id == _NOBODY else one.track() for one in current]),
            appeared=tuple(appeared),
            lost=lost,
        )

    def _advance(self, captured_ns: int) -> tuple[tuple[Track, ...], float]:
        """Let time pass until `captured_ns`: the tracks that ended by it, and how many seconds it was."""
        before_ns = self._now_ns
        if not self._objects or before_ns - captured_ns > self._lost_ns:
            self._now_ns = captured_ns
            return self._drop([True] * len(self._objects)), 0.0
        self._now_ns = max(before_ns, captured_ns)
        lost = self._drop([self._now_ns - one.seen_ns > self._lost_ns for one in self._objects])
        seconds = (self._now_ns - before_ns) / 1e9
        self._motion.predict(seconds, [one.missing for one in self._objects])
        return lost, seconds

    def _associate(self, found: Sequence[Detection], boxes: NDArray[np.float64], reach: float) -> list[tuple[int, int]]:
        """Pairs (column of an object, row of a box): the paper's algorithm 1, then objects that are not confirmed.

        These have no course yet, so their boxes and those found are enlarged by `reach`, in heights, before they are
        compared (as Yang et al. 2022, arXiv 2211.14317, do for fast objects).
        """
        objects = self._objects
        if not objects or not found:
            return []
        known = self._motion.boxes()
        still = [not one.id for one in objects]
        overlap = _iou(known, boxes)
        if reach and any(still):
            overlap[still] = _iou(_enlarged(known[still], reach), _enlarged(boxes, reach))
        overlap[np.array([one.class_id for one in objects])[:, None] != np.array([one.class_id for one in found])] = -1
        columns, rows = np.nonzero(overlap >= _FIRST_IOU)
        edges = list(zip(columns.tolist(), rows.tolist(), overlap[columns, rows].tolist(), strict=True))
        strong = [one.score >= self._options.high for one in found]

        pairs = assign(
            (column, row, iou - _FIRST_IOU) for column, row, iou in edges if strong[row] and objects[column].id
        )
        seen = {column for column, _ in pairs}
        pairs += assign(
            (column, row, iou - _SECOND_IOU)
            for column, row, iou in edges
            if iou >= _SECOND_IOU
            and not strong[row]
            and objects[column].id
            and not objects[column].missing
            and column not in seen
        )
        taken = {row for _, row in pairs}
        pairs += assign(
            (column, row, iou - _NEW_IOU)
            for column, row, iou in edges
            if iou >= _NEW_IOU and strong[row] and not objects[column].id and row not in taken
        )
        return pairs

    def _fresh(self, found: Sequence[Detection], boxes: NDArray[np.float64], taken: set[int]) -> list[int]:
        """Rows of the strong boxes that begin an object: best first, none of them a second box of one found already."""
        rows = [row for row, one in enumerate(found) if row not in taken and one.score >= self._options.high]
        if not rows or len(found) == 1:
            return rows
        rows.sort(key=lambda row: -found[row].score)
        covered = _iou(boxes[rows], boxes) >= _SECOND_BOX_IOU
        known = set(taken)
        kept: list[int] = []
        for row, others in zip(rows, covered, strict=True):
            beside = np.flatnonzero(others).tolist()
            if not any(other in known and found[other].class_id == found[row].class_id for other in beside):
                kept.append(row)
                known.add(row)
        return kept

    def _drop(self, gone: Sequence[bool]) -> tuple[Track, ...]:
        """Forget the marked objects; returns the tracks of those that had one."""
        if not any(gone):
            return ()
        ended = tuple([one.track() for one, go in zip(self._objects, gone, strict=True) if go and one.id != _NOBODY])
        self._objects = [one for one, go in zip(self._objects, gone, strict=True) if not go]
        self._motion.keep(np.logical_not(gone))
        return ended


class _Motion:
    """Kalman filters of constant velocity over centre x, centre y, aspect (width / height) and height of N boxes.

    DeepSORT's state of eight with its covariance of 8×8 falls apart into four filters of two, because each quantity is
    tied only to its own velocity and the noises are independent: `_state` is 5×4×N, the rows being value, velocity,
    and the covariance's three entries (value, mixed, velocity). Velocities are per second. Both axes take their noise
    from the box's height, as published for pixels; in 0..1 of a wide frame that is generous across.
    """

    def __init__(self) -> None:
        self._state = np.empty((5, 4, 0))

    def begin(self, boxes: NDArray[np.float64]) -> None:
        """Add one column for each row of `boxes` (K×4 corners), at rest."""
        if not len(boxes):
            return
        fresh = np.zeros((5, 4, len(boxes)))
        fresh[0] = _measure(boxes)
        # DeepSORT starts with twice the deviation of a position and ten times that of a velocity.
        position, velocity = _noise(fresh[0, 3], 2 * _POSITION, 1e-2), _noise(fresh[0, 3], 10 * _VELOCITY, 1e-5)
        fresh[2] = position
        fresh[4] = velocity / _FRAME_S**2
        self._state = np.concatenate((self._state, fresh), axis=2)

    def keep(self, columns: NDArray[np.bool_]) -> None:
        self._state = self._state[:, :, columns]

    def predict(self, seconds: float, missing: Sequence[bool]) -> None:
        """Let time pass. A box that is not seen keeps its height: growth cannot be guessed for long (ByteTrack)."""
        state = self._state
        if not seconds or not state.shape[2]:
            return
        value, velocity, spread, mixed, unrest = state
        velocity[3, missing] = 0.0
        height = np.maximum(value[3], _LEAST)
        frames = seconds / _FRAME_S
        value += velocity * seconds
        spread += seconds * (2 * mixed + seconds * unrest) + frames * _noise(height, _POSITION, 1e-2)
        mixed += seconds * unrest
        unrest += frames / _FRAME_S**2 * _noise(height, _VELOCITY, 1e-5)

    def correct(self, columns: list[int], boxes: NDArray[np.float64]) -> None:
        """`boxes` (K×4 corners) are what was seen of `columns`."""
        if not columns:
            return
        state = self._state[:, :, columns]
        value, velocity, spread, mixed, unrest = state
        noisy = spread + _noise(np.maximum(value[3], _LEAST), _POSITION, 1e-1)
        gain, pull = spread / noisy, mixed / noisy
        error = _measure(boxes) - value
        value += gain * error
        velocity += pull * error
        unrest -= pull * mixed
        spread *= 1 - gain
        mixed *= 1 - gain
        self._state[:, :, columns] = state

    def boxes(self) -> NDArray[np.float64]:
        """N×4 corners (x0, y0, x1, y1), each side at least `_LEAST`."""
        x, y, aspect, height = self._state[0]
        height = np.maximum(height, _LEAST) / 2
        width = np.maximum(aspect * height, _LEAST / 2)
        return np.stack((x - width, y - height, x + width, y + height), axis=1)


def _measure(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """4×K (centre x, centre y, aspect, height) of K×4 corners."""
    low, high = boxes[:, :2].T, boxes[:, 2:].T
    sides = high - low
    middle = (low + high) / 2
    return np.stack((middle[0], middle[1], sides[0] / sides[1], sides[1]))


def _noise(height: NDArray[np.float64], share: float, aspect: float) -> NDArray[np.float64]:
    """4×N variances: `share` of the height for the lengths, a fixed deviation for the aspect (DeepSORT)."""
    lengths = (share * height) ** 2
    return np.stack((lengths, lengths, np.full_like(lengths, aspect**2), lengths))


def _iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """N×M intersection over union of N×4 and M×4 corners whose sides are positive."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(high - low, 0.0)
    inner = sides[..., 0] * sides[..., 1]
    area = (first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])
    other = (second[:, 2] - second[:, 0]) * (second[:, 3] - second[:, 1])
    ratio: NDArray[np.float64] = inner / (area[:, None] + other[None, :] - inner)
    return ratio


def _enlarged(boxes: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """N×4 corners, moved out by `share` of each box's height."""
    by = share * (boxes[:, 3:] - boxes[:, 1:2])
    larger: NDArray[np.float64] = boxes + by * np.array([-1.0, -1.0, 1.0, 1.0])
    return larger


def _is_box(box: Box) -> bool:
    x0, y0, x1, y1 = box
    return x1 - x0 >= _LEAST and y1 - y0 >= _LEAST and min(x0, y0) > -_FAR and max(x1, y1) < _FAR
