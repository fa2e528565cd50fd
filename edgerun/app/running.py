"""The running whole: started, ticked, reloaded and stopped."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerun.app.assembling import Assembly
from edgerun.app.reloading import Done
from edgerun.device.load import process_started_ns
from edgerun.errors import DeviceError
from edgerun.notify import status_line
from edgerun.pipeline.pulse import BEAT_S
from edgerun.telemetry import payload

if TYPE_CHECKING:  # MQTT and TLS cost 30 ms and 6 MiB that a run without a broker need not pay
    from edgerun.broker.connection import Connection

_log = logging.getLogger(__name__)

_PAGE_AFTER_NS = 2_000_000_000
_BASELINE_GRACE_S = 30.0
_RELOAD_END_S = 0.5
_EXEC_AFTER_NS = 5_000_000_000  # no interpreter takes this long to get here, not even on the smallest board

_NOT_MISSED = ("unsaid", "offline", "expired")  # the next start says it, it was never promised, it is of no use now


class App(Assembly):
    """A running edgerun: opens everything at construction, owns it until `close`.

    Driven by one thread (`daemon`'s). Construction raises what cannot start, with everything opened so far closed.
    `observers` are sinks besides those of the config, whose owner closes them; the picture they are given is the one
    that was inferred, possibly decoded at a reduced scale. `progress` watches its threads. `on_loading` is told before
    each model how many seconds that may take, and what it is. `reread` reads the config again, for `reload`.
    """

    def start(self) -> None:
        """Connect and start every thread. From now on `tick` is to be called when `next_tick_ns` says so."""
        self._pulse.beat()
        # What is there now stays: the collector need not walk through it again and again.
        gc.collect()
        gc.freeze()
        # Else a full collection would wait for garbage worth a quarter of what is frozen: two megabytes in ten minutes.
        gc.collect()
        if self._broker is not None:
            self._broker.start()
            self._progress.observe("mqtt", partial(_moves, self._broker))
        if self._governing is not None:
            if rest_s := self._parts.config.sensors.baseline_s:
                self._on_loading(rest_s + _BASELINE_GRACE_S, "measuring the device at rest")
            self._governing.start()
        if self._control is not None:
            self._control.start()
        if self._broker is not None and self._reporting.posture()["insecure"]:
            text = "insecure is set: the broker's certificate is not verified, anyone on the way can read and forge"
            self._reporter.send_event(self._broker, "insecure", text)
        self.pipeline.start()
        self._begun_ns = self.clock.mono_ns()

    def stop(self, limit_s: float) -> None:
        """End the pipeline in data order, flush the sinks and say goodbye to the broker, all within `limit_s`.

        Raises `StageError` naming a thread that would not end. To be called once.
        """
        deadline_ns = self.clock.mono_ns() + round(limit_s * 1e9)
        self._progress.forget("mqtt")
        if self._page is not None:
            self._page.close()
        if self._control is not None:
            self._control.close()
        if self._rolling is not None:
            self._rolling.stop(well=not self.fell)
        self.changing.stop()
        self._close_governing()
        try:
            stuck = self.pipeline.stop(limit_s * 0.7)
            if stuck:
                told = "still held by a driver, or by a large folder; given up, no frame is lost with it"
                _log.warning("%s: %s", ", ".join(stuck), told)
        finally:
            self._reloading.close(_RELOAD_END_S)
            self._ended = self._ledger.run()
            if self._options.trace is not None:
                try:
                    self._trace.write(self._options.trace)
                except DeviceError as error:
                    _log.error("%s", error)
                    self._untraced = [str(error)]
            self._forget_what_is_held(self.pipeline.held)
            broker = self._broker
            self._tell_of_spool(last=True)
            if broker is not None:
                self._states.end_all("edgerun was stopped")
                self._reporter.send_states(broker)
            for sink in self._sinks:
                sink.flush(self._left_s(deadline_ns) * 0.6)
            if broker is not None:
                self._broker = None  # `close` need not wait for it again
                broker.stop(self._left_s(deadline_ns))
                self._delivery = broker.stats()

    def _tell_of_spool(self, *, last: bool = False) -> None:
        if self._spool is not None:
            self.saying.spool(self._spool.take_notices(last=last))

    def reload(self, done: Done) -> None:
        """Have what the config says now run, beside the streams that it leaves as they are; `done` is told by the main
        thread what became of it. Raises `ConfigError` where this run has no config to read again.
        """
        self.changing.reload(done)

    def swap_model(self, name: str, path: Path, done: Done) -> None:
        """Have the model called `name` follow by the one at `path`; `done` is told by the main thread what became of
        it. A reload takes it back where the config names another. Raises `ConfigError` for a name that nobody uses.
        """
        self.changing.swap_model(name, path, done)

    @property
    def held(self) -> bool:
        """Whether a thread has not ended: a driver holds it, or it is opening a model."""
        return bool(self.pipeline.held) or self._reloading.busy

    def delivered(self, timeout_s: float) -> bool:
        """Whether the broker, where there is one, has acknowledged everything; waits up to `timeout_s` for it."""
        return self._broker is None or self._broker.flush(timeout_s)

    def kept(self) -> bool:
        """Whether there is no link to the broker, and the disk keeps what it is to have until there is one."""
        broker, spool = self._broker, self._spool
        return broker is not None and not broker.connected and spool is not None and spool.keeps

    def next_tick_ns(self) -> int:
        """When `tick` has something to do next (monotonic ns)."""
        beat_ns = self.clock.mono_ns() + round(BEAT_S * 1e9)
        return min(beat_ns, self._reporter.next_due_ns()) if self._broker is not None else beat_ns

    def tick(self) -> None:
        """Say that the process runs, and publish what is due."""
        self._pulse.beat()
        self._heap.tick(self.clock.mono_ns())
        self._tell_of_spool()
        if self._broker is not None and self._reporter.tick(self._broker):
            self._telling.look(self._reporter.latest)
        self._telling.tick()
        self.changing.tick()
        if self._rolling is None and self._reread is not None and self._control is not None and self._is_under_way():
            self._rollouts()
        if self._rolling is not None:
            self._rolling.tick()
        if self._entrance is not None and self._page is None and self._is_under_way():
            self._open_page(self._entrance)

    def status_line(self) -> str:
        """How it runs since this was asked last, in one line: for `systemctl status`."""
        now_ns, published = self.clock.mono_ns(), self.pipeline.publisher.published
        (then_ns, before), self._told_published = self._told_published, (now_ns, published)
        states = {name: one.state for name, one in self._states.all().items()}
        connected = None if self._broker is None else self._broker.connected
        return status_line(states, published - before, (now_ns - then_ns) / 1e9, connected)

    def summary(self) -> dict[str, Any]:
        """The account of the run until it was stopped, in the shape of contracts.md."""
        seconds, streams = self._ended if self._ended is not None else self._ledger.run()
        load = self._reporting.read_load()
        sent = self._delivery
        return payload.summary(
            seconds=seconds,
            streams=streams,
            engines={
                name: payload.engine_summary(model.bundle.name, model.engine.info, self._reporting.cache_stats(name))
                for name, model in self._models.items()
            },
            rss_mib=load.get("rss_mib"),
            cpu_s=load.get("cpu_s"),
            start_to_first_result_s=self._start_to_first_result_s(),
            mqtt=None
            if sent is None
            else {"acked": sent.acked, "waiting": sent.waiting + sent.in_flight, "dropped": dict(sent.dropped)},
        )

    def shortfalls(self, *, ended: bool, awaited: bool) -> list[str]:
        """What of the run's work is not there, a sentence each: a trace that could not be written; of a run that has
        `ended` by itself also streams of whose frames not one could be used, lines and films that are not whole, and,
        where nobody cut short how long the broker was `awaited`, messages that it did not get and no spool keeps.
        """
        if not ended:
            return self._untraced
        _, streams = self._ended if self._ended is not None else self._ledger.run()
        told = [
            f"stream {name}: not one of {one['grabbed']} frames could be used: "
            + ", ".join(f"{reason} {count}" for reason, count in one.get("failed_reasons", {}).items())
            for name, one in streams.items()
            if one["failed"] and not (one["published"] or one["gated"] or one["limited"])
        ]
        unwritten = (getattr(sink, "shortfall", None) for sink in self._sinks)
        undelivered = _undelivered(self._delivery.dropped) if awaited and self._delivery is not None else None
        return [*self._untraced, *told, *(text for text in (*unwritten, undelivered) if text is not None)]

    def _forget_what_is_held(self, threads: Sequence[str]) -> None:
        """What a thread that would not end still works with is neither flushed nor closed under its hands."""
        if "publish" in threads:
            self._sinks = []
        self._held_models = {name for name in self._models if f"worker:{name}" in threads}

    def _is_under_way(self) -> bool:
        """Whether the first result is there, or would be: what only somebody who looks needs does not come before."""
        return self._first_result_ns is not None or self.clock.mono_ns() - self._begun_ns >= _PAGE_AFTER_NS

    def _start_to_first_result_s(self) -> float | None:
        started_ns = process_started_ns()
        if self._first_result_ns is None or started_ns is None:
            return None
        if self._built_ns - started_ns > _EXEC_AFTER_NS:  # a script did something else and then became this process
            return None
        return (self._first_result_ns - started_ns) / 1e9

    def _left_s(self, deadline_ns: int) -> float:
        return max(0.0, (deadline_ns - self.clock.mono_ns()) / 1e9)


def _undelivered(dropped: Mapping[str, int]) -> str | None:
    lost = {why: count for why, count in dropped.items() if count and why not in _NOT_MISSED}
    if not lost:
        return None
    reasons = ", ".join(f"{why} {count}" for why, count in lost.items())
    return f"{sum(lost.values())} messages did not reach the broker: {reasons}"


def _moves(broker: Connection) -> tuple[bool, int]:
    """For `Progress.observe`: without a link the thread "mqtt" waits for its broker."""
    return broker.connected, broker.turned_ns
