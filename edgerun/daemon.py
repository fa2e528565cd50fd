"""The running daemon: signals, the main thread's turn of notices and telemetry, limits, and the order of the end."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from edgerun.app import App
from edgerun.app.changing import Reread
from edgerun.clock import SystemClock
from edgerun.config import Config, RunOptions
from edgerun.errors import ConfigError, EdgerunError, SourceError, StageError
from edgerun.notify import Notifier
from edgerun.pipeline.notice import (
    Asked,
    EngineNotice,
    InputNotice,
    Notice,
    NoticeBoard,
    ReloadRequested,
    StopRequested,
    StreamNotice,
    ThreadDied,
    ThreadEnded,
)
from edgerun.ports import Sink
from edgerun.progress import Progress
from edgerun.service.supervise import Supervisor

_log = logging.getLogger(__name__)

_STOP_LIMIT_S = 4.0  # of the 5 s that systemd and users are promised; the rest is the interpreter's
_DELIVERY_LIMIT_S = 30.0
_KEPT_LIMIT_S = 1.0
"""At the end of the data, without a link: enough for the disk to take what is left."""
_IMPATIENT_NS = 1_000_000_000
_LOOK_S = 0.2  # how often the wait for the broker looks for a signal
_NEVER_NS = 1 << 62


def serve(
    config: Config,
    options: RunOptions,
    *,
    last: bool = False,
    observers: Sequence[Sink] = (),
    reread: Reread | None = None,
) -> dict[str, Any]:
    """Run until a signal, a limit of `options`, the end of all sources or a fault; returns the summary of contracts.md.

    Must be called on the main thread: it installs signal handlers, and with `last` (the process ends after this) leaves
    them there. `reread` gives the config again, for a reload; None: there is none to read. Raises `EdgerunError`: at
    once for what cannot start, after an orderly stop for a stage that died (`StageError` naming its thread).
    """
    notices: NoticeBoard = NoticeBoard()
    clock, progress = SystemClock(), Progress()
    notifier = Notifier.from_environment()
    supervisor = Supervisor(notifier, progress, clock)
    with _signals(notices, keep=last, supervised=notifier.told):
        app = App(
            config,
            options,
            clock,
            notices,
            run_id=secrets.token_hex(4),
            observers=observers,
            progress=progress,
            on_loading=supervisor.loading,
            reread=reread,
        )
        code = 1
        try:
            if notices.empty():  # else a signal came while the models were loading
                app.start()
                supervisor.ready(app.status_line())
            account = _Turn(app, options, notices, supervisor).run()
            code = 1 if "incomplete" in account else 0
            return account
        finally:
            app.close()
            if app.held:
                atexit.register(_leave, app, code)


class _Turn:
    """The main thread's loop."""

    def __init__(self, app: App, options: RunOptions, notices: NoticeBoard, supervisor: Supervisor) -> None:
        self._app = app
        self._supervisor = supervisor
        self._options = options
        self._notices = notices
        self._clock = app.clock
        self._until_ns = _NEVER_NS
        self._time_is_up = self._has_ended = self._is_cut_short = False
        self._last_reason: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        if self._options.seconds is not None:
            self._until_ns = self._clock.mono_ns() + round(self._options.seconds * 1e9)
        hung: StageError | None = None
        try:
            death = self._run_to_its_end()
            self._app.fell = death is not None
        finally:
            self._supervisor.stopping("stopping")
            try:
                self._app.stop(_KEPT_LIMIT_S if self._has_ended and self._app.kept() else _STOP_LIMIT_S)
            except StageError as error:
                hung = error
        if death is not None:
            if hung is not None:
                _log.error("%s", hung)
            raise _told(death)
        if hung is not None:
            raise hung
        summary = self._app.summary()
        self._complain_if_nothing_came(summary)
        ended = self._has_ended or self._time_is_up
        if incomplete := self._app.shortfalls(ended=ended, awaited=not self._is_cut_short):
            summary["incomplete"] = incomplete
        return summary

    def _run_to_its_end(self) -> ThreadDied | None:
        """Take notices and turns of telemetry until somebody asks for the end, the data ends or a thread dies."""
        while True:
            notice = self._next_notice()
            if isinstance(notice, ThreadDied):
                return notice
            if isinstance(notice, StopRequested):
                _log.info("stopping: %s", notice.reason)
                return None
            if isinstance(notice, ThreadEnded) and notice.thread == "publish":
                self._has_ended = True
                self._wait_for_delivery()
                return None
            if isinstance(notice, StreamNotice):
                self._last_reason[notice.stream] = notice.reason
                self._app.saying.stream(notice)
            if isinstance(notice, EngineNotice):
                self._app.saying.engine(notice)
            if isinstance(notice, InputNotice):
                self._app.saying.input(notice)
            if isinstance(notice, ReloadRequested):
                self._reload(notice.reason)
            if isinstance(notice, Asked):
                notice.do()
            self._app.tick()
            self._supervisor.feed(self._app.status_line)

    def _reload(self, reason: str) -> None:
        """Have the config read again; systemd is told when that is done, whatever came of it."""
        _log.info("%s: the config is read again", reason)
        try:
            self._app.reload(lambda outcome: self._supervisor.ready(self._app.status_line()))
        except ConfigError as error:
            _log.warning("%s: %s", reason, error)
            return
        self._supervisor.reloading()

    def _wait_for_delivery(self) -> None:
        """At the natural end of the data nothing presses: the broker gets time to take what is left, until a signal.
        Where there is no link the disk has it, and whoever comes next sends it.
        """
        until_ns = min(self._until_ns, self._clock.mono_ns() + round(_DELIVERY_LIMIT_S * 1e9))
        if self._app.delivered(_LOOK_S) or self._app.kept():
            return
        _log.warning("the data has ended; waiting up to %g s for the broker to take what is left", _DELIVERY_LIMIT_S)
        while self._notices.empty() and self._clock.mono_ns() < until_ns:
            if self._app.delivered(_LOOK_S) or self._app.kept():
                return
            self._supervisor.feed()
        self._is_cut_short = not self._notices.empty()

    def _next_notice(self) -> Notice | None:
        """The next notice, or None when it is time for a tick; `StopRequested` when the run has had its seconds."""
        now_ns = self._clock.mono_ns()
        if now_ns >= self._until_ns:
            self._time_is_up = True
            return StopRequested(f"{self._options.seconds:g} s have passed")
        wake_ns = min(self._app.next_tick_ns(), self._until_ns)
        try:
            return self._notices.get(timeout=max(0.0, (wake_ns - now_ns) / 1e9))
        except queue.Empty:
            return None

    def _complain_if_nothing_came(self, summary: dict[str, Any]) -> None:
        if not self._time_is_up or any(s["grabbed"] for s in summary["streams"].values()):
            return
        reasons = {name: reason for name, reason in self._last_reason.items() if reason}
        raise SourceError(
            f"not one frame came in {self._options.seconds:g} s",
            where=", ".join(summary["streams"]),
            got="; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "silence",
        )


