"""Pictures over MQTT: the newest one of a stream, retained on `<prefix>/<device>/snapshot/<stream>`, where it may be.

The publish thread only shares the picture of a result; a thread of its own scales, blurs, draws and encodes it. While
that one is busy a newer picture of the same stream takes the waiting one's place.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edgerun.clock import Clock
from edgerun.errors import Closed, ConfigError
from edgerun.ports import Broker, Incoming
from edgerun.publish.draw import draw
from edgerun.slot import Slot, take_any
from edgerun.types import Answer, Box, Image, Lease, Publication, Result

_log = logging.getLogger(__name__)

Veil = Callable[[Image, Sequence[Box], Box], None]
"""Makes boxes, and what is outside the second one, unrecognisable: `scene.blur.blur`."""

ASKED_FOR_S = 10.0
"""A picture that was asked for and did not come in this time is not taken any more."""
REMEMBERED_S = 2.0
"""What was to be hidden is hidden for so long: a model that sees a person in one frame may miss it in the next."""
_MOST_REMEMBERED = 256  # results
_ASKED_EVERY_S = 1.0
"""Nobody makes a film of single pictures."""
_LOG_EVERY_NS = 60_000_000_000
_CLOSE_S = 2.0
_NICE = 10
"""Of the thread that encodes: setpriority(2) is for single threads on Linux."""


class SnapshotPlan(msgspec.Struct, frozen=True):
    """What leaves of one stream."""

    on: tuple[str, ...] | Literal["any", "always"] = "any"
    """Taken when one of these labels was detected, or anything, or of every result; empty: only when asked for."""
    every_s: float = 10.0
    """At most one in this time."""
    width: Annotated[int, Meta(ge=16)] = 640
    """Pixels; a wider picture is scaled down."""
    quality: Annotated[int, Meta(ge=1, le=100)] = 80
    boxes: bool = True
    max_age_s: float | None = 86400.0
    """A broker of MQTT 5 forgets the picture then; None: never."""
    hides: frozenset[str] = frozenset()
    """Labels of what is to be hidden: only results that say where all of these are have pictures."""
    veil: Veil | None = None
    """Hides it."""


class SnapshotStats(msgspec.Struct, frozen=True):
    """`taken = sent + superseded + failed + waiting`."""

    taken: int
    sent: int
    superseded: int
    failed: int


class _Shot(msgspec.Struct, frozen=True):
    """A shared picture on its way, and where in it is what must be hidden."""

    plan: SnapshotPlan
    result: Result
    lease: Lease
    boxes: tuple[Box, ...]
    seen: Box


class _Taking:
    """When a stream's next picture is due. Guarded by the owner's lock."""

    def __init__(self) -> None:
        self.taken_ns: int | None = None
        self.asked_ns: int | None = None
        self.hidden: deque[tuple[int, tuple[Box, ...]]] = deque(maxlen=_MOST_REMEMBERED)


class Snapshots:
    """A sink. `root` is `<prefix>/<device>`; `plans` by stream, the others' pictures are never touched.

    Pictures of crops, windows of samples and reused answers are not taken. Nothing is encoded while there is no link.
    """

    wants_picture = False  # of all streams; those with a plan are asked for by name
    broken = False

    def __init__(self, plans: Mapping[str, SnapshotPlan], broker: Broker, root: str, clock: Clock) -> None:
        import cv2

        self._cv2: Any = cv2
        self._broker, self._root, self._clock = broker, root, clock
        self._lock = threading.Lock()
        self._ready = threading.Condition()
        self._plans: dict[str, SnapshotPlan] = {}
        self._takings: dict[str, _Taking] = {}
        self._slots: dict[str, Slot[_Shot]] = {}
        self._end: Slot[_Shot] = Slot(1, self._ready)
        """Nothing is put into it; it keeps the thread while no stream has a slot."""
        self._stale = False
        self._changed = threading.Condition()
        self._pending = self._taken = self._sent = self._superseded = self._failed = 0
        self._logged_ns: int | None = None
        self.change(plans)
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
        self._thread.start()

    def change(self, plans: Mapping[str, SnapshotPlan]) -> None:
        """From now on these are the plans; any thread may call it. A picture on its way of a stream that has no plan
        any more does not leave.
        """
        with self._lock:
            for name in [name for name in self._slots if name not in plans]:
                slot = self._slots.pop(name)
                slot.close()
                while (shot := _left_in(slot)) is not None:
                    self._done(shot, "superseded")
                del self._takings[name]
            for name in plans:
                if name not in self._slots:
                    self._slots[name], self._takings[name] = Slot(1, self._ready), _Taking()
            self._plans = dict(plans)
            self._stale = True
        self._end.nudge()

    def ask(self, stream: str) -> str:
        """Have a picture taken of the stream's next result, whatever is in it; returns the topic that it comes on.

        Any thread may call it. Raises `ConfigError` where the stream's pictures are not to leave, or one was asked for
        a moment ago.
        """
        now_ns = self._clock.mono_ns()
        with self._lock:
            taking = self._takings.get(stream)
            if taking is None:
                raise forbidden(stream)
            if taking.asked_ns is not None and now_ns - taking.asked_ns < _ASKED_EVERY_S * 1e9:
                raise ConfigError("a picture of this stream was asked for a moment ago", where=stream)
            if taking.taken_ns is not None and now_ns - taking.taken_ns < _ASKED_EVERY_S * 1e9:
                raise ConfigError("a picture of this stream was taken a moment ago", where=stream)
            taking.asked_ns = now_ns
        return self._topic(stream)

    def publish(self, publication: Publication) -> None:
        """Take the result's picture where one is due."""
        result = publication.result
        if result.stamp.stream not in self._plans or result.crop is not None or result.window:
            return
        now_ns = self._clock.mono_ns()
        with self._lock:
            plan, taking = self._plans.get(result.stamp.stream), self._takings.get(result.stamp.stream)
            if plan is None or taking is None:
                return
            hidden = result.answer.hidden
            if hidden is not None and hidden.boxes:
                taking.hidden.append((now_ns, hidden.boxes))
            if not self._is_due(plan, taking, result, now_ns):
                return
            taking.taken_ns, taking.asked_ns = now_ns, None
            assert result.lease is not None, "what has no picture is not due"
            seen = (0.0, 0.0, 1.0, 1.0) if hidden is None else hidden.seen
            shot = _Shot(plan, result, result.lease.share(), _to_hide(taking.hidden, now_ns), seen)
            self._hand_over(shot, self._slots[result.stamp.stream])

    def stats(self) -> SnapshotStats:
        """What became of the pictures so far."""
        with self._changed:
            return SnapshotStats(self._taken, self._sent, self._superseded, self._failed)

    def flush(self, timeout_s: float) -> None:
        """Wait until every picture that was taken is with the connection."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, timeout_s)

    def close(self) -> None:
        """Send what waits, for at most two seconds. Idempotent."""
        with self._lock:
            for slot in (*self._slots.values(), self._end):
                slot.close()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            _log.warning("snapshots: the thread that encodes them does not end; it is left behind")

    def _is_due(self, plan: SnapshotPlan, taking: _Taking, result: Result, now_ns: int) -> bool:
        asked = taking.asked_ns is not None and now_ns - taking.asked_ns <= ASKED_FOR_S * 1e9
        if not asked:
            if taking.taken_ns is not None and now_ns - taking.taken_ns < plan.every_s * 1e9:
                return False
            if not _shows(plan, result.answer):
                return False
        if result.reused or result.lease is None or result.lease.image.size == 0:
            return False
        if plan.hides and (result.answer.hidden is None or not plan.hides <= result.answer.hidden.labels):
            return False
        return self._broker.connected

    def _hand_over(self, shot: _Shot, slot: Slot[_Shot]) -> None:
        with self._changed:
            self._pending += 1
            self._taken += 1
        try:
            victim = slot.put(shot)
        except Closed:
            victim = shot
        if victim is not None:
            self._done(victim, "superseded")

    def _done(self, shot: _Shot, fate: Literal["sent", "superseded", "failed"]) -> None:
        shot.lease.release()
        with self._changed:
            self._pending -= 1
            self._sent += fate == "sent"
            self._superseded += fate == "superseded"
            self._failed += fate == "failed"
            self._changed.notify_all()

    def _run(self) -> None:
        """The thread's body: until every slot is closed and empty."""
        with suppress(OSError):  # a picture may wait, a result may not
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            with self._lock:
                slots, self._stale = [self._end, *self._slots.values()], False
            try:
                self._take_turns(slots)
            except Closed:
                return

    def _take_turns(self, slots: Sequence[Slot[_Shot]]) -> None:
        """Send what comes, of each stream in turn, until there are other slots."""
        live, turn = [True] * len(slots), 0

        def next_in_turn(waiting: Sequence[int]) -> int:
            return min(waiting, key=lambda i: (i - turn) % len(slots))

        while (taken := take_any(slots, self._ready, next_in_turn, live, interrupt=lambda: self._stale)) is not None:
            turn, shot = taken[0] + 1, taken[1]
            if shot is None:
                continue
            try:
                self._done(shot, "sent" if self._send(shot) else "superseded")
            except Exception as error:  # noqa: BLE001  a thread's body: a picture less, and the next is tried again
                self._complain(shot.result.stamp.stream, error)
                self._done(shot, "failed")

    def _send(self, shot: _Shot) -> bool:
        """Whether it may still leave."""
        stream, plan = shot.result.stamp.stream, shot.plan
        expires_s = None if plan.max_age_s is None else max(1, round(plan.max_age_s))
        jpeg = self._encode(shot)
        with self._lock:
            if self._plans.get(stream) != plan:
                return False
            self._broker.publish(self._topic(stream), jpeg, qos=0, retain=True, expires_s=expires_s)
            return True

    def _encode(self, shot: _Shot) -> bytes:
        """The picture as a JPEG, of its own pixels: the shared ones belong to others too."""
        plan, image = shot.plan, shot.lease.image
        height, width = image.shape[:2]
        if width > plan.width:
            size = plan.width, max(1, round(height * plan.width / width))
            canvas = self._cv2.resize(image, size, interpolation=self._cv2.INTER_AREA)
        else:
            canvas = image.copy()
        if plan.veil is not None:
            plan.veil(canvas, shot.boxes, shot.seen)
        if plan.boxes:
            draw(canvas, shot.result.answer)
        done, jpeg = self._cv2.imencode(".jpg", canvas, (self._cv2.IMWRITE_JPEG_QUALITY, plan.quality))
        if not done:
            raise ValueError("the picture cannot be encoded as a JPEG")
        return bytes(np.asarray(jpeg).tobytes())

    def _topic(self, stream: str) -> str:
        return f"{self._root}/snapshot/{stream}"

    def _complain(self, stream: str, error: Exception) -> None:
        now_ns = self._clock.mono_ns()
        if self._logged_ns is None or now_ns - self._logged_ns >= _LOG_EVERY_NS:
            self._logged_ns = now_ns
            _log.warning("stream %s: a snapshot is lost: %s: %s", stream, type(error).__name__, error)


