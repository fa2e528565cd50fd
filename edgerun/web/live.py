"""Live pictures: of each stream that somebody looks at the newest one, drawn into and encoded once for all who look."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from edgerun.clock import Clock
from edgerun.types import Answer, Image, Lease, Publication
from edgerun.web.message import Response, text
from edgerun.web.server import Deferred

_log = logging.getLogger(__name__)

_BOUNDARY = b"edgerun-frame"
_JOIN_S = 2.0
_LATELY_NS = 1_000_000_000
_LEAST_WIDTH = 480  # what is written into a smaller picture could not be read

Paint = Callable[[Image, Publication, Sequence[Answer]], None]
"""Hides in a picture what nobody may see, and draws the result and what the stream's other models found lately into it,
in place. Called by "live".
"""
Admit = Callable[[Publication], bool]
"""Whether the picture of a result may be shown. Asked of every result, by the thread "publish"."""
_Job = tuple[Lease, Publication, tuple[Answer, ...]]


class LiveOptions(msgspec.Struct, frozen=True):
    """`fps`: most pictures a second of one stream; `width`: the widest picture, pixels; `quality`: of the JPEG."""

    fps: float = 8.0
    width: int = 960
    quality: int = 75


class LiveView:
    """A sink that keeps nothing while nobody looks.

    `publish` (thread "publish") only notes the newest result of a stream that somebody waits for a picture of: a slow
    viewer costs nothing, and results never wait. The thread "live", begun with the first viewer, does the rest.
    `on_picture` is called by it whenever there is a new picture.
    """

    wants_picture = False  # all the time; `looked_at` says when
    broken = False

    def __init__(
        self,
        clock: Clock,
        options: LiveOptions,
        paint: Paint,
        on_picture: Callable[[], None],
        admit: Admit = lambda publication: True,
    ) -> None:
        self._clock, self._options, self._paint, self._on_picture = clock, options, paint, on_picture
        self._admit = admit
        self._interval_ns = round(1e9 / options.fps)
        self._changed = threading.Condition()
        self._streams: dict[str, _Stream] = {}
        """Read by any thread without the lock: a stream that was looked at once is always in it."""
        self._canvases: dict[str, Image] = {}
        self._closed = False
        self._turns = 0
        self._thread: threading.Thread | None = None

    def looked_at(self, stream: str) -> bool:
        """Whether anybody waits for this stream's next picture. Any thread; costs next to nothing."""
        found = self._streams.get(stream)
        return found is not None and found.awaited > 0

    @property
    def viewers(self) -> int:
        """How many look, at all streams together."""
        with self._changed:
            return sum(len(one.viewers) for one in self._streams.values())

    def publish(self, publication: Publication) -> None:
        """Note it, where somebody waits for it and it is time for the next picture."""
        result = publication.result
        may_be_shown = self._admit(publication)
        stream = self._streams.get(result.stamp.stream)
        if stream is None or not stream.awaited or not may_be_shown or result.lease is None or result.crop is not None:
            return
        now_ns = self._clock.mono_ns()
        stream.answers[result.model.name] = (now_ns, result.answer)
        if now_ns < stream.due_ns or not result.lease.image.size:
            return
        others = tuple(
            answer
            for name, (at_ns, answer) in stream.answers.items()
            if name != result.model.name and now_ns - at_ns < _LATELY_NS
        )
        stream.due_ns = max(stream.due_ns, now_ns - self._interval_ns) + self._interval_ns
        lease = result.lease.share()
        with self._changed:
            job: _Job = (lease, publication, others)
            before, stream.next = (job, None) if self._closed else (stream.next, job)
            self._changed.notify()
        if before is not None:
            before[0].release()

    def flush(self, timeout_s: float) -> None:
        """Pictures for those who look are of no value later."""

    def close(self) -> None:
        """End the thread and give back what it has not drawn. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        with self._changed:
            waiting = [one.next for one in self._streams.values()]
            for one in self._streams.values():
                one.next = None
        for job in waiting:
            if job is not None:
                job[0].release()

    def watch(self, stream: str) -> Viewer:
        """A feed of the stream's pictures, each as soon as its reader is ready for it."""
        with self._changed:
            found = self._begin(stream)
            viewer = Viewer(self, stream, found.number)
            found.viewers.add(viewer)
            found.count()
        return viewer

    def snapshot(self, stream: str) -> Deferred:
        """The stream's next picture, as an answer."""
        deferred = Deferred()
        with self._changed:
            found = self._begin(stream)
            found.due_ns = 0
            found.asked.append(deferred)
            found.count()
        return deferred

    def _begin(self, stream: str) -> _Stream:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="live", daemon=True)
            self._thread.start()
        return self._streams.setdefault(stream, _Stream())

    def _run(self) -> None:
        try:
            import cv2

            while (job := self._take()) is not None:
                name, (lease, publication, others) = job
                try:
                    canvas = self._copy(cv2, name, lease.image)
                finally:
                    lease.release()
                self._paint(canvas, publication, others)
                done, encoded = cv2.imencode(".jpg", canvas, (cv2.IMWRITE_JPEG_QUALITY, self._options.quality))
                jpeg = encoded.tobytes() if done else b""
                self._show(name, jpeg)
        except BaseException:  # noqa: BLE001  a thread's body: live pictures end, the results go on
            _log.exception("live pictures are no longer shown")

    def _take(self) -> tuple[str, _Job] | None:
        """The result that waits longest, of those streams that have one; None at the end."""
        with self._changed:
            while not self._closed:
                waiting = [(stream.turn, name) for name, stream in self._streams.items() if stream.next is not None]
                if waiting:
                    _, name = min(waiting)
                    stream = self._streams[name]
                    job, stream.next = stream.next, None
                    self._turns += 1
                    stream.turn = self._turns  # the others come first now
                    assert job is not None, "it waits"
                    return name, job
                self._changed.wait()
        return None

    def _copy(self, cv2: Any, name: str, image: Image) -> Image:
        """The picture as wide as it is shown, in a canvas of the stream's own: the leased one goes back at once."""
        height, width = image.shape[:2]
        wide = min(max(width, _LEAST_WIDTH), self._options.width)
        size = (wide, max(1, round(height * wide / width)))
        canvas = self._canvases.get(name)
        if canvas is None or canvas.shape[1::-1] != size:
            canvas = None
        if size == (width, height):
            canvas = cv2.copyTo(image, None, canvas)
        else:
            canvas = cv2.resize(image, size, canvas, interpolation=cv2.INTER_AREA if wide * 2 <= width else 1)
        made: Image = canvas
        self._canvases[name] = made
        return made

    def _show(self, name: str, jpeg: bytes) -> None:
        if not jpeg:
            return
        # The boundary that ends a part is sent with it: browsers show a picture only when they have seen its end.
        part = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n--%b\r\n" % (len(jpeg), jpeg, _BOUNDARY)
        with self._changed:
            stream = self._streams[name]
            stream.part, stream.number = part, stream.number + 1
            asked, stream.asked = stream.asked, []
            stream.count()
        headers = (("Cache-Control", "no-store"), ("Content-Disposition", f'inline; filename="{name}.jpg"'))
        for one in asked:
            one.answer(Response(HTTPStatus.OK, jpeg, "image/jpeg", headers))
        self._on_picture()

    def take_for(self, viewer: Viewer) -> bytes | None:
        """The newest part that `viewer` has not had yet."""
        with self._changed:
            stream = self._streams[viewer.stream]
            if stream.number == viewer.seen:
                viewer.is_ready = True
            else:
                viewer.seen, viewer.is_ready = stream.number, False
            stream.count()
            return None if viewer.is_ready else stream.part

    def leave(self, viewer: Viewer) -> None:
        """It looks no longer."""
        with self._changed:
            stream = self._streams[viewer.stream]
            stream.viewers.discard(viewer)
            stream.count()
            if not stream.viewers:
                stream.part = b""
                self._canvases.pop(viewer.stream, None)


