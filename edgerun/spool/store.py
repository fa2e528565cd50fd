"""The folder of a spool: who owns it, what it may hold, and what was found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edgerun.broker.message import KINDS, Kind
from edgerun.decoding import decode
from edgerun.errors import DeviceError
from edgerun.spool.files import Files, is_full
from edgerun.spool.log import SUFFIX, Log
from edgerun.spool.options import SpoolOptions
from edgerun.spool.record import MAGIC, Record, is_of_this_version, version_of
from edgerun.spool.sealed import MORE_BYTES, Sealed

ASIDE = "aside"
"""The folder inside for what cannot be read: for a person to look at, never deleted nor read by edgerun."""

_MARK_BYTES = 128
_PLAUSIBLE_MS = 1_735_689_600_000
"""2025-01-01: a clock that says less has not been set since the board was switched on."""
_RETRIES = 8

Reason = Literal["spool_full", "disk_full", "expired"]
Release = Callable[[Kind, int, int], int]
"""Called with (class, first n, the one behind the last) before the file that holds them is deleted. Whoever has some of
them in memory too must not count on the file any more; returns from which n on that is so."""


class Mark(msgspec.Struct, frozen=True):
    """The high-water mark: up to which number the results of a run are certain, and whether it ended as it should."""

    run: str
    certain: int | None
    clean: bool
    v: int = 1


class New(msgspec.Struct, frozen=True):
    """A message to be written."""

    kind: Kind
    topic: str
    payload: bytes
    unix_ms: int


class Dropped(msgspec.Struct, frozen=True):
    """A file that had to go, with `waiting` messages that were not handed out yet."""

    kind: Kind
    reason: Reason
    waiting: int


class Opened(msgspec.Struct, frozen=True):
    """What was found."""

    messages: int
    missing: int
    """Records that must have been there and were damaged."""
    aside: tuple[str, ...]
    """Files set aside, each with the reason."""
    mark: Mark | None
    """Of the run before; None when there was none, or its file is damaged."""


class Store:
    """Used by one thread. Methods raise `OSError` where not said otherwise."""

    def __init__(self, options: SpoolOptions, files: Files | None = None) -> None:
        self._options = options
        self._sealed = Sealed(options.key)
        self._files = files if files is not None else Files()
        self._folder = options.folder
        self._lock = -1
        self._order = 1
        self._last_mark: Mark | None = None
        self.logs: dict[Kind, Log] = {}

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(log.size for log in self.logs.values())

    @property
    def dirty(self) -> bool:
        """Whether something is written and not synced."""
        return any(log.dirty for log in self.logs.values())

    @property
    def acks_wait(self) -> bool:
        """Whether acknowledgements are known that the files do not say yet."""
        return any(log.acks_wait for log in self.logs.values())

    def open(self) -> Opened:
        """Take the folder. Raises `DeviceError` when another process has it, `OSError` for what the disk refuses."""
        self._files.make_folder(self._folder)
        try:
            self._lock = self._files.lock(self._folder / "lock")
        except BlockingIOError as error:
            raise DeviceError(
                "another process uses this spool",
                where=self._folder,
                expected="one edgerun at a time",
                remedy="stop the other one, or give this one a device id or a state directory of its own",
            ) from error
        try:
            return self._take_over()
        except BaseException:
            self.abandon()
            raise

    def _take_over(self) -> Opened:
        aside: list[str] = []
        paths: dict[Kind, list[Path]] = {kind: [] for kind in KINDS}
        for name in self._files.names(self._folder):
            path = self._folder / name
            if not name.endswith(SUFFIX):
                continue
            kind, reason = self._examine(path)
            if kind is not None:
                paths[kind].append(path)
            elif reason:
                self._set_aside(path)
                aside.append(f"{name}: {reason}")
            else:
                self._files.unlink(path)  # made and never written to
        messages = missing = 0
        for kind in KINDS:
            log = Log(self._folder, kind, self._files, self._options.segment_bytes)
            order, gone = log.load(paths[kind])
            self.logs[kind] = log
            self._order = max(self._order, order + 1)
            messages += log.unacked
            missing += gone
        for log in self.logs.values():
            self._tidy(log, 0, aside)
        return Opened(messages, missing, tuple(aside), self._read_mark())

    def _examine(self, path: Path) -> tuple[Kind | None, str]:
        """Whose segment it is, or why it is nobody's; ("", None) of an empty one."""
        head = self._files.read(path, 0, len(MAGIC))
        name, _, number = path.stem.rpartition("-")
        if not head or (len(head) < len(MAGIC) and MAGIC.startswith(head)):
            return None, ""
        if not is_of_this_version(head):
            version = version_of(head)
            return None, f"format version {version!r}" if version else "no segment of a spool"
        kind = next((kind for kind in KINDS if kind == name), None)
        if kind is None or len(number) != 16 or not all(c in "0123456789abcdef" for c in number):
            return None, "a name this version does not give"
        return kind, ""

    def append(self, news: Sequence[New], release: Release) -> tuple[list[int | Reason], list[Dropped], OSError | None]:
        """Write `news`. Returns the n of each, or why it found no room; what had to go for the others; and what the
        disk said to the first that is in no list, when it refused.

        What was written and had to go again for the rest of `news` has no n, and is not among what had to go.
        """
        places: list[int | Reason] = []
        dropped: list[Dropped] = []
        error: OSError | None = None
        new_from = {kind: log.next for kind, log in self.logs.items()}

        def release_older(kind: Kind, first: int, behind: int) -> int:
            return min(release(kind, first, behind), new_from[kind])

        while len(places) < len(news) and error is None:
            at = end = len(places)
            kind, need = news[at].kind, 0
            while end < len(news) and news[end].kind == kind and need < self._options.segment_bytes:
                need += (
                    len(news[end].payload) + len(news[end].topic) + 64 + MORE_BYTES * (self._options.key is not None)
                )
                end += 1
            try:
                places += self._append(kind, news[at:end], need, release_older, dropped)
            except OSError as refused:
                error = refused
        for kind, reason in {one.kind: one.reason for one in dropped}.items():
            for i, place in enumerate(places):
                if isinstance(place, int) and news[i].kind == kind and not self.logs[kind].holds(place):
                    places[i] = reason
        return places, dropped, error

    def _append(
        self, kind: Kind, batch: Sequence[New], need: int, release: Release, dropped: list[Dropped]
    ) -> Sequence[int | Reason]:
        """What the disk has no room for makes the oldest of the lowest class go, as the bound of our own does."""
        if why := self._room(kind, need, release, dropped):
            return [why] * len(batch)
        records = [
            (order, new.unix_ms, *self._sealed.close(kind, order, new.unix_ms, new.topic, new.payload))
            for order, new in enumerate(batch, self._order)
        ]
        for _ in range(_RETRIES):
            try:
                first = self.logs[kind].append(records)
            except OSError as error:
                if not is_full(error):
                    raise
                if not self._drop_one(kind, release, dropped, "disk_full"):
                    break
                continue
            self._order += len(batch)
            return range(first, first + len(batch))
        return ["disk_full"] * len(batch)

    def ack(self, kind: Kind, n: int) -> None:
        """The broker has it. Raises nothing."""
        self.logs[kind].ack(n)

    def write_acks(self) -> None:
        """Say in the files what was acknowledged. What a full disk has no room for is said later."""
        for log in self.logs.values():
            if log.acks_wait:
                log.write_acks()

    def sync(self) -> None:
        for log in self.logs.values():
            log.sync()

    def tidy(self, keep_below: int = 0) -> list[str]:
        """Delete files that are acknowledged; returns those set aside instead. `keep_below`: see `Log.tidy`."""
        aside: list[str] = []
        for log in self.logs.values():
            self._tidy(log, keep_below, aside)
        return aside

    def read(self, limit: int, upto: Mapping[Kind, int]) -> tuple[list[tuple[Kind, Record]], int]:
        """The next unacknowledged messages, oldest first over all classes; each is given once in a process's life.

        Only those with an n below `upto` of their class. And how many could not be read and are lost.
        """
        records: list[tuple[Kind, Record]] = []
        lost = 0
        while len(records) < limit:
            heads = []
            for kind, log in self.logs.items():
                found = log.peek(upto[kind])
                if found is not None:
                    heads.append((found.order, kind))
                else:
                    lost += log.skip_unreadable(upto[kind])
            if not heads:
                break
            kind = min(heads)[1]
            record, gone = self.logs[kind].read()
            lost += gone
            if record is not None:
                opened = self._sealed.open(kind, record)
                if opened is None:
                    self.ack(kind, record.n)
                    lost += 1
                else:
                    records.append((kind, opened))
        return records, lost

    def make_room(self, now_ms: int, release: Release, dropped: list[Dropped]) -> None:
        """Drop what is over the bounds of bytes, free disk and age; what went is in `dropped`, also after an error."""
        oldest_ms = now_ms - round(self._options.max_age_s * 1000)
        for kind, log in self.logs.items():
            while now_ms >= _PLAUSIBLE_MS and log.segments and _PLAUSIBLE_MS <= log.segments[0].newest_ms < oldest_ms:
                self._drop(kind, release, dropped, "expired")
        self._room("event", 0, release, dropped)

    def is_expired(self, record: Record, now_ms: int) -> bool:
        """Whether a message is too old to be sent, as far as that is known."""
        return _PLAUSIBLE_MS <= record.unix_ms < now_ms - round(self._options.max_age_s * 1000)

    def write_mark(self, mark: Mark, *, sync: bool = False) -> None:
        """Say up to where the results are certain; later, while the disk has no room for a first mark."""
        if mark == self._last_mark:
            return
        text = msgspec.json.encode(mark).ljust(_MARK_BYTES - 1)[: _MARK_BYTES - 1] + b"\n"
        try:
            self._files.overwrite(self._folder / "mark", text, sync=sync)
        except OSError as error:
            if not is_full(error):
                raise
        else:
            self._last_mark = mark

    def close(self) -> None:
        """Everything said, synced and let go."""
        try:
            self.write_acks()
            self.tidy()
            for log in self.logs.values():
                log.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go without a word. Raises nothing."""
        for log in self.logs.values():
            log.abandon()
        fd, self._lock = self._lock, -1
        if fd >= 0:
            self._files.give_back(fd)

    def _tidy(self, log: Log, keep_below: int, aside: list[str]) -> None:
        for path in log.tidy(keep_below):
            self._set_aside(path)
            aside.append(f"{path.name}: damaged; what could be read of it is sent")

    def _set_aside(self, path: Path) -> None:
        folder = self._folder / ASIDE
        self._files.make_folder(folder)
        self._files.rename(path, folder / path.name)

    def _room(self, kind: Kind, need: int, release: Release, dropped: list[Dropped]) -> Reason | None:
        """Make room for `need` bytes of `kind` at the cost of the oldest of the lowest class, none above it; or say
        what stands in the way.
        """
        while True:
            cap, reason = self._cap()
            if self.size + need <= cap:
                return None
            if not self._drop_one(kind, release, dropped, reason):
                return reason

    def _cap(self) -> tuple[int, Reason]:
        """Of all files, and whose bound that is: our own, or the disk's."""
        own = self.size
        free = self._files.free_bytes(self._folder) + own
        options = self._options
        of_disk = min(round(options.free_share * free), max(0, free - options.min_free_bytes))
        return (of_disk, "disk_full") if of_disk < options.max_bytes else (options.max_bytes, "spool_full")

    def _drop_one(self, kind: Kind, release: Release, dropped: list[Dropped], reason: Reason) -> bool:
        lower = KINDS[: KINDS.index(kind) + 1]
        victim = next((one for one in lower if self.logs[one].segments), None)
        if victim is None:
            return False
        self._drop(victim, release, dropped, reason)
        return True

    def _drop(self, kind: Kind, release: Release, dropped: list[Dropped], reason: Reason) -> None:
        log = self.logs[kind]
        upto = release(kind, log.segments[0].first, log.segments[0].next)
        waiting, aside = log.drop_oldest(upto)
        for path in aside:
            self._files.unlink(path)
        dropped.append(Dropped(kind, reason, waiting))

    def _read_mark(self) -> Mark | None:
        path = self._folder / "mark"
        try:
            return decode(self._files.read(path, 0, _MARK_BYTES), Mark)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
