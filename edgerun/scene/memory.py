"""What a stream remembers between frames: who is there, and where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from edgerun.scene.track import Track, Tracker, TrackOptions
from edgerun.scene.zones import Zone, ZoneWatch
from edgerun.types import Answer, Detection, SceneEvent, Seen


class SceneMemory:
    """Tracks and zones of one stream; see `ports.Scene`. Used by one thread.

    A detection has a `track` once its object was detected in `options.confirm` answers in a row (2 by default); then it
    `appeared`. It is `lost` when it has not been seen for `options.lost_s`: told with the first answer after that, so
    while nothing is inferred nobody is lost, and whoever is seen again after a longer gap has a new id. Zones are for
    objects with a track; a detection's `zones` are those its track has `entered` and not yet `left`.

    Detections below `options.high` carry tracks over weak moments and are then left out of the answer: they are below
    what the stream reports. So the decoder may be opened with a lower threshold, which is what ByteTrack is about.

    Raises `ValueError` for zones that cannot hold anything or share a name.
    """

    def __init__(self, options: TrackOptions, zones: Iterable[Zone] = ()) -> None:
        self._high = options.high
        self._tracker = Tracker(options)
        self._zones = ZoneWatch(zones)

    def observe(self, answer: Answer, captured_ns: int) -> Seen:
        """`answer` with tracks and zones, and what happened: first who was lost (having left its zones), then who
        appeared, then zone by zone what those present did. An answer without detections passes through untouched.
        """
        if answer.detections is None:
            return Seen(answer)
        tracks = self._tracker.update(answer.detections, captured_ns)
        events: list[SceneEvent] = []
        for gone in tracks.lost:
            events += self._zones.forget(gone)
            events.append(_event("lost", gone, gone.seconds))
        events += [_event("appeared", new) for new in tracks.appeared]
        detections = []
        for found, track in zip(answer.detections, tracks.current, strict=True):
            names: tuple[str, ...] = ()
            if track is not None:
                events += self._zones.observe(track)
                names = self._zones.names(track.id)
            if found.score >= self._high:
                number = None if track is None else track.id
                detections.append(Detection(found.label, found.class_id, found.score, found.box, number, names))
        return Seen(msgspec.structs.replace(answer, detections=tuple(detections)), tuple(events))


def _event(kind: Literal["appeared", "lost"], track: Track, seconds: float | None = None) -> SceneEvent:
    return SceneEvent(kind, track.id, track.label, track.class_id, track.box, seconds=seconds)