def _told(death: ThreadDied) -> EdgerunError:
    """A thread's death as an error that names it; the operator's own errors keep their kind."""
    if isinstance(death.error, EdgerunError) and death.thread.startswith("capture:"):
        return death.error
    if isinstance(death.error, EdgerunError):  # it says itself what to do
        error = StageError(f"{death.thread} died: {death.error}")
    else:
        error = StageError(
            f"{death.thread} died: {type(death.error).__name__}: {death.error}",
            remedy="this is a fault of edgerun or of a library under it; --debug shows where",
        )
    error.__cause__ = death.error
    return error


def _leave(app: App, code: int) -> None:
    """At the interpreter's exit: end the process at once if a driver or a runtime still holds a thread of `app`.

    Should such a thread come back while the interpreter is taken down, Python ends it where it stands, and the C++
    under it calls `std::terminate`: SIGABRT after a clean run.
    """
    if app.held:
        for out in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # gone, closed, or never there
                out.flush()
        os._exit(code)


@contextmanager
def _signals(notices: NoticeBoard, *, keep: bool, supervised: bool) -> Iterator[None]:
    """SIGINT and SIGTERM ask for the end; one more, a second or later, takes it at once.

    Sooner it is the same wish twice: `timeout` signals the process and then its group. SIGHUP asks for the end where
    there is a terminal that can hang up; elsewhere, and where `supervised` by systemd, for the config to be read again.
    `keep` leaves the handlers in place: a signal that comes while the process ends must not make a crash of a clean
    end.
    """
    asked_ns: int | None = None
    clock = SystemClock()
    on_terminal = any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked_ns
        now_ns = clock.mono_ns()
        if asked_ns is None:
            asked_ns = now_ns
            notices.put(StopRequested(signal.Signals(number).name))
        elif now_ns - asked_ns >= _IMPATIENT_NS:
            os._exit(128 + number)

    def reload(number: int, frame: FrameType | None) -> None:
        notices.put(ReloadRequested("SIGHUP"))

    hangs_up = on_terminal and not supervised
    handlers = {signal.SIGINT: ask, signal.SIGTERM: ask, signal.SIGHUP: ask if hangs_up else reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        if not keep:
            for number, handler in before.items():
                signal.signal(number, handler)
