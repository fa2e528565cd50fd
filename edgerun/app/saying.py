"""What happens in a run, said: in the log, in the streams' states and as events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from edgerun.app.opening import LoadedModel
from edgerun.config import Config
from edgerun.pipeline.notice import EngineNotice, InputNotice, StreamNotice
from edgerun.ports import Broker
from edgerun.telemetry.reporter import Reporter
from edgerun.telemetry.states import StateKeeper

if TYPE_CHECKING:
    from edgerun.app.governing import News
    from edgerun.spool.notices import Notice as SpoolNotice

_log = logging.getLogger(__name__)


class Saying:
    """Used by the main thread. `broker` None: there is only the log."""

    def __init__(
        self,
        config: Config,
        models: Mapping[str, LoadedModel],
        states: StateKeeper,
        reporter: Reporter,
        broker: Broker | None,
    ) -> None:
        self._config, self._models, self._states = config, models, states
        self._reporter, self._broker = reporter, broker
        self.journal: Callable[[str, str, str | None], None] = _nowhere
        """Where what happens is noted besides: kind, text, stream."""

    def renew(self, config: Config) -> None:
        """The run is another from now on."""
        self._config = config

    def changed(self, swapped: Collection[str]) -> None:
        """Other models run: tell on what, and whether that is what should be."""
        for name, stream in self._config.streams.items():
            if not swapped or set(stream.models) & set(swapped):
                accelerator = self._models[stream.models[0]].engine.info.accelerator
                self._states.set_engine(name, self._why_degraded(name), accelerator)

    def note(self, kind: str, text: str, stream: str | None = None) -> None:
        """Publish something that was logged already."""
        self.journal(kind, text, stream)
        if self._broker is not None:
            self._reporter.send_event(self._broker, kind, text, stream)

    def stream(self, notice: StreamNotice) -> None:
        """Log and publish that a stream's state changed."""
        if notice.stream not in self._config.streams:  # it has been removed
            return
        if notice.state == "running" and (why := self._why_degraded(notice.stream)):
            notice = StreamNotice(notice.stream, "degraded", why)
        level = logging.WARNING if notice.state in {"stalled", "degraded"} else logging.INFO
        _log.log(level, "stream %s %s%s", notice.stream, notice.state, f": {notice.reason}" if notice.reason else "")
        self._states.set_state(notice.stream, notice.state, notice.reason)
        self.journal(notice.state, notice.reason or "frames come", notice.stream)
        if self._broker is not None:
            self._reporter.send_states(self._broker)
            if notice.reason:  # coming up at the start is no event
                self._reporter.send_event(self._broker, notice.state, notice.reason, notice.stream)

    def engine(self, notice: EngineNotice) -> None:
        """Log and publish that an engine runs on another accelerator now, or on none."""
        recovered = notice.event == "recovered"
        level = logging.INFO if recovered else logging.WARNING
        lost = notice.event == "lost"
        now = "nothing takes its place" if lost else f"now on {notice.accelerator}"
        _log.log(level, "model %s %s: %s (%s)", notice.model, notice.event, notice.reason, now)
        where = notice.model if lost else f"{notice.model} on {notice.accelerator}"
        self.journal(notice.event, f"{where}: {notice.reason}", None)
        for name, stream in self._config.streams.items():
            if notice.model in stream.models:
                why = self._why_degraded(name)
                accelerator = notice.accelerator if notice.model == stream.models[0] else None
                self._states.set_engine(name, why, accelerator)
                if self._broker is not None:
                    self._reporter.send_event(self._broker, notice.event, notice.reason, name)
        if self._broker is not None:
            self._reporter.send_states(self._broker)

    def _why_degraded(self, stream: str) -> str:
        """Which of the stream's models does not run where it should, and why; empty where all do."""
        fallbacks = {
            name: self._models[name].engine.info.fallbacks
            for name in self._config.streams[stream].models
            if self._models[name].engine.info.fallbacks
        }
        return "; ".join(f"{name} without {lost[-1][0]}: {lost[-1][1]}" for name, lost in fallbacks.items())

    def device(self, news: News) -> None:
        """Log and publish what the device did for its own sake, or met with."""
        calm = news.kind in ("recovered", "unthrottled", "quiet", "quiet_over")
        _log.log(logging.INFO if calm else logging.WARNING, "%s: %s", news.kind, news.text)
        self.journal(news.kind, news.text, None)
        for stream, why in news.streams.items():
            if stream in self._config.streams:
                self._states.set_held(stream, why)
        if self._broker is not None:
            self._reporter.send_event(self._broker, news.kind, news.text)
            self._reporter.send_states(self._broker)

    def input(self, notice: InputNotice) -> None:
        """Log and publish that what a stream is given is not what it should be, or is again."""
        if notice.stream not in self._config.streams:
            return
        level = logging.WARNING if notice.present else logging.INFO
        _log.log(level, "stream %s: input %s: %s", notice.stream, notice.fault, notice.text)
        self._states.set_fault(notice.stream, notice.fault, notice.present)
        self.journal(notice.event, notice.text, notice.stream)
        if self._broker is not None:
            self._reporter.send_event(self._broker, notice.event, notice.text, notice.stream)

    def spool(self, notices: Sequence[SpoolNotice]) -> None:
        """Publish what the spool met with; it has logged it."""
        for one in notices:
            self.journal(one.kind, one.text, None)
            if self._broker is not None:
                self._reporter.send_event(self._broker, one.kind, one.text)


def _nowhere(kind: str, text: str, stream: str | None) -> None:
    """Nobody keeps a log of events here."""
