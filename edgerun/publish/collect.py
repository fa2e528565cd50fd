"""Pictures that a model was unsure of, kept for the training of the next one (`[streams.NAME.collect]`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from edgerun.clock import Clock
from edgerun.errors import Closed, ConfigError
from edgerun.ports import SinkContext
from edgerun.publish.album import Album
from edgerun.publish.wire import encode_result
from edgerun.slot import Slot
from edgerun.types import Answer, Image, Publication

_log = logging.getLogger(__name__)

_WAITING = 2
"""Pictures on their way to the disk; a third makes the older one give way."""
_LOG_EVERY_NS = 60_000_000_000
_LOOK_EVERY_S = 60.0
"""How often the albums are looked through for what is too old."""
_Share = Annotated[float, Meta(ge=0, le=1)]


class CollectPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of one stream."""

    folder: str
    """Made if need be; nothing else belongs in it."""
    score: tuple[_Share, _Share] = (0.3, 0.6)
    """A result is uncertain when a detection's score, or the surest class's, lies in this band. What the model's
    threshold leaves out cannot be seen here: lower it where the band reaches below."""
    labels: tuple[str, ...] = ()
    """Only these; empty for all."""
    every_s: Annotated[float, Meta(ge=0, le=86400)] = 60.0
    """At most one picture in this time."""
    max_bytes: Annotated[int, Meta(ge=1)] = 256 << 20
    """Pictures and their sidecars together; the oldest give way."""
    max_age_s: Annotated[float, Meta(gt=0)] | None = None
    """Older ones are deleted; None: they stay."""
    quality: Annotated[int, Meta(ge=1, le=100)] = 92
    """Of the JPEG."""


class _Shot(msgspec.Struct, frozen=True):
    """A picture of the sink's own, and what is said of it."""

    stream: str
    image: Image
    unix_s: float
    sidecar: bytes


