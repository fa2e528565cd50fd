"""The last seconds of every frame's life as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

A ring of the newest ends of frames, in constant memory: results come as to a sink, the other ends from the accounts'
`watch`. It is always written, so that it can be asked for what has just happened: about a microsecond a frame. Each
frame is an asynchronous span from its capture to its end, with its stages inside and its fate on it; each stream is a
track, and each engine one with its inferences. Format: N. Duca, D. Sinclair, Trace Event Format (Google, 2016).
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgerun import __version__
from edgerun.clock import Clock
from edgerun.errors import ConfigError, DeviceError
from edgerun.meter import FATES, STAGES, Stamped, Watch
from edgerun.types import Publication

ENTRIES = 8192
"""Ends of frames that are kept, 70 bytes each: a minute of four cameras at 30 frames a second."""

_ROW = struct.Struct(f"<qqq{len(STAGES)}qHHBB")
"""Ended, seq, captured, what each stage took (ns), the number of its lane, of its reason or note, of its fate, and
whether its stages are known. Packed, a ring of thousands costs neither allocations nor the collector's time."""
_UNKNOWN = -(1 << 63)
_MOST_NAMES = 1000

_Event = dict[str, Any]


class FrameEnd(NamedTuple):
    """One frame's end. `stages_ns` in the order of `STAGES`, None where one was not gone through; empty where none is
    known. `seq` and `captured_ns` are None where whoever counted it did not say.
    """

    ended_ns: int
    stream: str
    model: str
    fate: str
    reason: str | None = None
    seq: int | None = None
    captured_ns: int | None = None
    stages_ns: tuple[int | None, ...] = ()
    note: str | None = None


class Trace:
    """Keeps the newest ends of frames; a sink for results. Thread-safe."""

    wants_picture = False
    broken = False

    def __init__(self, device: str, clock: Clock, *, entries: int = ENTRIES) -> None:
        self._device = device
        self._clock = clock
        self._lock = threading.Lock()
        self._entries = entries
        self._rows = bytearray(_ROW.size * entries)
        self._told = 0
        self._lanes = _Names(("", ""))
        self._words = _Names(None)
        self._fates = {fate: number for number, fate in enumerate(FATES)}

    def watch(self, stream: str, model: str) -> Watch:
        """For `Account.watch` of one lane; `model` as results name it (the bundle's name)."""

        def ended(fate: str, reason: str | None, stamp: Stamped | None) -> None:
            if fate == "published":  # it was given to `publish`, with more of it
                return
            seq, captured_ns = (_UNKNOWN, _UNKNOWN) if stamp is None else (stamp.seq, stamp.captured_ns)
            self._add(self._clock.mono_ns(), (stream, model), fate, reason, seq, captured_ns, _NO_STAGES, 0)

        return ended

    def publish(self, publication: Publication) -> None:
        """Keep when this result went through each stage."""
        result = publication.result
        stamp, spent_ns = result.stamp, result.latency_ns
        self._add(
            stamp.captured_ns + round(publication.age_ms * 1e6),
            (stamp.stream, result.model.name),
            "published",
            "crop" if result.crop is not None else result.reused,
            stamp.seq,
            stamp.captured_ns,
            [spent_ns.get(stage, _UNKNOWN) for stage in STAGES],
            1,
        )

    def flush(self, timeout_s: float) -> None:
        """Nothing is on its way here."""

    def close(self) -> None:
        """Nothing is held."""

    def ends(self, seconds: float | None = None, most: int | None = None) -> list[FrameEnd]:
        """What ended in the last `seconds` (None: all that is kept), in the order in which it was told; of more than
        `most` the newest.
        """
        since_ns = _UNKNOWN if seconds is None else self._clock.mono_ns() - round(seconds * 1e9)
        with self._lock:
            rows, told = bytes(self._rows), self._told
        first = max(0, told - min(self._entries, told if most is None else most))
        read = (_ROW.unpack_from(rows, number % self._entries * _ROW.size) for number in range(first, told))
        return [self._end(row) for row in read if row[0] >= since_ns]

    def encode(self, seconds: float | None = None, most: int | None = None) -> bytes:
        """The trace of the last `seconds` as JSON; of more than `most` frames the newest."""
        return self.encode_ends(self.ends(seconds, most))

    def encode_ends(self, ends: Sequence[FrameEnd]) -> bytes:
        """The trace of these ends as JSON."""
        told = {"device": self._device, "version": __version__, "unix_s": round(self._clock.unix_s(), 3)}
        return msgspec.json.encode({"traceEvents": trace_events(ends), "displayTimeUnit": "ms", "otherData": told})

    def write(self, path: Path, seconds: float | None = None) -> None:
        """The trace as a file, whole or not at all. Raises `DeviceError`."""
        write_whole(path, self.encode(seconds))

    def _add(
        self,
        ended_ns: int,
        lane: tuple[str, str],
        fate: str,
        word: str | None,
        seq: int,
        captured_ns: int,
        stages_ns: Sequence[int],
        known: int,
    ) -> None:
        with self._lock:
            _ROW.pack_into(
                self._rows,
                self._told % self._entries * _ROW.size,
                ended_ns,
                seq,
                captured_ns,
                *stages_ns,
                self._lanes.number(lane),
                self._words.number(word),
                self._fates[fate],
                known,
            )
            self._told += 1

    def _end(self, row: tuple[int, ...]) -> FrameEnd:
        ended_ns, seq, captured_ns, *stages_ns, lane, word, fate, known = row
        stream, model = self._lanes.names[lane]
        said = self._words.names[word]
        published = FATES[fate] == "published"
        return FrameEnd(
            ended_ns,
            stream,
            model,
            FATES[fate],
            None if published else said,
            _or_none(seq),
            _or_none(captured_ns),
            tuple([_or_none(spent) for spent in stages_ns]) if known else (),
            said if published else None,
        )