class _Stream:
    """What is known of one stream that was looked at. Used with the lock held, but for `awaited` and `due_ns`."""

    __slots__ = ("answers", "asked", "awaited", "due_ns", "next", "number", "part", "turn", "viewers")

    def __init__(self) -> None:
        self.viewers: set[Viewer] = set()
        self.asked: list[Deferred] = []
        self.awaited = 0
        self.due_ns = 0
        self.next: _Job | None = None
        self.part = b""
        self.number = 0
        self.turn = 0
        """When it was drawn last, counted in pictures."""
        self.answers: dict[str, tuple[int, Answer]] = {}

    def count(self) -> None:
        """How many wait for the next picture."""
        self.awaited = sum(viewer.is_ready for viewer in self.viewers) + len(self.asked)


class Viewer:
    """One reader of a stream's pictures."""

    content_type = f"multipart/x-mixed-replace; boundary={_BOUNDARY.decode()}"

    def __init__(self, live: LiveView, stream: str, seen: int) -> None:
        self._live, self.stream, self.seen = live, stream, seen
        self._begun = False
        self.is_ready = False

    def take(self) -> bytes | None:
        """The newest picture that it has not had, as a part of the multipart body (RFC 2046, 5.1)."""
        if not self._begun:
            self._begun = True
            return b"--%b\r\n" % _BOUNDARY
        return self._live.take_for(self)

    def close(self) -> None:
        """Look no longer."""
        self._live.leave(self)


def no_picture() -> Response:
    """The answer where a stream has no pictures."""
    return text(HTTPStatus.NOT_FOUND, "this stream has no pictures")
