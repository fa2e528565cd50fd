"""One class's messages on disk: a chain of segment files, written at one end and deleted at the other.

Acknowledgements are records of the same files. A cursor in a file of its own would cost a page of the disk at every
turn; here it shares the page that the messages dirty anyway. A segment goes when everything in it is acknowledged; what
it said of the acknowledgements of others is said again before.

A process never appends to a file of another: what its end looks like after a power cut need not be repaired then, only
read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgerun.spool.files import Files, is_full
from edgerun.spool.record import ACKS, DATA, MAGIC, Found, Record, encode, encode_acks, scan

SUFFIX = ".seg"
_READ_BYTES = 128 << 10
_JUMP_MAX = 1 << 24
"""A record that says it is further than this from the one before is damage that passed its checksum by chance."""


class Segment(msgspec.Struct, eq=False):
    """One file as it is known in memory: records `first` … `next` − 1, one byte of `acked` each."""

    path: Path
    first: int
    next: int
    size: int
    acked: bytearray
    unacked: int = 0
    newest_ms: int = 0
    holds_acks: bool = False
    damaged: bool = False
    read_to: int = len(MAGIC)

    def open_in(self, start: int, end: int) -> int:
        """How many records of `start` … `end` − 1 are not acknowledged."""
        start, end = max(start, self.first), min(end, self.next)
        return end - start - sum(self.acked[start - self.first : end - self.first]) if end > start else 0


class Log:
    """Used by one thread. Every method may raise `OSError`; what it changed in memory is then what is on disk."""

    def __init__(self, folder: Path, kind: str, files: Files, segment_bytes: int) -> None:
        self.kind = kind
        self._folder, self._files, self._segment_bytes = folder, files, segment_bytes
        self.segments: list[Segment] = []
        self._fd = -1
        self._dirty = self._new_names = False
        self._ahead: deque[Found] = deque()
        self._cursor = self.next = 1
        self._acks: list[int] = []

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(segment.size for segment in self.segments)

    @property
    def unacked(self) -> int:
        return sum(segment.unacked for segment in self.segments)

    @property
    def dirty(self) -> bool:
        """Whether something is written and not synced."""
        return self._dirty or self._new_names

    @property
    def acks_wait(self) -> bool:
        """Whether acknowledgements are known that the files do not say yet."""
        return bool(self._acks)

    def load(self, paths: Sequence[Path]) -> tuple[int, int]:
        """Take over the files of earlier processes; returns (highest order, records known to be missing)."""
        order = missing = 0
        ranges: list[tuple[int, int]] = []
        for path in sorted(paths):
            segment, highest, gone, said = self._load_one(path)
            order, missing = max(order, highest), missing + gone
            ranges += said
            self.segments.append(segment)
        for first, count in ranges:
            self._mark(first, count)
        if self.segments:
            self._cursor = self.segments[0].first
            self.next = max(segment.next for segment in self.segments)
        return order, missing

    def _load_one(self, path: Path) -> tuple[Segment, int, int, list[tuple[int, int]]]:
        data = self._files.read(path, 0, self._files.size(path))
        first = int(path.stem.rpartition("-")[2], 16)
        segment = Segment(path, first, first, len(data), bytearray())
        order = missing = 0
        ranges: list[tuple[int, int]] = []
        torn_at = None
        for found in scan(data, len(MAGIC)):
            if isinstance(found, tuple):
                torn_at = found[0]
                continue
            if torn_at is not None:  # not just a torn tail: something stands behind
                segment.damaged = True
            if found.kind == ACKS:
                segment.holds_acks = True
                ranges += found.ranges()
            elif segment.next <= found.n < segment.next + _JUMP_MAX:
                gap = found.n - segment.next
                segment.acked += b"\1" * gap + b"\0"
                missing += gap
                segment.next = found.n + 1
                segment.unacked += 1
                segment.newest_ms = max(segment.newest_ms, found.unix_ms)
                order = max(order, found.order)
        return segment, order, missing, ranges

    def append(self, records: Sequence[tuple[int, int, str, bytes]]) -> int:
        """Write (order, Unix ms, topic, payload) of each; returns the n of the first, the others follow."""
        segment, first = self._writable(), self.next
        frames = [encode(first + i, *record) for i, record in enumerate(records)]
        self._write(segment, b"".join(frames))  # one write: all of them, or none
        segment.newest_ms = max(segment.newest_ms, *(unix_ms for _, unix_ms, _, _ in records))
        segment.acked += bytes(len(frames))
        segment.unacked += len(frames)
        self.next = segment.next = first + len(frames)
        return first

    def ack(self, n: int) -> None:
        """The broker has it; said in the files by the next `write_acks`. One that is not here any more is no matter."""
        if self._mark(n, 1):
            self._acks.append(n)

    def holds(self, n: int) -> bool:
        """Whether it is in a file."""
        return self._holder(n) is not None

    def write_acks(self) -> None:
        """Say in the files what was acknowledged since the last time; later, while the disk has no room for it."""
        acks, self._acks = self._acks, []
        still = [n for n in acks if (s := self._holder(n)) is not None and (s.unacked or s is self._active)]
        if still:  # else the files they stand in go as a whole
            self._say(sorted(set(still)))

    def sync(self) -> None:
        """What was written survives a power cut from here on."""
        if self._dirty and self._fd >= 0:
            self._files.sync(self._fd)
        self._dirty = False
        if self._new_names:
            self._files.sync_folder(self._folder)
            self._new_names = False

    def tidy(self, keep_below: int) -> list[Path]:
        """Delete what is acknowledged; the newest file only from `keep_below` bytes on, and only when it is alone.

        Returns files that are done with but damaged, which their owner sets aside.
        """
        done = [s for s in self.segments if not s.unacked and s is not self._active]
        if self._active is not None and not self.unacked and self._active.size >= keep_below:
            self._release()
            done = list(self.segments)
        if not done:
            return []
        left = [s for s in self.segments if s not in done]
        if left and any(s.holds_acks for s in done):
            self._repeat_acks(left)
        aside = []
        for segment in done:
            aside += self._remove(segment)
        return aside

    def peek(self, upto: int) -> Found | None:
        """The oldest record that was neither read nor acknowledged, if its n is below `upto`."""
        while True:
            while self._ahead:
                found = self._ahead[0]
                if found.n >= upto:
                    return None
                segment = self._holder(found.n)
                if found.n >= self._cursor and segment is not None and not segment.acked[found.n - segment.first]:
                    return found
                self._ahead.popleft()
            if not self._fill(upto):
                return None

    def read(self) -> tuple[Record | None, int]:
        """Take what `peek` showed; (None, …) when it cannot be unpacked. And how many before it were unreadable."""
        found = self._ahead.popleft()
        lost = self._pass(found.n)
        self._cursor = found.n + 1
        try:
            return found.record(), lost
        except ValueError:
            self._mark(found.n, 1)
            return None, lost + 1

    def skip_unreadable(self, upto: int) -> int:
        """After `peek` found nothing more: how many it should have found. They are lost, and not waited for again."""
        return self._pass(min(upto, self.next)) if not self._ahead else 0

    def drop_oldest(self, upto: int) -> tuple[int, list[Path]]:
        """Delete the oldest file. Returns how many waited in it to be read, of those with an n below `upto`, and the
        file, if it is damaged.
        """
        segment = self.segments[0]
        if segment is self._active:
            self._release()
        waiting = segment.open_in(self._cursor, upto)
        self._cursor = max(self._cursor, min(segment.next, upto))
        return waiting, self._remove(segment)

    def close(self) -> None:
        """Sync and let go."""
        try:
            self.sync()
        finally:
            self._release()

    def abandon(self) -> None:
        """Let go without a word: the disk no longer answers as it should."""
        self._release()
        self._dirty = self._new_names = False

    @property
    def _active(self) -> Segment | None:
        return self.segments[-1] if self._fd >= 0 else None

    def _writable(self) -> Segment:
        active = self._active
        if active is not None and active.size < self._segment_bytes:
            return active
        if active is not None:
            self.sync()
            self._release()
        if any(segment.first == self.next for segment in self.segments):
            self.next += 1  # a file that holds acknowledgements only has taken the name
        path = self._folder / f"{self.kind}-{self.next:016x}{SUFFIX}"
        fd = self._files.create(path)
        try:
            self._files.write(fd, MAGIC)
        except OSError:
            self._files.give_back(fd)
            self._files.unlink(path)
            raise
        self._fd, self._dirty, self._new_names = fd, True, True
        self.segments.append(Segment(path, self.next, self.next, len(MAGIC), bytearray()))
        return self.segments[-1]

    def _write(self, segment: Segment, data: bytes) -> None:
        try:
            self._files.write(self._fd, data)
        except OSError:
            try:
                self._files.truncate(self._fd, segment.size)
            except OSError:  # what is half there is skipped by whoever reads it; nothing is written behind it
                self._release()
            raise
        segment.size += len(data)
        self._dirty = True

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._files.give_back(fd)

    def _remove(self, segment: Segment) -> list[Path]:
        if not segment.damaged:
            self._files.unlink(segment.path)
        self.segments.remove(segment)
        return [segment.path] if segment.damaged else []

    def _repeat_acks(self, left: Sequence[Segment]) -> None:
        numbers = [s.first + i for s in left if s.unacked for i, acked in enumerate(s.acked) if acked]
        if numbers:
            self._say(numbers)

    def _say(self, numbers: list[int]) -> None:
        """Write that `numbers`, rising, are acknowledged. What finds no room waits for the next `write_acks`."""
        try:
            segment = self._writable()
            self._write(segment, encode_acks(list(_ranges(numbers))))
        except OSError as error:
            self._acks += numbers
            if not is_full(error):
                raise
        else:
            segment.holds_acks = True

    def _holder(self, n: int) -> Segment | None:
        return next((s for s in self.segments if s.first <= n < s.next), None)

    def _mark(self, first: int, count: int) -> int:
        """Acknowledge n = `first` … `first + count - 1`, as far as they are here; returns how many were not yet."""
        marked = 0
        for segment in self.segments:
            start, end = max(first, segment.first), min(first + count, segment.next)
            if start < end:
                fresh = segment.open_in(start, end)
                segment.acked[start - segment.first : end - segment.first] = b"\1" * (end - start)
                segment.unacked -= fresh
                marked += fresh
        return marked

    def _pass(self, n: int) -> int:
        """Everything unacknowledged between the cursor and `n` could not be read: given up. How many."""
        lost = self._mark(self._cursor, n - self._cursor) if n > self._cursor else 0
        self._cursor = max(self._cursor, n)
        return lost

    def _fill(self, upto: int) -> bool:
        """Read on in the first file that has more; False when none has."""
        for segment in self.segments:
            if segment.next <= self._cursor or segment.read_to >= segment.size or segment.first >= upto:
                continue
            size = _READ_BYTES
            while True:
                data = self._files.read(segment.path, segment.read_to, size)
                final = segment.read_to + len(data) >= segment.size or len(data) < size
                read_to = 0
                for found in scan(data, 0, final=final):
                    read_to = found[1] if isinstance(found, tuple) else found.end
                    if not isinstance(found, tuple) and found.kind == DATA:
                        self._ahead.append(found)
                if read_to or final:
                    break
                size *= 2
            segment.read_to = segment.size if final else segment.read_to + read_to
            return True
        return False


def _ranges(numbers: Iterator[int] | Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rising numbers as (first, how many in a row)."""
    first = count = 0
    for n in numbers:
        if count and n == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = n, 1
    if count:
        yield first, count