class CollectSink:
    """Writes `<serial>-<time>-<seq>.jpg` and `.json` (the result, and why it was kept), each whole or not at all.

    The picture is the one that was inferred, with the privacy masks in it. The publish thread copies it, a thread of
    the sink's own encodes and writes it: a slow disk costs pictures, counted in `dropped`, never results. Crops of a
    cascade, windows of samples and reused answers are not kept. What is too old is deleted within a minute, also of an
    earlier run.
    """

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        streams: dict[str, CollectPlan]
        """By name; the others keep nothing."""

    options: ClassVar[type[msgspec.Struct]] = Options
    wants_picture: bool = True
    broken: bool = False

    def __init__(self, options: Options, context: SinkContext) -> None:
        import cv2

        for name, plan in options.streams.items():
            if plan.score[0] > plan.score[1]:
                raise ConfigError(
                    "the band of scores is upside down",
                    where=f"streams.{name}.collect.score",
                    expected="[lowest, highest]",
                    got=list(plan.score),
                )
        folders = [Path(plan.folder).resolve() for plan in options.streams.values()]
        if len(set(folders)) < len(folders):
            raise ConfigError(
                "two streams collect into one folder", expected="a folder for each", got=", ".join(map(str, folders))
            )
        self._cv2: Any = cv2
        self._device = context.device
        self._clock: Clock = context.clock
        self._plans = dict(options.streams)
        self._albums = {
            name: Album(Path(plan.folder), plan.max_bytes, context.seal) for name, plan in self._plans.items()
        }
        self._kept_ns: dict[str, int] = {}
        self._changed = threading.Condition()
        self._spare: list[Image] = []
        self._pending = 0
        self._slot: Slot[_Shot] = Slot(_WAITING)
        self._logged_ns: int | None = None
        self.kept = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)
        self._thread.start()

    def publish(self, publication: Publication) -> None:
        """Keep the result's picture when it is due and uncertain."""
        result = publication.result
        plan = self._plans.get(result.stamp.stream)
        if plan is None or result.lease is None or result.crop is not None or result.window or result.reused:
            return
        at_ns = result.stamp.captured_ns
        kept_ns = self._kept_ns.get(result.stamp.stream)
        if kept_ns is not None and at_ns - kept_ns < plan.every_s * 1e9:
            return
        why = next(uncertain(result.answer, plan), None)
        if why is None or result.lease.image.size == 0:
            return
        self._kept_ns[result.stamp.stream] = at_ns
        sidecar = b'{"v":1,"why":%b,"result":%b}\n' % (
            msgspec.json.encode({"label": why[0], "score": round(why[1], 4), "band": plan.score}),
            encode_result(publication, self._device),
        )
        image = self._copy(result.lease.image)
        try:
            victim = self._slot.put(_Shot(result.stamp.stream, image, result.stamp.captured_unix_s, sidecar))
        except Closed:
            self._done(image)
            return
        if victim is not None:
            self.dropped += 1
            self._done(victim.image)

    def flush(self, timeout_s: float) -> None:
        """Wait until everything taken is on the disk."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout_s)

    def close(self) -> None:
        """Write what waits, for at most two seconds. Idempotent."""
        self._slot.close()
        self._thread.join(2.0)
        if self._thread.is_alive():
            _log.warning("collecting pictures: the disk does not answer; what was on its way to it is lost")

    def _copy(self, image: Image) -> Image:
        with self._changed:
            self._pending += 1
            at = next((i for i, spare in enumerate(self._spare) if spare.shape == image.shape), None)
            copy = self._spare.pop(at) if at is not None else np.empty(image.shape, np.uint8)
        np.copyto(copy, image)
        return copy

    def _done(self, image: Image) -> None:
        """The picture is where it belongs, or lost; its buffer is free."""
        with self._changed:
            self._spare = [*self._spare[-_WAITING:], image]
            self._pending -= 1
            self._changed.notify_all()

    def _run(self) -> None:
        """The thread's body: until the slot is closed and empty."""
        looked_ns: int | None = None
        while True:
            now_ns = self._clock.mono_ns()
            if looked_ns is None or now_ns - looked_ns >= _LOOK_EVERY_S * 1e9:
                looked_ns = now_ns
                self._delete_old()
            try:
                shot = self._slot.take(_LOOK_EVERY_S)
            except Closed:
                return
            if shot is None:
                continue
            try:
                self._write(shot)
            except Exception as error:  # noqa: BLE001  a thread's body: a picture less, and the next is tried again
                self.dropped += 1
                self._complain(shot.stream, error)
            self._done(shot.image)

    def _write(self, shot: _Shot) -> None:
        quality = self._plans[shot.stream].quality
        done, jpeg = self._cv2.imencode(".jpg", shot.image, (self._cv2.IMWRITE_JPEG_QUALITY, quality))
        if not done:
            raise OSError("the picture cannot be encoded as a JPEG")
        if self._albums[shot.stream].add(shot.unix_s, jpeg.tobytes(), shot.sidecar):
            self.kept += 1
        else:
            self.dropped += 1
            self._complain(shot.stream, OSError("it is larger than what may be kept, or the disk is nearly full"))

    def _delete_old(self) -> None:
        for name, plan in self._plans.items():
            if plan.max_age_s is None:
                continue
            try:
                self._albums[name].prune(self._clock.unix_s() - plan.max_age_s)
            except OSError as error:
                _log.warning("%s: old pictures cannot be deleted: %s", plan.folder, error.strerror or error)

    def _complain(self, stream: str, error: Exception) -> None:
        now_ns = self._clock.mono_ns()
        if self._logged_ns is None or now_ns - self._logged_ns >= _LOG_EVERY_NS:
            self._logged_ns = now_ns
            folder = self._plans[stream].folder
            _log.warning("%s: a picture of stream %s is not kept: %s", folder, stream, error)


def uncertain(answer: Answer, plan: CollectPlan) -> Iterator[tuple[str, float]]:
    """Label and score of what makes the answer uncertain, in the answer's order."""
    low, high = plan.score
    found = [(one.label, one.score) for one in answer.detections or ()]
    if not found and answer.classes:
        surest = max(answer.classes, key=lambda one: one.score)
        found = [(surest.label, surest.score)]
    for label, score in found:
        if low <= score <= high and (not plan.labels or label in plan.labels):
            yield label, score
