"""The running whole: streams, workers, sinks and the broker, joined as the config says."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from edgerun.app.joining import Surroundings, join, used_models
from edgerun.app.listening import rate_of_sources
from edgerun.app.observing import watch_drift
from edgerun.app.opening import LoadedModel, open_model
from edgerun.app.outlets import open_sinks
from edgerun.app.saying import Saying
from edgerun.app.telling import DevicePicture, Telling
from edgerun.clock import Clock
from edgerun.config import Config, ModelConfig, RunOptions
from edgerun.config.governing import looks_at_itself
from edgerun.device.load import LoadSensor, process_started_ns
from edgerun.errors import DeviceError
from edgerun.infer.fallback import Event
from edgerun.notify import status_line
from edgerun.pipeline.ending import Delivery
from edgerun.pipeline.notice import (
    Asked,
    EngineNotice,
    NoticeBoard,
    StopRequested,
    ThreadDied,
)
from edgerun.pipeline.pipeline import Pipeline
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.pulse import BEAT_S, Pulse
from edgerun.ports import Engine, Sink, SinkContext
from edgerun.progress import Progress
from edgerun.slot import Outbox
from edgerun.telemetry import payload
from edgerun.telemetry.ledger import Ledger
from edgerun.telemetry.reporter import EngineReport, ReportedDevice, Reporter
from edgerun.telemetry.states import StateKeeper
from edgerun.telemetry.trace import Trace
from edgerun.types import EngineInfo

if TYPE_CHECKING:  # MQTT and TLS cost 30 ms and 6 MiB that a run without a broker need not pay
    from edgerun.app.commanding import Commanding
    from edgerun.app.governing import Governing, News
    from edgerun.broker.connection import Connection, ConnectionStats
    from edgerun.broker.message import Message
    from edgerun.spool.spool import Spool
    from edgerun.telemetry.prometheus import Scraped

_log = logging.getLogger(__name__)

_OUTBOX_SIZE = 64
_LOAD_S = 60.0
"""How long one accelerator may take to open: `infer.host.Limits.open_s`."""
_EXEC_AFTER_NS = 5_000_000_000  # no interpreter takes this long to get here, not even on the smallest board


class App:
    """A running edgerun: opens everything at construction, owns it until `close`.

    Driven by one thread (`daemon`'s). Construction raises what cannot start, with everything opened so far closed.
    `observers` are sinks besides those of the config, whose owner closes them; the picture they are given is the one
    that was inferred, possibly decoded at a reduced scale. `progress` watches its threads. `on_loading` is told before
    each model how many seconds that may take, and what it is.
    """

    def __init__(
        self,
        config: Config,
        options: RunOptions,
        clock: Clock,
        notices: NoticeBoard,
        run_id: str,
        *,
        observers: Sequence[Sink] = (),
        progress: Progress | None = None,
        on_loading: Callable[[float, str], None] = lambda seconds, what: None,
    ) -> None:
        self.clock = clock
        self._config = config
        self._options = options
        self._notices = notices
        self._run_id = run_id
        self._progress = progress or Progress()
        self._told_published = (clock.mono_ns(), 0)
        self._ledger = Ledger(clock)
        self._load = LoadSensor(clock)
        self._pulse = Pulse(clock)
        self._built_ns = clock.mono_ns()
        self._first_result_ns: int | None = None
        self._models: dict[str, LoadedModel] = {}
        self._held_models: set[str] = set()
        self._sinks: list[Sink] = []
        self._built: Pipeline | None = None
        self._observers = tuple(observers)
        self._broker: Connection | None = None
        self._ended: tuple[float, dict[str, dict[str, Any]]] | None = None
        self._delivery: ConnectionStats | None = None
        self._commands: Commanding | None = None
        self._governing: Governing | None = None
        self._spool: Spool | None = None
        self._opened = ExitStack()
        self._trace = Trace(config.device.id, clock) if options.trace is not None else None
        try:
            for name, model in self._used_models():
                on_loading(_LOAD_S * (1 + len(model.accelerators)), f"loading model {name}")
                self._models[name] = open_model(
                    model, partial(self._engine_changed, name), rate_of_sources(config, name)
                )
            streams = config.streams.items()
            on = {name: self._models[stream.models[0]].engine.info.accelerator for name, stream in streams}
            self._states = StateKeeper(on, clock)
            self._drift = watch_drift(config, self._models)
            if config.mqtt is not None:
                from edgerun.app.linking import open_link

                self._broker, self._spool = open_link(config.mqtt, config.device.id, run_id, clock, self._birth)
            for sink in open_sinks(config, options, SinkContext(config.device.id, clock, self._broker)):
                self._sinks.append(sink)
            self.pipeline = self._built = self._build_pipeline()
            if looks_at_itself(config) or config.metrics is not None:
                from edgerun.app.governing import open_governing

                self._governing = open_governing(config, self.pipeline, clock, self._tell_of_device)
                self._opened.callback(self._governing.close)
            self._picture = DevicePicture(self._governing, self._spooled)
            self._reporter = self._build_reporter()
            self.saying = Saying(config, self._models, self._states, self._reporter, self._broker)
            self._telling = Telling(config, self._models, self._broker, self._picture, self._scraped, clock)
            self._opened.callback(self._telling.close)
            if self._broker is not None and config.mqtt is not None:
                from edgerun.app.commanding import Commanding

                root = f"{config.mqtt.prefix}/{config.device.id}"
                self._commands = Commanding(self._broker, root, self.pipeline, notices)
        except BaseException:
            self.close()
            raise

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
            self._governing.start()
        if self._commands is not None:
            self._commands.start()
        self.pipeline.start()

    def stop(self, limit_s: float) -> None:
        """End the pipeline in data order, flush the sinks and say goodbye to the broker, all within `limit_s`.

        Raises `StageError` naming a thread that would not end. To be called once.
        """
        deadline_ns = self.clock.mono_ns() + round(limit_s * 1e9)
        self._progress.forget("mqtt")
        if self._commands is not None:
            self._commands.close()
        if self._governing is not None:
            self._governing.close()
        try:
            stuck = self.pipeline.stop(limit_s * 0.7)
            if stuck:
                _log.warning("%s: still held by a driver; given up, no frame is lost with it", ", ".join(stuck))
        finally:
            self._ended = self._ledger.run()
            if self._trace is not None and self._options.trace is not None:
                self._trace.write(self._options.trace)
            self._forget_what_is_held(self.pipeline.held)
            broker = self._broker
            if broker is not None:
                self._states.end_all("edgerun was stopped")
                self._reporter.send_states(broker)
            for sink in self._sinks:
                sink.flush(self._left_s(deadline_ns) * 0.6)
            if broker is not None:
                self._broker = None  # `close` need not wait for it again
                broker.stop(self._left_s(deadline_ns))
                self._delivery = broker.stats()

    def close(self) -> None:
        """Give back everything that is open. Idempotent."""
        with ExitStack() as each:  # the rest is closed whatever one of them raises
            if self._built is not None:
                each.callback(self._built.close)
            for name, model in self._models.items():
                if name not in self._held_models:
                    each.callback(model.engine.close)
            each.callback(self._opened.close)
            if self._broker is not None:
                each.callback(self._broker.stop, 0.0)
            for sink in self._sinks:
                each.callback(sink.close)
            self._models, self._sinks, self._broker = {}, [], None

    def delivered(self, timeout_s: float) -> bool:
        """Whether the broker, where there is one, has acknowledged everything; waits up to `timeout_s` for it."""
        return self._broker is None or self._broker.flush(timeout_s)

    def next_tick_ns(self) -> int:
        """When `tick` has something to do next (monotonic ns)."""
        beat_ns = self.clock.mono_ns() + round(BEAT_S * 1e9)
        return min(beat_ns, self._reporter.next_due_ns()) if self._broker is not None else beat_ns

    def tick(self) -> None:
        """Say that the process runs, and publish what is due."""
        self._pulse.beat()
        if self._spool is not None:
            self.saying.spool(self._spool.take_notices())
        if self._broker is not None and self._reporter.tick(self._broker):
            self._telling.look()
        self._telling.tick()

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
        load = self._read_load()
        sent = self._delivery
        return payload.summary(
            seconds=seconds,
            streams=streams,
            engines={
                name: payload.engine_summary(model.bundle.name, model.engine.info, self._cache_stats(name))
                for name, model in self._models.items()
            },
            rss_mib=load.get("rss_mib"),
            cpu_s=load.get("cpu_s"),
            start_to_first_result_s=self._start_to_first_result_s(),
            mqtt=None
            if sent is None
            else {"acked": sent.acked, "waiting": sent.waiting + sent.in_flight, "dropped": dict(sent.dropped)},
        )

    def _engine_changed(self, model: str, event: Event, info: EngineInfo, reason: str) -> None:
        """Called by the thread that infers."""
        self._notices.put(EngineNotice(model, event, info.accelerator, reason))

    def _cache_stats(self, model: str) -> dict[str, int] | None:
        cache = self._caches.get(model)
        return None if cache is None else msgspec.structs.asdict(cache.stats())

    def _forget_what_is_held(self, threads: Sequence[str]) -> None:
        """What a thread that would not end still works with is neither flushed nor closed under its hands."""
        if "publish" in threads:
            self._sinks = []
        self._held_models = {name for name in self._models if f"worker:{name}" in threads}

    def _used_models(self) -> Iterator[tuple[str, ModelConfig]]:
        used = used_models(self._config)
        for name, model in self._config.models.items():
            if name in used:
                yield name, model
            else:
                _log.warning("model %s is used by no stream and is not loaded", name)

    def _spooled(self) -> dict[str, dict[str, Any]]:
        if self._spool is None:
            return {}
        from edgerun.app.linking import spool_group

        return spool_group(self._spool)

    def _build_pipeline(self) -> Pipeline:
        outbox: Outbox[Delivery] = Outbox(_OUTBOX_SIZE)
        sinks: list[Sink] = [self._states, self._drift, *self._sinks, *self._observers]
        if self._trace is not None:
            sinks.append(self._trace)
        shared = Surroundings(
            self.clock,
            self._notices,
            outbox,
            self._pulse.stood_still,
            keep_pictures=any(sink.wants_picture for sink in sinks),
            keep_whole=any(sink.wants_picture for sink in self._sinks),
            broker=self._broker,
        )
        joined = join(self._config, self._options, self._models, shared)
        for name, lane in joined.lanes.items():
            self._ledger.add(name, lane.meter)
            if self._trace is not None:
                bundle = self._models[lane.plan.model].bundle
                lane.meter.account.watch = self._trace.watch(lane.plan.stream, bundle.name)
        self._caches = joined.caches
        publisher = Publisher(outbox, sinks, self.clock, self._run_id, on_published=self._note_published)
        return Pipeline(joined.captures, joined.workers, publisher, outbox, self.clock, self._notices, self._progress)

    def _build_reporter(self) -> Reporter:
        engines = {}
        for worker in self.pipeline.workers:
            bundle = self._models[worker.name].bundle
            installed = payload.InstalledModel(bundle.name, bundle.version, bundle.sha256)
            engines[worker.name] = EngineReport(
                installed,
                partial(_info_of, worker.engine),
                worker.read_busy_ns,
                partial(self._cache_stats, worker.name),
            )
        mqtt = self._config.mqtt
        device = ReportedDevice(
            id=self._config.device.id,
            run=self._run_id,
            prefix=mqtt.prefix if mqtt else "",
            streams={name: stream.models for name, stream in self._config.streams.items()},
            engines=engines,
        )
        interval_s = mqtt.telemetry_interval if mqtt else 0.0
        return Reporter(
            device,
            self._states,
            self._ledger,
            self._read_load,
            self.clock,
            interval_s,
            read_device=self._picture.take,
            drift=self._drift,
        )

    def _birth(self) -> Sequence[Message]:
        from edgerun.broker.message import Message

        births = [Message(topic, body, qos=1, retain=True) for topic, body in self._reporter.birth()]
        return [*births, *self._telling.birth()]

    def _read_load(self) -> dict[str, float]:
        try:
            return {reading.name: reading.value for reading in self._load.read()}
        except DeviceError as error:  # what this process costs is then not known; it goes on
            _log.warning("%s", error)
            return {}

    def _tell_of_device(self, news: News | ThreadDied) -> None:
        """Called by the thread "sensors"."""
        self._notices.put(news if isinstance(news, ThreadDied) else Asked(partial(self.saying.device, news)))

    def _scraped(self) -> Scraped:
        from edgerun.telemetry.prometheus import Scraped

        return Scraped(
            self._ledger,
            self._states,
            self._reporter.engines,
            self._read_load,
            self._picture.readings,
            lambda: self._picture.latest,
        )

    def _note_published(self, published: int, now_ns: int) -> None:
        if published == 1:
            self._first_result_ns = now_ns
        if self._sinks and all(sink.broken for sink in self._sinks):
            self._notices.put(StopRequested("nobody reads the results any more"))

    def _start_to_first_result_s(self) -> float | None:
        started_ns = process_started_ns()
        if self._first_result_ns is None or started_ns is None:
            return None
        if self._built_ns - started_ns > _EXEC_AFTER_NS:  # a script did something else and then became this process
            return None
        return (self._first_result_ns - started_ns) / 1e9

    def _left_s(self, deadline_ns: int) -> float:
        return max(0.0, (deadline_ns - self.clock.mono_ns()) / 1e9)


def _moves(broker: Connection) -> tuple[bool, int]:
    """For `Progress.observe`: without a link the thread "mqtt" waits for its broker."""
    return broker.connected, broker.turned_ns


def _info_of(engine: Engine) -> EngineInfo:
    return engine.info
