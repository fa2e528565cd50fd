"""The running daemon: signals, the main thread's turn of notices and telemetry, limits, and the order of the end."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from edgerun.app import App
from edgerun.clock import SystemClock
from edgerun.config import Config, RunOptions
from edgerun.errors import EdgerunError, SourceError, StageError
from edgerun.pipeline.notice import (
    NoticeBoard,
    StopRequested,
    StreamNotice,
    ThreadDied,
    ThreadEnded,
)

_log = logging.getLogger(__name__)

_STOP_LIMIT_S = 4.0  # of the 5 s that systemd and users are promised; the rest is the interpreter's
_DRAIN_LIMIT_S = 60.0  # at the natural end of the data nothing presses


def serve(config: Config, options: RunOptions) -> dict[str, Any]:
    """Run until a signal, a limit of `options`, the end of all sources or a fault; returns the summary of contracts.md.

    Must be called on the main thread (it installs signal handlers). Raises `EdgerunError`: at once for what cannot
    start, after an orderly stop for a stage that died (`StageError` naming its thread).
    """
    notices: NoticeBoard = NoticeBoard()
    with _signals(notices):
        app = App(config, options, SystemClock(), notices, run_id=secrets.token_hex(4))
        try:
            app.start()
            return _Turn(app, options, notices).run()
        finally:
            app.close()


class _Turn:
    """The main thread's loop."""

    def __init__(self, app: App, options: RunOptions, notices: NoticeBoard) -> None:
        self._app = app
        self._options = options
        self._notices = notices
        self._clock = app.clock
        self._captures_left = {f"capture:{capture.stream}" for capture in app.pipeline.captures}
        self._last_reason: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        began_ns = self._clock.mono_ns()
        until_ns = began_ns + round(self._options.seconds * 1e9) if self._options.seconds else None
        death: ThreadDied | None = None
        limit_s = _STOP_LIMIT_S
        while True:
            notice = self._next_notice(until_ns)
            if isinstance(notice, StopRequested):
                _log.info("stopping: %s", notice.reason)
                break
            if isinstance(notice, ThreadDied):
                death = notice
                break
            if isinstance(notice, StreamNotice):
                self._last_reason[notice.stream] = notice.reason
                self._app.tell(notice)
            elif isinstance(notice, ThreadEnded):
                self._captures_left.discard(notice.thread)
                if not self._captures_left:
                    limit_s = _DRAIN_LIMIT_S
                    break
            self._app.tick()
        try:
            self._app.stop(limit_s)
        except StageError as error:
            if death is None:
                raise
            _log.error("%s", error)
        if death is not None:
            raise _told(death)
        summary = self._app.summary()
        self._complain_if_nothing_came(summary)
        return summary

    def _next_notice(self, until_ns: int | None) -> Any:
        """The next notice, or None when it is time for a tick; `StopRequested` when `until_ns` has come."""
        now_ns = self._clock.mono_ns()
        wake_ns = self._app.next_tick_ns()
        if until_ns is not None:
            if now_ns >= until_ns:
                return StopRequested(f"{self._options.seconds:g} s have passed")
            wake_ns = min(wake_ns, until_ns)
        try:
            return self._notices.get(timeout=max(0.0, (wake_ns - now_ns) / 1e9))
        except queue.Empty:
            return None

    def _complain_if_nothing_came(self, summary: dict[str, Any]) -> None:
        if self._options.seconds is None or any(s["grabbed"] for s in summary["streams"].values()):
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
    error = StageError(
        f"{death.thread} died: {type(death.error).__name__}: {death.error}",
        remedy="this is a fault of edgerun or of a library under it; --debug shows where",
    )
    error.__cause__ = death.error
    return error


@contextmanager
def _signals(notices: NoticeBoard) -> Iterator[None]:
    """SIGINT and SIGTERM ask for the end, a second one takes it at once; SIGHUP is told that there is no reload yet."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        notices.put(StopRequested(signal.Signals(number).name))

    def no_reload(number: int, frame: FrameType | None) -> None:
        _log.warning("SIGHUP: this version does not reload; restart the service to apply a changed config")

    handlers = {signal.SIGINT: ask, signal.SIGTERM: ask, signal.SIGHUP: no_reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
