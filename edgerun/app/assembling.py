"""The whole, put together: streams, workers, sinks and the broker, opened and joined as the config says."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from edgerun.app.changing import Changing, Reread
from edgerun.app.exchanging import Exchange
from edgerun.app.joining import Surroundings, join, models_to_load
from edgerun.app.listening import rate_of_sources
from edgerun.app.observing import drift_keeper, watch_drift
from edgerun.app.opening import LoadedModel, open_model
from edgerun.app.outlets import open_collector, open_sinks
from edgerun.app.picturing import Asking, open_snapshots, snapshot_plans
from edgerun.app.preparing import Parts, Preparing
from edgerun.app.reloading import Reloading
from edgerun.app.renewing import Followers, LiveEngines, Renewing
from edgerun.app.reporting import Reporting
from edgerun.app.rollout_file import Resumed, resume
from edgerun.app.saying import Saying
from edgerun.app.telling import DevicePicture, Telling
from edgerun.app.tracing import Tracing
from edgerun.clock import Clock
from edgerun.config import Config, RunOptions
from edgerun.config.governing import looks_at_itself
from edgerun.device.load import LoadSensor
from edgerun.heap import Heap
from edgerun.infer.fallback import Event
from edgerun.pipeline.ending import Delivery
from edgerun.pipeline.notice import Asked, EngineNotice, NoticeBoard, StopRequested, ThreadDied
from edgerun.pipeline.pipeline import Pipeline
from edgerun.pipeline.publish import Publisher
from edgerun.pipeline.pulse import Pulse
from edgerun.ports import Sink, SinkContext
from edgerun.progress import Progress
from edgerun.security.sealing import SealingKey, seal_as
from edgerun.slot import Outbox
from edgerun.spool.options import state_folder
from edgerun.telemetry.ledger import Ledger
from edgerun.telemetry.phase import phase_s
from edgerun.telemetry.reporter import Reporter
from edgerun.telemetry.states import StateKeeper
from edgerun.telemetry.trace import Trace, check_target
from edgerun.types import EngineInfo

if TYPE_CHECKING:  # MQTT and TLS cost 30 ms and 6 MiB that a run without a broker need not pay
    from edgerun.app.controlling import Controlling
    from edgerun.app.entrance import Entrance
    from edgerun.app.governing import Governing, News
    from edgerun.app.page import StatusPage
    from edgerun.app.rolling import Rolling
    from edgerun.broker.connection import Connection
    from edgerun.broker.message import Message
    from edgerun.broker.stats import ConnectionStats
    from edgerun.control.desk import Act
    from edgerun.spool.spool import Spool

_OUTBOX_SIZE = 64
_LOAD_S = 60.0
"""How long one accelerator may take to open: `infer.host.Limits.open_s`."""


class Assembly:
    """Everything that a run consists of, opened and joined as the config says; owned until `close`. `App` drives it.

    Construction raises what cannot start, with everything opened so far closed.
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
        reread: Reread | None = None,
    ) -> None:
        self.clock = clock
        self._heap = Heap()
        resumed = resume(config, clock.unix_s()) if reread is not None else Resumed(config)
        self._config = config = resumed.config
        self._reread, self._on_loading = reread, on_loading
        self._options = options
        self._notices = notices
        self._run_id = run_id
        self._progress = progress or Progress()
        self._told_published = (clock.mono_ns(), 0)
        self._ledger = Ledger(clock)
        self._load = LoadSensor(clock)
        self._pulse = Pulse(clock)
        self._built_ns = clock.mono_ns()
        self._begun_ns = self._built_ns
        self._first_result_ns: int | None = None
        self._models: dict[str, LoadedModel] = {}
        self._held_models: set[str] = set()
        self._sinks: list[Sink] = []
        self._built: Pipeline | None = None
        self._observers = tuple(observers)
        self._broker: Connection | None = None
        self._ended: tuple[float, dict[str, dict[str, Any]]] | None = None
        self._delivery: ConnectionStats | None = None
        self._control: Controlling | None = None
        self._governing: Governing | None = None
        self._entrance: Entrance | None = None
        self._page: StatusPage | None = None
        self._rolling: Rolling | None = None
        self.fell = True
        """Whether the run is at its end because something of it failed; whoever drives it says when not."""
        self._spool: Spool | None = None
        self._followers: Followers | None = None
        self._opened = ExitStack()
        self._trace = Trace(config.device.id, clock)
        self._untraced: list[str] = []
        if options.trace is not None:
            check_target(options.trace)
        try:
            for name, model in models_to_load(config):
                on_loading(_LOAD_S * (1 + len(model.accelerators)), f"loading model {name}")
                self._models[name] = open_model(
                    model,
                    partial(self._engine_changed, name),
                    rate_of_sources(config, name),
                    config.security.model_key,
                )
            state_key = config.security.state_key
            key = None if state_key is None else SealingKey.read(state_key)
            streams = config.streams.items()
            on = {name: self._models[stream.models[0]].engine.info.accelerator for name, stream in streams}
            self._states = StateKeeper(on, clock)
            self._drift = watch_drift(config, self._models)
            if config.mqtt is not None:
                from edgerun.app.linking import open_link

                self._broker, self._spool = open_link(config.mqtt, config.device.id, run_id, clock, self._birth, key)
            context = SinkContext(config.device.id, clock, self._broker, None if key is None else partial(seal_as, key))
            for sink in open_sinks(config, options, context):
                self._sinks.append(sink)
            collector = open_collector(config, context)
            if collector is not None:
                self._sinks.append(collector)
            self._snapshots = open_snapshots(config, self._broker, clock)
            if self._snapshots is not None:
                self._sinks.append(self._snapshots)
            if config.web is not None:
                from edgerun.app.entrance import Entrance

                self._entrance = Entrance(config.web, config.metrics, clock)
                self._opened.callback(self._entrance.close)
            self.pipeline = self._built = self._build_pipeline()
            if looks_at_itself(config) or config.metrics is not None:
                self._governing = self._open_governing(config)
            self._opened.callback(self._close_governing)
            self._picture = DevicePicture(self._governing, self._groups)
            self._reporter = self._build_reporter()
            self.saying = Saying(config, self._models, self._states, self._reporter, self._broker)
            if self._entrance is not None:
                self.saying.journal = self._entrance.note
            asking: Asking | None = None
            if self._broker is not None or config.security.socket is not None or os.environ.get("RUNTIME_DIRECTORY"):
                self._control, asking = self._open_control()
            verbs: frozenset[str] = frozenset() if self._control is None else self._control.open_verbs
            scraped = partial(
                self._reporting.scraped, self._ledger, self._states, LiveEngines(self._reporter), self._picture
            )
            self._telling = Telling(config, self._models, self._broker, self._picture, scraped, clock, verbs)
            self._opened.callback(self._telling.close)
            followers = Followers(
                self._states,
                self._ledger,
                self._drift,
                self._trace,
                self._reporter,
                self.saying,
                self._telling,
                self._picture,
                self._reporting.device,
                self._sinks,
                collector=collector,
                snapshots=self._snapshots,
                asking=asking,
                governing=self._governing,
                broker=self._broker,
                control=self._control,
            )
            self._followers = followers
            self._reloading = self._build_reloading(followers, context)
            self.changing = Changing(self._reloading, self.pipeline, reread)
            if self._broker is not None and config.mqtt is not None and config.mqtt.desired:
                self.changing.wish(self._broker, f"{config.mqtt.prefix}/{config.device.id}")
            if resumed.rollouts:
                self._open_rolling(resumed)
        except BaseException:
            self.close()
            raise

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

    def _engine_changed(self, model: str, event: Event, info: EngineInfo, reason: str) -> None:
        """Called by the thread that infers."""
        self._notices.put(EngineNotice(model, event, info.accelerator, reason))

    def _groups(self) -> dict[str, dict[str, Any]]:
        audit = None if self._control is None else self._control.audit
        rollout = None if self._rolling is None else self._rolling.group()
        return self._reporting.groups(self._spool, None if audit is None else audit.works, rollout)

    def _build_pipeline(self) -> Pipeline:
        outbox: Outbox[Delivery] = Outbox(_OUTBOX_SIZE)
        self._outbox = outbox
        sinks: list[Sink] = [self._states, self._drift, *self._sinks, *self._observers, self._trace]
        keep_pictures = any(sink.wants_picture for sink in sinks)
        keep_whole = any(sink.wants_picture for sink in self._sinks)
        shared = self._surroundings(self._config, keep_pictures, keep_whole)
        joined = join(self._config, self._options, self._models, shared)
        for name, lane in joined.lanes.items():
            self._ledger.add(name, lane.meter)
            bundle = self._models[lane.plan.model].bundle
            lane.meter.account.watch = self._trace.watch(lane.plan.stream, bundle.name)
        publisher = Publisher(outbox, sinks, self.clock, self._run_id, on_published=self._note_published)
        pipeline = Pipeline(
            joined.captures, joined.workers, publisher, outbox, self.clock, self._notices, self._progress
        )
        self._parts = Parts(self._config, joined, shared, self._models)
        self._reporting = Reporting(self._parts, self._options, pipeline, self._load, self._run_id)
        return pipeline

    def _surroundings(self, config: Config, keep_pictures: bool, keep_whole: bool) -> Surroundings:
        return Surroundings(
            self.clock,
            self._notices,
            self._outbox,
            self._pulse.stood_still,
            keep_pictures=keep_pictures,
            keep_whole=keep_whole,
            broker=self._broker,
            pictures_of=frozenset(snapshot_plans(config)),
            looked_at=self._looked_at,
            address=(config.mqtt.prefix if config.mqtt is not None else "edgerun", config.device.id),
        )

    def _build_reloading(self, followers: Followers, context: SinkContext) -> Reloading:
        parts = self._parts
        renewing = Renewing(parts, followers, self.pipeline, context, self._open_governing)
        preparing = Preparing(parts, self._options, self._engine_changed, renewing.check)
        exchange = Exchange(parts, self.pipeline, preparing)
        return Reloading(
            parts, preparing, exchange, renewing, self._surroundings, self._notices, self.clock, self._note_reload
        )

    def _open_governing(self, config: Config) -> Governing:
        from edgerun.app.governing import open_governing

        keep = drift_keeper(config, self._drift)
        return open_governing(config, self.pipeline, self.clock, self._tell_of_device, keep)

    def _close_governing(self) -> None:
        governing = self._governing if self._followers is None else self._followers.governing
        if governing is not None:
            governing.close()

    def _note_reload(self, kind: str, text: str) -> None:
        self.saying.note(kind, text)
        if self._control is not None:
            self._control.reloaded(self._parts.config, text, ok=kind == "reloaded")

    def _open_control(self) -> tuple[Controlling, Asking]:
        from edgerun.app.controlling import Controlling
        from edgerun.control.probes import probes

        tracing = Tracing(self._trace, state_folder() / "trace", self.clock)
        asking = Asking(self._snapshots, self.pipeline, self._states)
        more: dict[str, Act] = {"trace": tracing.tell, "snapshot": asking.ask, **probes(self._states.why_not_ready)}
        if self._reread is not None:
            more["reload"] = lambda arguments: self.changing.reload_by_command(arguments)
            more["model/install"] = lambda arguments: self._rollouts().install(arguments)
            more["model/rollback"] = lambda arguments: self._rollouts().rollback(arguments)
        if self._entrance is not None:
            from edgerun.app.shaping import shapes

            more["shapes"] = shapes(lambda make, done: self._reloading.ask(make, done))
        control = Controlling(
            self._parts.config, self._models, self._broker, self.pipeline, self._notices, self.clock, self._run_id, more
        )
        self._opened.callback(control.close)
        return control, asking

    def _rollouts(self) -> Rolling:
        return self._rolling if self._rolling is not None else self._open_rolling(Resumed(self._parts.config))

    def _open_rolling(self, resumed: Resumed) -> Rolling:
        from edgerun.app.rolling import Rolling
        from edgerun.app.trial import Ties

        ties = Ties(
            config=lambda: self._parts.config,
            reread=self.changing.named,
            models=self._models,
            pipeline=self.pipeline,
            changing=self.changing,
            notices=self._notices,
            clock=self.clock,
            note=self.saying.note,
            audit=lambda: None if self._control is None else self._control.audit,
            readings=self._picture.readings,
            totals=partial(self._reporting.totals, self._ledger),
            versions=self._telling.versions,
        )
        self._rolling = Rolling(ties, resumed)
        return self._rolling

    def _looked_at(self, stream: str) -> bool:
        return self._page is not None and self._page.looked_at(stream)

    def _open_page(self, entrance: Entrance) -> None:
        """Open the status page, and what only it needs."""
        from edgerun.app.page import Sources, StatusPage

        followers = self._followers
        assert followers is not None, "there since construction"
        if followers.governing is None:
            followers.governing = self._open_governing(self._parts.config)
            followers.governing.start()
            followers.picture.renew(followers.governing)
        if self._control is None:
            self._control, followers.asking = self._open_control()
            followers.control = self._control
            self._control.start()
        self._page = followers.page = page = StatusPage(self._parts.config, self.clock, self._run_id)
        self._opened.callback(page.close)
        sources = Sources(
            states=self._states,
            ledger=self._ledger,
            engines=lambda: self._reporter.engines,
            picture=self._picture,
            read_load=self._reporting.read_load,
            connected=lambda: None if self._broker is None else self._broker.connected,
            desk=self._control.commanding.desk,
            notices=self._notices,
            pages=self._telling.pages,
        )
        page.open(sources, entrance)
        self.saying.journal = page.note
        self.pipeline.publisher.add(page)
        page.start()

    def _build_reporter(self) -> Reporter:
        mqtt = self._config.mqtt
        interval_s = mqtt.telemetry_interval if mqtt else 0.0
        return Reporter(
            self._reporting.device(),
            self._states,
            self._ledger,
            self._reporting.read_load,
            self.clock,
            interval_s,
            read_device=self._picture.take,
            drift=self._drift,
            first_s=phase_s(self._config.device.id, interval_s),
        )

    def _birth(self) -> Sequence[Message]:
        from edgerun.broker.message import Message

        births = [Message(topic, body, qos=1, retain=True) for topic, body in self._reporter.birth()]
        if self._control is not None:
            births += self._control.birth()
        births += self.changing.birth()
        return [*births, *self._telling.birth()]

    def _tell_of_device(self, news: News | ThreadDied) -> None:
        """Called by the thread "sensors"."""
        self._notices.put(news if isinstance(news, ThreadDied) else Asked(partial(self.saying.device, news)))

    def _note_published(self, published: int, now_ns: int) -> None:
        if published == 1:
            self._first_result_ns = now_ns
        if self._sinks and all(sink.broken for sink in self._sinks):
            self._notices.put(StopRequested("nobody reads the results any more"))