class _Names:
    """What is named again and again, by numbers: a run has a few lanes, and a few reasons. What finds no room any more
    is called `first`.
    """

    def __init__(self, first: Any) -> None:
        self.names: list[Any] = [first]
        self._numbers: dict[Any, int] = {first: 0}

    def number(self, name: Any) -> int:
        found = self._numbers.get(name)
        if found is None:
            if len(self.names) > _MOST_NAMES:
                return 0
            found = self._numbers[name] = len(self.names)
            self.names.append(name)
        return found


_NO_STAGES = (_UNKNOWN,) * len(STAGES)


def _or_none(value: int) -> int | None:
    return None if value == _UNKNOWN else value


def check_target(path: Path) -> None:
    """Raises `ConfigError` unless a trace can be written there: better now than at the end of the run."""
    what, remedy = "cannot write a trace there", "name a file in a folder that exists and that this user may write to"
    if path.is_dir():
        raise ConfigError(what, where=path, expected="a file", got="a folder", remedy="name a file in that folder")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:64]}."):
            pass
    except OSError as error:
        raise ConfigError(what, where=path, got=error.strerror, remedy=remedy) from error


def write_whole(path: Path, trace: bytes) -> None:
    """An encoded trace as a file that only its owner may read, whole or not at all. Raises `DeviceError`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.touch(mode=0o600)
        beside.write_bytes(trace)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DeviceError(
            "the trace cannot be written there",
            where=path,
            got=error.strerror or error,
            remedy="name a file in a folder that exists and that this user may write to",
        ) from error


def trace_events(ends: Sequence[FrameEnd]) -> list[_Event]:
    """The events of the format, sorted by time; `ts` and `dur` in µs of the monotonic clock."""
    streams = {name: pid for pid, name in enumerate(sorted({end.stream for end in ends}), 1)}
    models = sorted({end.model for end in ends if _infer_ns(end) is not None})
    engines = {name: pid for pid, name in enumerate(models, len(streams) + 1)}
    events: list[_Event] = []
    for number, end in enumerate(ends):
        events += _span(end, streams[end.stream], number) if end.captured_ns is not None else [_instant(end, streams)]
    events += _inferences(ends, engines)
    events.sort(key=lambda event: event["ts"])  # stable: what begins together stays nested
    named = [*(("stream", name, pid) for name, pid in streams.items()), *(("engine", n, p) for n, p in engines.items())]
    return [*(_named(f"{kind} {name}", pid) for kind, name, pid in named), *events]


def _named(name: str, pid: int) -> _Event:
    return {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "ts": 0, "args": {"name": name}}


def _instant(end: FrameEnd, streams: dict[str, int]) -> _Event:
    at = {"ph": "i", "s": "t", "pid": streams[end.stream], "tid": 0, "ts": end.ended_ns / 1e3}
    return {**at, "name": end.fate, "cat": "frame", "args": _arguments(end)}


def _span(end: FrameEnd, pid: int, number: int) -> Iterator[_Event]:
    """A frame from capture to its end, its stages inside: the same `cat` and `id` nest."""
    assert end.captured_ns is not None, "whoever calls has looked"
    same = {"cat": "frame", "id": f"{number:x}", "pid": pid, "tid": 0}
    last_ns = max(end.ended_ns, end.captured_ns)
    yield {**same, "ph": "b", "name": "frame", "ts": end.captured_ns / 1e3, "args": _arguments(end)}
    at_ns = end.captured_ns
    for stage, spent_ns in _stages(end):
        until_ns = min(at_ns + spent_ns, last_ns)
        yield {**same, "ph": "b", "name": stage, "ts": at_ns / 1e3}
        yield {**same, "ph": "e", "name": stage, "ts": until_ns / 1e3}
        at_ns = until_ns
    yield {**same, "ph": "e", "name": "frame", "ts": last_ns / 1e3}


def _stages(end: FrameEnd) -> Iterator[tuple[str, int]]:
    """What it went through, the way to the sinks at last. A wait between preparing and inferring (batches, an engine
    that is busy) is shown before both.
    """
    for stage, spent_ns in zip(STAGES, end.stages_ns, strict=False):
        if spent_ns is not None:
            yield stage, spent_ns
    if end.stages_ns and end.captured_ns is not None:
        spent = sum(spent_ns or 0 for spent_ns in end.stages_ns)
        yield "outbox", max(0, end.ended_ns - end.captured_ns - spent)


def _inferences(ends: Iterable[FrameEnd], engines: dict[str, int]) -> Iterator[_Event]:
    """One slice an inference: the frames of a batch began and ended together."""
    found: dict[tuple[str, int, int], list[str]] = {}
    for end in ends:
        infer_ns = _infer_ns(end)
        if infer_ns is None or end.captured_ns is None:
            continue
        # capture + wait + preprocess is the time from capture to the launch, to the nanosecond.
        launched_ns = end.captured_ns + sum(spent or 0 for spent in end.stages_ns[: STAGES.index("infer")])
        found.setdefault((end.model, launched_ns, infer_ns), []).append(f"{end.stream} {end.seq}")
    for (model, launched_ns, infer_ns), frames in found.items():
        at = {"ph": "X", "pid": engines[model], "tid": 1, "ts": launched_ns / 1e3, "dur": infer_ns / 1e3}
        yield {**at, "name": "infer", "cat": "engine", "args": {"frames": frames}}


def _infer_ns(end: FrameEnd) -> int | None:
    at = STAGES.index("infer")
    return end.stages_ns[at] if len(end.stages_ns) > at else None


def _arguments(end: FrameEnd) -> dict[str, Any]:
    told: dict[str, Any] = {
        "fate": end.fate,
        "reason": end.reason,
        "seq": end.seq,
        "model": end.model,
        "note": end.note,
    }
    if end.captured_ns is not None:
        told["age_ms"] = round((end.ended_ns - end.captured_ns) / 1e6, 3)
    return {key: value for key, value in told.items() if value is not None}
