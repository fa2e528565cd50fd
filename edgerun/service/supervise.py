"""The daemon's side of its supervision by systemd: when it is told what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from edgerun.clock import Clock
from edgerun.notify import Notifier
from edgerun.progress import Progress, Watch

_log = logging.getLogger(__name__)

_STATUS_EVERY_NS = 10_000_000_000


class Supervisor:
    """Says ready, reloading and stopping; pings while every watched thread makes progress. Driven by the main thread.

    Without systemd it does nothing.
    """

    def __init__(self, notifier: Notifier, progress: Progress, clock: Clock) -> None:
        self._notifier, self._progress, self._clock = notifier, progress, clock
        self._watch: Watch | None = None
        self._up = False
        self._status_due_ns = 0

    def loading(self, seconds: float, what: str) -> None:
        """Something that may take up to `seconds` begins, during which nothing is fed: a model is opened, say.

        Before `ready` the time to start is extended; after it the watchdog is made to wait longer, until `ready`.
        """
        period_s = self._notifier.watchdog_s
        if not self._up:
            self._notifier.extend(seconds, what)
        elif period_s is not None and seconds > period_s:
            self._notifier.set_watchdog(seconds)

    def ready(self, status: str) -> None:
        """Every thread runs: at the start, or again after a reload. Feeding begins."""
        self._up = True
        period_s = self._notifier.watchdog_s
        now_ns = self._clock.mono_ns()
        if period_s is not None:
            self._notifier.set_watchdog(period_s)
            period_ns = round(period_s * 1e9)
            self._watch = Watch(self._progress, period_ns, now_ns, self._notifier.ping, self._complain)
        self._notifier.ready(status)
        self._status_due_ns = now_ns + _STATUS_EVERY_NS

    def reloading(self) -> None:
        """A reload begins; `ready` ends it, also one that changed nothing."""
        self._notifier.reloading(self._clock.mono_ns())

    def feed(self, status: Callable[[], str] | None = None) -> None:
        """To be called at least once a second while it runs; `status` is asked for what `systemctl status` shows."""
        now_ns = self._clock.mono_ns()
        if self._watch is not None:
            self._watch.feed(now_ns)
        if status is not None and self._notifier.told and now_ns >= self._status_due_ns:
            self._status_due_ns = now_ns + _STATUS_EVERY_NS
            self._notifier.status(status())

    def stopping(self, why: str) -> None:
        """On the way down, which is limited by other means: nothing is fed any more."""
        self._watch = None
        self._notifier.stopping(why)

    def _complain(self, names: Sequence[str], seconds: float) -> None:
        if names:
            _log.error(
                "%s: no progress for %.0f s; after %g s systemd starts the daemon again",
                ", ".join(names),
                seconds,
                self._notifier.watchdog_s or 0.0,
            )
        else:
            _log.warning("there is progress again, after %.0f s", seconds)