class OldSnapshots:
    """Takes back what earlier runs left at the broker of streams whose pictures are not to leave any more.

    Used by one thread.
    """

    def __init__(self, streams: Sequence[str], broker: Broker, root: str) -> None:
        self._broker = broker
        self._inbox: Slot[Incoming] = Slot(max(1, len(streams)))
        for stream in streams:
            broker.subscribe(f"{root}/snapshot/{stream}", self._inbox, 1)

    def tick(self) -> None:
        """Remove what came."""
        while len(self._inbox):
            incoming = self._inbox.take(0)
            if incoming is not None and incoming.retain and incoming.payload:
                _log.info("%s: a picture of an earlier run is taken back", incoming.topic)
                self._broker.publish(incoming.topic, b"", qos=1, retain=True)

    def close(self) -> None:
        """Listen no more. Idempotent."""
        self._inbox.close()


def forbidden(stream: str) -> ConfigError:
    """What is said to who asks for a picture of a stream whose pictures are not to leave."""
    return ConfigError(
        "pictures of this stream do not leave the device",
        where=stream,
        remedy=f"[streams.{stream}.snapshot] allows it",
    )


def _left_in(slot: Slot[_Shot]) -> _Shot | None:
    with suppress(Closed):
        return slot.take(0)
    return None


def _shows(plan: SnapshotPlan, answer: Answer) -> bool:
    """Whether a picture of this answer is wanted without being asked for."""
    if plan.on == "always":
        return True
    found = answer.detections or ()
    return bool(found) if plan.on == "any" else any(one.label in plan.on for one in found)


def _to_hide(remembered: deque[tuple[int, tuple[Box, ...]]], now_ns: int) -> tuple[Box, ...]:
    """What was to be hidden in the last seconds, the newest result's among them; what is older goes."""
    while remembered and now_ns - remembered[0][0] > REMEMBERED_S * 1e9:
        remembered.popleft()
    return tuple(dict.fromkeys(box for _, boxes in remembered for box in boxes))
