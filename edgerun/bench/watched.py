"""The child process of a live benchmark: the bare loop, or edgerun itself with a sink that reads each picture's stamp.

`python -m edgerun.bench.watched JOB` takes a `BareJob` or a `LiveJob` as JSON and prints its answer as a line of JSON.
The whole pipeline runs as `edgerun run` runs it: `App`, its threads and its main thread's turn, with result lines
written to /dev/null. A process of its own makes start-up time, CPU time and memory those of edgerun alone.
"""

from __future__ import annotations

import queue
import secrets
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgerun.bench.stamped import read_any_scale
from edgerun.decoding import decode
from edgerun.errors import EdgerunError, SourceError, StageError
from edgerun.secret import Kind
from edgerun.types import Publication

if TYPE_CHECKING:
    from edgerun.app import App
    from edgerun.pipeline.notice import NoticeBoard

_FIRST_RESULT_S = 30.0
_STOP_LIMIT_S = 4.0
_LOOK_S = 0.05
_DECODES = 40


class BareJob(msgspec.Struct, frozen=True, tag="bare"):
    """`seconds` of the bare loop of `model` (a bundled name or a path); `size` (pixels) of the camera's pictures."""

    model: str
    threads: int
    seconds: float
    size: tuple[int, int]
    key: tuple[Kind, str] | None = None
    """A `Subject`'s."""


class LiveJob(msgspec.Struct, frozen=True, tag="live"):
    """edgerun with `model` on the cameras at `urls`: `warmup_s` after the first result, `seconds` are measured."""

    model: str
    threads: int
    urls: tuple[str, ...]
    seconds: float
    warmup_s: float = 1.0
    max_age_ms: float = 1000.0
    key: tuple[Kind, str] | None = None
    """A `Subject`'s."""


class BareRun(msgspec.Struct, frozen=True):
    """The bare loop: the engine's `infer` back to back on inputs that lie ready.

    `picture_decode_ms` is what decoding one of the camera's pictures takes whole (median).
    """

    results_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    rss_mib: float | None
    picture_decode_ms: float


class WatchedRun(msgspec.Struct, frozen=True):
    """What the child saw. Ages in ms, one per result of the measured time, in order of publication.

    `age_ms` is from the stamp in the very picture that was inferred to the moment the sinks got the result,
    `own_age_ms` what edgerun itself says of the same results. `cpu_s` is the process's in the measured time, without
    the reading of stamps. `unreadable` pictures had no intact stamp; `backwards` results were not newer than their
    stream's last. `summary` is edgerun's own, of the whole run.
    """

    age_ms: list[float]
    own_age_ms: list[float]
    results: dict[str, int]
    seconds: float
    cpu_s: float
    pss_mib: float | None
    unreadable: int
    backwards: int
    summary: dict[str, Any]


class StampSink:
    """A sink that reads the stamp of every picture a result is about, and keeps the ages of the measured time.

    That time begins `warmup_s` after the first result and ends `seconds` later; then `done` is set.
    """

    wants_picture = True
    broken = False

    def __init__(self, warmup_s: float, seconds: float) -> None:
        self.first = threading.Event()
        self.done = threading.Event()
        self.age_ms = array("d")
        self.own_age_ms = array("d")
        self.results: dict[str, int] = {}
        self.unreadable = 0
        self.backwards = 0
        self.seconds = 0.0
        self.cpu_s = 0.0
        self._warmup_ns, self._measured_ns = round(warmup_s * 1e9), round(seconds * 1e9)
        self._begin_ns: int | None = None
        self._began_ns = 0
        self._last: dict[str, int] = {}
        self._cpu_ns = self._reading_ns = 0

    def publish(self, publication: Publication) -> None:
        now_ns = time.monotonic_ns()
        reading_ns = time.thread_time_ns()
        if self._begin_ns is None:
            self._begin_ns = now_ns + self._warmup_ns
            self.first.set()
        if now_ns >= self._begin_ns and not self.done.is_set():
            if not self._began_ns:
                self._began_ns, self._cpu_ns, self._reading_ns = now_ns, time.process_time_ns(), 0
                reading_ns = time.thread_time_ns()
            else:  # of the results on the edges of the measured time, the one that ends it counts
                self._take(publication, now_ns)
                if now_ns - self._began_ns >= self._measured_ns:
                    self._reading_ns += time.thread_time_ns() - reading_ns
                    self._end(now_ns)
                    return
        self._reading_ns += time.thread_time_ns() - reading_ns

    def flush(self, timeout_s: float) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""

    def _take(self, publication: Publication, now_ns: int) -> None:
        result = publication.result
        stream = result.stamp.stream
        self.results[stream] = self.results.get(stream, 0) + 1
        stamp = read_any_scale(result.lease.image) if result.lease is not None else None
        if stamp is None:
            self.unreadable += 1
            return
        number, made_ns = stamp
        self.backwards += number <= self._last.get(stream, -1)
        self._last[stream] = number
        self.age_ms.append((now_ns - made_ns) / 1e6)
        self.own_age_ms.append(publication.age_ms)

    def _end(self, now_ns: int) -> None:
        self.seconds = (now_ns - self._began_ns) / 1e9
        self.cpu_s = (time.process_time_ns() - self._cpu_ns - self._reading_ns) / 1e9
        self.done.set()


