"""What an operator wants to know of the spool: logged, and kept for whoever publishes it."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgerun.broker.message import Kind
from edgerun.spool.store import Opened

_log = logging.getLogger(__name__)

_MAX = 100
_LOSSES_NS = 10_000_000_000
_WHY = {
    "spool_full": "the spool is at its bound",
    "disk_full": "the disk has no more room for them",
    "expired": "older than max_age",
    "full": "memory is at its bound, and the disk did not take them",
}


class Notice(msgspec.Struct, frozen=True):
    """`kind` is for programs, `text` a sentence for a person; `run` and `certain` of an `unclean_stop` only."""

    kind: str
    text: str
    run: str | None = None
    certain: int | None = None


class Notices:
    """Thread-safe and bounded. Losses are told at once, those of the next ten seconds together."""

    def __init__(self, where: Path) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._waiting: deque[Notice] = deque(maxlen=_MAX)
        self._broken: str | None = None
        self._losses: Counter[tuple[Kind, str]] = Counter()
        self._losses_ns: int | None = None

    @property
    def broken(self) -> str | None:
        """Why nothing is written at the moment."""
        return self._broken

    def add(self, kind: str, text: str, *, run: str | None = None, certain: int | None = None) -> None:
        _log.warning("%s: %s", self._where, text)
        with self._lock:
            self._waiting.append(Notice(kind, text, run, certain))

    def fail(self, error: Exception) -> None:
        """The disk does not do; told once until it does again."""
        text = str(error)
        if text != self._broken:
            self._broken = text
            self.add("spool_broken", f"nothing is spooled, results wait in memory only: {text}")

    def mend(self) -> None:
        """The disk does again."""
        if self._broken is not None:
            self._broken = None
            self.add("spool_works", "results are spooled again")

    def tell_found(self, found: Opened, run: str) -> None:
        """What the process before has left to the one of `run`."""
        if found.messages:
            _log.info("%s: %d messages wait to be replayed", self._where, found.messages)
        if found.missing:
            self.add("spool_damaged", f"{found.missing} spooled messages were damaged and are lost")
        self.tell_aside(found.aside)
        mark = found.mark
        if mark is not None and not mark.clean and mark.run != run:
            upto = f"results up to {mark.certain} are" if mark.certain is not None else "no result is"
            text = f"run {mark.run} ended without a stop; {upto} certain, later ones may be lost"
            self.add("unclean_stop", text, run=mark.run, certain=mark.certain)

    def tell_aside(self, names: Iterable[str]) -> None:
        """Files that somebody should look at."""
        for name in names:
            self.add("spool_set_aside", f"a file of the spool was set aside: {name}")

    def lose(self, kind: Kind, reason: str, count: int) -> None:
        """Messages that are given up; told by `take`. A reason that this does not know is told by others."""
        if reason in _WHY and count:
            with self._lock:
                self._losses[kind, reason] += count

    def tell_losses(self) -> None:
        """Whatever is not told yet."""
        with self._lock:
            losses, self._losses = self._losses, Counter()
        for (kind, reason), count in sorted(losses.items()):
            self.add("spool_dropped", f"{count} messages of class {kind} were dropped: {_WHY[reason]}")

    def take(self, now_ns: int, *, last: bool) -> list[Notice]:
        """What there is to tell since the last call; `last`: nobody will ask again."""
        with self._lock:
            due = bool(self._losses) and (self._losses_ns is None or now_ns - self._losses_ns >= _LOSSES_NS)
        if due or last:
            self._losses_ns = now_ns
            self.tell_losses()
        with self._lock:
            notices = list(self._waiting)
            self._waiting.clear()
            return notices
