"""Live pictures as they may be seen: blurred where the config says so, with everything that was found drawn in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edgerun.clock import Clock
from edgerun.config import Config, StreamConfig
from edgerun.publish.draw import draw
from edgerun.publish.snapshot import REMEMBERED_S
from edgerun.types import Answer, Box, Image, Publication
from edgerun.web.overlay import Overlay, Shapes

_MOST_REMEMBERED = 256


class Painter:
    """Prepares the pictures of all streams. `admit` is the publish thread's, `paint` the thread "live"'s."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self.configure(config)

    def configure(self, config: Config) -> None:
        """From now on the streams are as `config` says. Any thread."""
        self._streams = {name: _Stream(stream) for name, stream in config.streams.items()}

    def admit(self, publication: Publication) -> bool:
        """Whether the result's picture may be shown: where something is to be blurred, only if it says where that is.

        What is to be hidden is remembered for a while: a model may miss in one frame what it saw in the one before.
        """
        result = publication.result
        stream = self._streams.get(result.stamp.stream)
        if stream is None:
            return False
        if not stream.hides:
            return True
        hidden = result.answer.hidden
        if hidden is None or not stream.hides <= hidden.labels or result.reused:
            return False
        if hidden.boxes:
            stream.hidden.append((self._clock.mono_ns(), hidden.boxes))
        return True

    def paint(self, image: Image, publication: Publication, others: Sequence[Answer]) -> None:
        """Hide and draw, in place."""
        result = publication.result
        stream = self._streams.get(result.stamp.stream)
        if stream is None:  # it went a moment ago: nobody knows any more what may be seen
            image[:] = 0
            return
        if stream.hides:
            from edgerun.scene.blur import blur

            seen: Box = (0.0, 0.0, 1.0, 1.0) if result.answer.hidden is None else result.answer.hidden.seen
            oldest_ns = self._clock.mono_ns() - round(REMEMBERED_S * 1e9)
            remembered = [box for at_ns, boxes in list(stream.hidden) if at_ns >= oldest_ns for box in boxes]
            own = () if result.answer.hidden is None else result.answer.hidden.boxes
            blur(image, (*own, *remembered), seen)
        stream.overlay.draw(image, result.answer, result.stamp.moment_ns)
        for other in others:
            draw(image, other)
        age_ms = publication.age_ms if result.max_age_ns else None
        draw(image, result.answer, age_ms=age_ms, stream=result.stamp.stream)


class _Stream:
    def __init__(self, stream: StreamConfig) -> None:
        self.hides = frozenset(stream.snapshot.blur) if stream.snapshot is not None else frozenset[str]()
        self.hidden: deque[tuple[int, tuple[Box, ...]]] = deque(maxlen=_MOST_REMEMBERED)
        zones = {name: zone.polygon for name, zone in stream.zones.items()}
        self.overlay = Overlay(Shapes(zones, () if stream.privacy is None else stream.privacy.mask))
