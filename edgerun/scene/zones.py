"""Zones: parts of the picture that objects enter, dwell in and leave."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from edgerun.polygon import check_polygon
from edgerun.scene.track import Track
from edgerun.types import SceneEvent

Point = tuple[float, float]

_TINY = 1e-9
_SLACK = 1 / 20
"""How far outside an object must be to have left, in heights of its box: the deviation the tracker takes a detected
edge to have (DeepSORT), so that a box that trembles on the border stays inside."""
_SETTLED = 2
"""Observations in a row that change a state."""


class Zone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A polygon in 0..1 of the frame (closed by itself; its border belongs to it; even-odd where it crosses itself).

    It sees objects of `labels` only, of all when empty. `dwell_s`: how long inside until an object has `dwelled`.
    """

    name: str
    polygon: tuple[Point, ...]
    labels: tuple[str, ...] = ()
    dwell_s: float | None = None


def check_zone(zone: Zone) -> None:
    """Raises `ValueError` with what is wrong with `zone`."""
    if not zone.name.strip():
        raise ValueError("a zone has no name")
    if zone.dwell_s is not None and not (math.isfinite(zone.dwell_s) and zone.dwell_s > 0):
        raise ValueError(f"dwell_s is {zone.dwell_s:g}: it must be a number of seconds above 0")
    check_polygon(zone.polygon)


class ZoneWatch:
    """Which objects stand in which zones. An object stands where the middle of its box's lower edge is.

    An object that has just appeared (the tracker has seen it more than once) is inside at once; later two observations
    in a row must agree that it has gone in or out, and out is only what is beyond the border by a twentieth of the
    box's height. Times are those of the first of the two. While an object is not seen its state stays.

    `names(track)` is what the events add up to: a zone is in it from its `entered` to its `left`. Raises `ValueError`
    naming the zone when one is wrong or two have the same name.
    """

    def __init__(self, zones: Iterable[Zone]) -> None:
        self._zones = tuple(zones)
        for index, zone in enumerate(self._zones):
            try:
                check_zone(zone)
            except ValueError as error:
                raise ValueError(f"zone {zone.name!r}: {error}") from None
            if any(other.name == zone.name for other in self._zones[:index]):
                raise ValueError(f"zone {zone.name!r}: two zones have this name")
        self._visits: dict[int, list[_Visit]] = {}

    def observe(self, track: Track) -> Iterator[SceneEvent]:
        """Events of one object that was seen at `track.seen_ns`."""
        visits = self._visits.get(track.id)
        fresh = visits is None
        if visits is None:
            visits = self._visits[track.id] = [_Visit(zone) for zone in self._zones]
        foot = ((track.box[0] + track.box[2]) / 2, track.box[3])
        for visit in visits:
            if visit.zone.labels and track.label not in visit.zone.labels:
                continue
            yield from visit.observe(track, foot, settled=1 if fresh else _SETTLED)

    def names(self, track_id: int) -> tuple[str, ...]:
        """The zones the object is in, in the order of the config."""
        return tuple([visit.zone.name for visit in self._visits.get(track_id, ()) if visit.since_ns is not None])

    def forget(self, track: Track) -> Iterator[SceneEvent]:
        """The object is lost: it has left wherever it was, when it was seen last."""
        for visit in self._visits.pop(track.id, ()):
            yield from visit.leave(track, track.seen_ns)


class _Visit:
    """One object and one zone."""

    __slots__ = ("changes", "changing_ns", "dwelled", "since_ns", "zone")

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.since_ns: int | None = None
        self.changes = 0
        self.changing_ns = 0
        self.dwelled = False

    def observe(self, track: Track, foot: Point, settled: int) -> Iterator[SceneEvent]:
        slack = 0.0 if self.since_ns is None else _SLACK * (track.box[3] - track.box[1])
        if (self.since_ns is not None) == is_inside(foot, self.zone.polygon, slack):
            self.changes = 0
            yield from self._dwell(track, track.seen_ns)
            return
        if not self.changes:
            self.changing_ns = track.seen_ns
        self.changes += 1
        if self.changes < settled:
            return
        self.changes = 0
        if self.since_ns is not None:
            yield from self.leave(track, self.changing_ns)
        else:
            self.since_ns, self.dwelled = self.changing_ns, False
            yield _event("entered", track, self.zone)
            yield from self._dwell(track, track.seen_ns)

    def leave(self, track: Track, now_ns: int) -> Iterator[SceneEvent]:
        """Close the visit, if there is one, at `now_ns`; whoever stayed `dwell_s` has dwelled, seen then or not."""
        if self.since_ns is None:
            return
        if self.changes:
            now_ns = self.changing_ns
        yield from self._dwell(track, now_ns)
        yield _event("left", track, self.zone, (now_ns - self.since_ns) / 1e9)
        self.since_ns = None
        self.changes = 0

    def _dwell(self, track: Track, now_ns: int) -> Iterator[SceneEvent]:
        if self.since_ns is None or self.dwelled or self.zone.dwell_s is None:
            return
        seconds = (now_ns - self.since_ns) / 1e9
        if seconds >= self.zone.dwell_s:
            self.dwelled = True
            yield _event("dwelled", track, self.zone, seconds)


def _event(kind: str, track: Track, zone: Zone, seconds: float | None = None) -> SceneEvent:
    return SceneEvent(kind, track.id, track.label, track.class_id, track.box, zone.name, seconds)  # type: ignore[arg-type]


def is_inside(point: Point, polygon: Sequence[Point], slack: float = 0.0) -> bool:
    """Whether `point` lies in `polygon`, on its border, or within `slack` of it.

    A ray to the right crosses the border an odd number of times (Shimrat, *Algorithm 112*, 1962).
    """
    x, y = point
    inside = False
    near = (slack + _TINY) ** 2
    for (ax, ay), (bx, by) in _edges(polygon):
        if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
            inside = not inside
        dx, dy = bx - ax, by - ay
        length = dx * dx + dy * dy
        along = min(1.0, max(0.0, ((x - ax) * dx + (y - ay) * dy) / length)) if length else 0.0
        if (ax + along * dx - x) ** 2 + (ay + along * dy - y) ** 2 <= near:
            return True
    return inside


def _edges(polygon: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    return itertools.pairwise((*polygon, polygon[0]))
