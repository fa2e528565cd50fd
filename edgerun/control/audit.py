"""The audit log: what was changed on this device, by whom and from where, in lines that hold on to each other.

One line of JSON a record, in `audit.jsonl` of its folder:

    {"hash":"…","v":1,"seq":7,"ts":1795230000.123,"prev":"…","what":"command","who":"…","via":"mqtt","ok":true,…}

`hash` is SHA-256, in hexadecimal, of the line without its first member (`{"v":1,…}`), `prev` the hash of the record
before (64 zeros for the first one), so a record that is edited, taken out or moved breaks the chain behind it. Whoever
can write the folder can write a whole new chain: the *head* (`seq` and `hash` of the last record) is therefore
published retained, and a chain without that head was cut or replaced.

A file that is full is renamed to `audit-<its first seq>.jsonl`, and the next one continues the chain. The oldest file
is deleted when there are too many; a record of its own (`audit_dropped`) says up to where.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from edgerun.clock import Clock
from edgerun.decoding import decode
from edgerun.errors import DeviceError

_log = logging.getLogger(__name__)

FIRST = "0" * 64
_CURRENT, _LOCK = "audit.jsonl", "lock"
_OLD = re.compile(r"audit-(\d{12})\.jsonl\Z")
_PREFIX, _BETWEEN = b'{"hash":"', b'",'
_HASH_AT = len(_PREFIX)
_REST_AT = _HASH_AT + 64 + len(_BETWEEN)
LONGEST_BYTES = 16384
"""Of a line. What is longer is cut before it is written."""
_LONGEST_TEXT = 1024
Value = str | int | float | bool | None


class Head(msgspec.Struct, frozen=True):
    """The last record: its number, counted from 1, and its hash. 0 and zeros where there is none yet."""

    seq: int
    hash: str


class Entry(msgspec.Struct, frozen=True):
    """One record as it was read."""

    seq: int
    hash: str
    prev: str
    record: Mapping[str, Any]


class AuditLog:
    """Appends to the log in `folder`. Thread-safe, and safe against other processes that append to the same one.

    Every record is on the medium (fsync) before `append` returns. Raises `DeviceError` where the folder cannot be
    written.
    """

    def __init__(self, folder: Path, clock: Clock, *, max_bytes: int = 1 << 20, keep: int = 8) -> None:
        """`max_bytes` of one file; `keep` full ones beside it."""
        self._folder, self._clock = folder, clock
        self._max_bytes, self._keep = max_bytes, keep
        self._lock = threading.Lock()
        self._head = Head(0, FIRST)
        self._seen: tuple[int, int] | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone():
                self._catch_up()
        except OSError as error:
            raise _unwritable(folder, error) from error

    @property
    def head(self) -> Head:
        """Of the last record that was appended here or found at the start."""
        return self._head

    def append(
        self, what: str, *, who: str, via: str, ok: bool = True, more: Mapping[str, Value] | None = None
    ) -> Head:
        """Write one record and return the new head. `more`: further members, `before` and `after` hashes among them.

        Text is cut after 1024 characters. Raises `DeviceError`.
        """
        record: dict[str, Value] = {**(more or {}), "what": what, "who": who, "via": via, "ok": ok}
        with self._lock:
            try:
                with self._alone():
                    self._catch_up()
                    self._rotate()
                    return self._write(record)
            except OSError as error:
                raise _unwritable(self._folder, error) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        fd = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _catch_up(self) -> None:
        """Know the last record, whoever wrote it; take away a line that a power cut left unfinished.

        Records that this process knows of and that are gone or others stay part of the chain, so that it is broken for
        good where they are missing.
        """
        path = self._folder / _CURRENT
        status = path.stat() if path.exists() else None
        if status is not None and self._seen == (status.st_ino, status.st_size):
            return
        torn, entry = _tail(path) if status is not None else (0, None)
        if torn and status is not None:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.ftruncate(fd, status.st_size - torn)
                os.fsync(fd)
            finally:
                os.close(fd)
        found = Head(entry.seq, entry.hash) if entry is not None else self._last_of_old()
        self._seen = None if status is None else (status.st_ino, status.st_size - torn)
        gone = found.seq < self._head.seq or (found.seq == self._head.seq and found != self._head)
        if not gone:
            self._head = found
        if torn:
            _log.warning("%s: %d bytes of a record that was not finished are taken away", path, torn)
            self._write({"what": "audit_torn", "who": "edgerun", "via": "start", "ok": False, "bytes": torn})
        if gone:
            _log.error("%s: the log was changed by something else: record %d is not there", path, self._head.seq)
            self._write({"what": "audit_tampered", "who": "edgerun", "via": "look", "ok": False, "found": found.seq})

    def _last_of_old(self) -> Head:
        for path in reversed(_old_files(self._folder)):
            _, entry = _tail(path)
            if entry is not None:
                return Head(entry.seq, entry.hash)
        return Head(0, FIRST)

    def _write(self, record: Mapping[str, Value]) -> Head:
        seq = self._head.seq + 1
        body = {"v": 1, "seq": seq, "ts": round(self._clock.unix_s(), 3), "prev": self._head.hash}
        said = {str(_cut(key, 64)): _cut(value) for key, value in record.items() if key not in (*body, "hash")}
        rest = msgspec.json.encode({**body, **said})
        if len(rest) > LONGEST_BYTES - _REST_AT:
            few = {key: record[key] for key in ("what", "who", "via", "ok")}
            rest = msgspec.json.encode({**body, **{key: _cut(value, 256) for key, value in few.items()}, "cut": True})
        digest = hashlib.sha256(rest).hexdigest()
        line = b"".join((_PREFIX, digest.encode(), _BETWEEN, rest[1:], b"\n"))
        path = self._folder / _CURRENT
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        if self._seen is None:
            _sync_folder(self._folder)
        self._seen = (status.st_ino, status.st_size)
        self._head = Head(seq, digest)
        return self._head

    def _rotate(self) -> None:
        path = self._folder / _CURRENT
        if self._seen is None or self._seen[1] < self._max_bytes:
            return
        with path.open("rb") as file:
            first = next(_entries(file, self._seen[1]), None)
        path.rename(self._folder / f"audit-{first.seq if first is not None else self._head.seq:012}.jsonl")
        _sync_folder(self._folder)
        self._seen = None
        old = _old_files(self._folder)
        for gone in old[: max(0, len(old) - self._keep)]:
            _, last = _tail(gone)
            if last is not None:
                self._write(
                    {
                        "what": "audit_dropped",
                        "who": "edgerun",
                        "via": "retention",
                        "ok": True,
                        "upto": last.seq,
                        "upto_hash": last.hash,
                    }
                )
            gone.unlink()
            _sync_folder(self._folder)


class Verdict(msgspec.Struct, frozen=True):
    """What a look through a whole log came to. `faults` is empty for a log that is as it was written."""

    records: int
    first: int
    """Number of the oldest record that is there."""
    head: Head
    faults: tuple[str, ...] = ()


def read(folder: Path) -> Iterator[Entry]:
    """The records, oldest first, of lines that are records; nothing is verified. Raises `OSError`."""
    with _as_it_is(folder) as files:
        for _, file, size in files:
            yield from _entries(file, size)


def verify(folder: Path, head: str | None = None) -> Verdict:
    """Look through the whole chain: each line's own hash, its link to the one before, its number, and its start. It may
    be appended to meanwhile.

    `head`: a hash (64 hexadecimal digits), as the device published it; that record must be there. Raises `OSError`.
    """
    with _as_it_is(folder) as files:
        return _verified(
            ((f"{name}:{number}", line) for name, file, size in files for number, line in _lines(file, size)), head
        )


def _verified(lines: Iterator[tuple[str, bytes]], head: str | None) -> Verdict:
    """What `verify` returns, of all lines, each with its place."""
    faults: list[str] = []
    expected, prev = 1, FIRST
    first = records = 0
    known_head = head is None
    dropped: set[tuple[str, str]] = set()
    begins: tuple[int, str] | None = None
    for place, line in lines:
        entry = _parse(line)
        if entry is None:
            faults.append(f"{place}: not a record that edgerun wrote, or changed since")
            continue
        records += 1
        if not first:
            first = entry.seq
            if entry.seq > 1:
                begins = (entry.seq - 1, entry.prev)
                expected, prev = entry.seq, entry.prev
        if entry.seq != expected:
            faults.append(f"{place}: record {entry.seq} stands where {expected} belongs")
        if entry.prev != prev:
            faults.append(f"{place}: record {entry.seq} does not follow from the one before it")
        if entry.record.get("what") == "audit_dropped":
            dropped.add((str(entry.record.get("upto")), str(entry.record.get("upto_hash"))))
        known_head = known_head or entry.hash == head
        expected, prev = entry.seq + 1, entry.hash
    if begins is not None and (str(begins[0]), begins[1]) not in dropped:
        faults.append(f"the records up to {begins[0]} are missing, and no record says that they were dropped")
    if not known_head:
        faults.append(f"the record with the hash {head} is missing: the log was cut, or is another one")
    return Verdict(records, first, Head(expected - 1 if records else 0, prev), tuple(faults))


def begun(folder: Path) -> bool:
    """Whether a log was ever kept in `folder`, with or without a record. Raises `OSError`."""
    return (folder / _LOCK).exists() or bool(_files(folder))


def _parse(line: bytes) -> Entry | None:
    """The record of a whole line with its line feed; None unless every byte is as it was written."""
    if not line.startswith(_PREFIX) or line[_HASH_AT + 64 : _REST_AT] != _BETWEEN or not line.endswith(b"}\n"):
        return None
    rest = b"{" + line[_REST_AT:-1]
    digest = hashlib.sha256(rest).hexdigest()
    if digest.encode() != line[_HASH_AT : _HASH_AT + 64]:
        return None
    try:
        record = decode(rest, dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    seq, prev = record.get("seq"), record.get("prev")
    if not isinstance(seq, int) or seq < 1 or not isinstance(prev, str):
        return None
    return Entry(seq, digest, prev, record)


@contextmanager
def _as_it_is(folder: Path) -> Iterator[Sequence[tuple[str, BinaryIO, int]]]:
    """The log's files as they are at one moment, the oldest first: name, file, and how many bytes of it are meant. What
    is appended, renamed or deleted after that changes nothing of it. Raises `OSError`.
    """
    with ExitStack() as opened:
        with ExitStack() as turn:
            with suppress(FileNotFoundError, PermissionError):  # a copy may have none, or be another user's
                lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
                turn.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_SH)
            files = [(path.name, opened.enter_context(path.open("rb"))) for path in _files(folder)]
            found = [(name, file, os.fstat(file.fileno()).st_size) for name, file in files]
        yield found


def _entries(file: BinaryIO, size: int) -> Iterator[Entry]:
    for _, line in _lines(file, size):
        entry = _parse(line)
        if entry is not None:
            yield entry


def _lines(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Line number and line of the first `size` bytes; what is longer than a record can be comes in pieces, which are
    none.
    """
    number = 0
    while line := file.readline(min(size, LONGEST_BYTES + 1)):
        size -= len(line)
        number += 1
        yield number, line


def _tail(path: Path) -> tuple[int, Entry | None]:
    """Bytes behind the last line feed, and the last line that is a record."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 4 * LONGEST_BYTES))
        data = file.read()
    end = data.rfind(b"\n") + 1
    for line in reversed(data[:end].splitlines(keepends=True)):
        entry = _parse(line)
        if entry is not None:
            return len(data) - end, entry
    return len(data) - end, None


def _old_files(folder: Path) -> list[Path]:
    return sorted(folder / name for name in os.listdir(folder) if _OLD.match(name))


def _files(folder: Path) -> list[Path]:
    current = folder / _CURRENT
    return [*_old_files(folder), *([current] if current.exists() else [])]


def _cut(value: Value, longest: int = _LONGEST_TEXT) -> Value:
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()  # no encoder writes a lone surrogate
        return value if len(value) <= longest else value[:longest] + "…"
    return value


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unwritable(folder: Path, error: OSError) -> DeviceError:
    return DeviceError(
        "the audit log cannot be written",
        where=folder,
        got=error.strerror or error,
        remedy="make the folder writable for the user edgerun runs as, and its file system not full",
    )