def run_bare(job: BareJob) -> BareRun:
    """Raises what opening and running the model raises."""
    from edgerun.bench.engine import Plan, measure
    from edgerun.bench.subject import Subject

    report = measure(Subject(job.model, threads=job.threads, key=job.key), Plan(rounds=1, duration_s=job.seconds))
    return BareRun(
        results_per_s=report.throughput_per_s,
        p50_ms=report.latency_ms["p50"],
        p99_ms=report.latency_ms["p99"],
        cpu_ms=report.cpu_ms_per_inference,
        rss_mib=report.rss_mib,
        picture_decode_ms=_picture_decode_ms(job.size),
    )


def _picture_decode_ms(size: tuple[int, int]) -> float:
    import cv2
    import numpy as np

    from edgerun.bench.camera import load_pictures
    from edgerun.bench.samples import median

    (picture,) = load_pictures(None, size, 80, most=1)
    data = np.frombuffer(picture.stamped(0, 0), np.uint8)
    took_ns = []
    for _ in range(_DECODES):
        began_ns = time.perf_counter_ns()
        cv2.imdecode(data, cv2.IMREAD_COLOR)
        took_ns.append(time.perf_counter_ns() - began_ns)
    return round(median(took_ns) / 1e6, 3)


def run_watched(job: LiveJob) -> WatchedRun:
    """Raises `SourceError` when no result came in 30 s, `StageError` for a thread that died, and what `App` raises."""
    sink = StampSink(job.warmup_s, job.seconds)
    notices, app = _build(job, sink)
    pss_mib = None
    try:
        app.start()
        try:
            _turn(app, notices, sink, job)
            pss_mib = read_pss_mib()
        finally:
            app.stop(_STOP_LIMIT_S)
        summary = app.summary()
    finally:
        app.close()
    return WatchedRun(
        age_ms=[round(value, 4) for value in sink.age_ms],
        own_age_ms=[round(value, 4) for value in sink.own_age_ms],
        results=sink.results,
        seconds=sink.seconds,
        cpu_s=sink.cpu_s,
        pss_mib=pss_mib,
        unreadable=sink.unreadable,
        backwards=sink.backwards,
        summary=summary,
    )


def read_pss_mib(root: Path = Path("/")) -> float | None:
    """Proportional set size of this process, MiB (proc(5), smaps_rollup); None where the kernel does not tell."""
    try:
        text = (root / "proc/self/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    found = [line.split() for line in text.splitlines() if line.startswith("Pss:")]
    return round(int(found[0][1]) / 1024, 1) if found else None


def _build(job: LiveJob, sink: StampSink) -> tuple[NoticeBoard, App]:
    from edgerun.app import App
    from edgerun.bench.subject import Subject
    from edgerun.clock import SystemClock
    from edgerun.config import Config, ModelConfig, RunOptions, SourceConfig, StreamConfig
    from edgerun.models.finding import model_path
    from edgerun.pipeline.notice import NoticeBoard
    from edgerun.registry import resolve

    options_of = resolve("source", "mjpeg").options
    streams = {
        f"camera-{number}": StreamConfig(SourceConfig("mjpeg", options_of(url=url)), "model", max_age_ms=job.max_age_ms)
        for number, url in enumerate(job.urls)
    }
    key = Subject(job.model, key=job.key).secret
    config = Config({"model": ModelConfig(model_path(job.model), threads=job.threads, key=key)}, streams)
    notices = NoticeBoard()
    options = RunOptions(jsonl="/dev/null", console=False)
    app = App(config, options, SystemClock(), notices, secrets.token_hex(4), observers=(sink,))
    return notices, app


def _turn(app: App, notices: NoticeBoard, sink: StampSink, job: LiveJob) -> None:
    """The main thread's loop, as the daemon's, until the measured time is over."""
    from edgerun.pipeline.notice import StopRequested, StreamNotice, ThreadDied

    clock = app.clock
    limit_ns = clock.mono_ns() + round(_FIRST_RESULT_S * 1e9)
    running = False
    reasons: dict[str, str] = {}
    while not sink.done.is_set():
        if sink.first.is_set() and not running:
            running = True
            limit_ns = clock.mono_ns() + round((job.warmup_s + job.seconds + _FIRST_RESULT_S) * 1e9)
        if clock.mono_ns() >= limit_ns:
            what = "results stopped coming" if running else f"no result came in {_FIRST_RESULT_S:g} s"
            got = "; ".join(f"{stream}: {reason}" for stream, reason in reasons.items() if reason)
            raise SourceError(what, where=", ".join(job.urls), got=got or "silence")
        try:
            notice = notices.get(timeout=_LOOK_S)
        except queue.Empty:
            app.tick()
            continue
        if isinstance(notice, ThreadDied):
            raise StageError(f"{notice.thread} died: {notice.error}") from notice.error
        if isinstance(notice, StopRequested):
            raise StageError(f"the run ended before its time: {notice.reason}")
        if isinstance(notice, StreamNotice):
            reasons[notice.stream] = notice.reason
            app.saying.stream(notice)


def main() -> int:
    """Do the job of the command line; returns the exit code."""
    try:
        job = decode(sys.argv[1], BareJob | LiveJob)
        answer = run_bare(job) if isinstance(job, BareJob) else run_watched(job)
    except EdgerunError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
