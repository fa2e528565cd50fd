"""What follows a run's config besides its pipeline: reports, states, sinks, the governor, what is announced."""

from __future__ import annotations

import logging
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from edgerun.app.exchanging import Changed
from edgerun.app.observing import collected, drift_lanes
from edgerun.app.outlets import open_collector
from edgerun.app.preparing import Parts, Prepared
from edgerun.app.saying import Saying
from edgerun.app.telling import DevicePicture, Telling
from edgerun.config import Config
from edgerun.config.governing import looks_at_itself
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.pipeline import Pipeline
from edgerun.ports import Broker, Sink, SinkContext
from edgerun.telemetry.drift import DriftWatch
from edgerun.telemetry.ledger import Ledger
from edgerun.telemetry.reporter import EngineReport, ReportedDevice, Reporter
from edgerun.telemetry.states import StateKeeper
from edgerun.telemetry.trace import Trace

if TYPE_CHECKING:
    from edgerun.app.controlling import Controlling
    from edgerun.app.governing import Governing
    from edgerun.app.page import StatusPage
    from edgerun.app.picturing import Asking
    from edgerun.publish.snapshot import Snapshots

_log = logging.getLogger(__name__)

_FLUSH_S = 2.0


class LiveEngines(Mapping[str, EngineReport]):
    """What `reporter` reports of each engine at the moment of asking."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def __getitem__(self, name: str) -> EngineReport:
        return self._reporter.engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reporter.engines)

    def __len__(self) -> int:
        return len(self._reporter.engines)

    def items(self) -> ItemsView[str, EngineReport]:
        """All of one moment."""
        return self._reporter.engines.items()


class Followers(msgspec.Struct):
    """The objects that are told. The main thread uses them, but for `collector`, `snapshots` and `governing`."""

    states: StateKeeper
    ledger: Ledger
    drift: DriftWatch
    trace: Trace
    reporter: Reporter
    saying: Saying
    telling: Telling
    picture: DevicePicture
    reported: Callable[[], ReportedDevice]
    sinks: list[Sink]
    """Those of the config, flushed and closed at the end of the run."""
    collector: Sink | None = None
    snapshots: Snapshots | None = None
    asking: Asking | None = None
    governing: Governing | None = None
    page: StatusPage | None = None
    broker: Broker | None = None
    control: Controlling | None = None


class Renewing:
    """Has the followers follow, in the steps of `exchanging.Exchange.apply`.

    `govern` makes what looks at the device, for a config, after the pipeline is what it is to be.
    """

    def __init__(
        self,
        parts: Parts,
        followers: Followers,
        pipeline: Pipeline,
        context: SinkContext,
        open_governing: Callable[[Config], Governing],
    ) -> None:
        self._parts, self._followers, self._pipeline, self._context = parts, followers, pipeline, context
        self._open_governing = open_governing
        self._collector: Sink | None = None
        self._collects_anew = False

    def pictures(self, wanted: Config) -> tuple[bool, bool]:
        """Whether results are to carry pictures, and whether at full size, with the sinks of `wanted`. Opens the
        collector of it; raises what that raises. By the thread "reload".
        """
        followers = self._followers
        self._collects_anew = collected(wanted) != collected(self._parts.config)
        self._collector = open_collector(wanted, self._context) if self._collects_anew else None
        leaving = followers.collector if self._collects_anew else None
        others = [sink for sink in self._pipeline.publisher.sinks if sink is not leaving]
        own = [sink for sink in followers.sinks if sink is not leaving]
        more = [] if self._collector is None else [self._collector]
        return any(one.wants_picture for one in (*others, *more)), any(one.wants_picture for one in (*own, *more))

    def cancel(self) -> None:
        """It came to nothing."""
        if self._collector is not None:
            self._collector.close()
        self._collector, self._collects_anew = None, False

    def gone(self, prepared: Prepared) -> None:
        """By the main thread: what goes has gone, what is new has not begun."""
        followers, difference = self._followers, prepared.difference
        before = {account for one in self._parts.joined.streams.values() for account in one.accounts}
        for name in difference.removed:
            followers.states.remove(name)
            if followers.broker is not None:
                followers.reporter.clear_state(followers.broker, name)
        for name in (*difference.added, *difference.renewed):
            first = prepared.models[prepared.config.streams[name].models[0]]
            followers.states.add(name, first.engine.info.accelerator)
        for account in before - prepared.joined.lanes.keys():
            followers.ledger.remove(account)
        for account, lane in prepared.joined.lanes.items():
            followers.ledger.add(account, lane.meter)
        followers.saying.renew(prepared.config)
        self._renew_sinks(prepared.config)

    def check(self, config: Config, captures: Sequence[Capture]) -> None:
        """Raises `ConfigError` where the governor of `config` makes no sense with these streams, and what keeps
        commands from being taken as `config` has it.
        """
        if self._followers.control is not None:
            self._followers.control.check(config)
        if config.governor is not None:
            from edgerun.app.governing import check_policy

            check_policy(config, captures)

    def govern(self, prepared: Prepared) -> None:
        """By the thread "reload": the pipeline is what it is to be, and new sources are not open yet."""
        followers, config = self._followers, prepared.config
        if not prepared.difference.governed:
            return
        before = followers.governing
        if before is not None:
            before.close()
        if looks_at_itself(config) or config.metrics is not None or config.web is not None:
            after = self._open_governing(config)
            if before is not None:
                after.inherit(before)
            after.start()
            followers.governing = after
        elif before is not None:
            before.let_go()
            followers.governing = None

    def done(self, changed: Changed) -> None:
        """By the main thread: it runs."""
        followers, parts = self._followers, self._parts
        for lane in parts.joined.lanes.values():
            bundle = parts.models[lane.plan.model].bundle
            lane.meter.account.watch = followers.trace.watch(lane.plan.stream, bundle.name)
        anew = {
            account
            for account, lane in parts.joined.lanes.items()
            if lane.plan.model in changed.swapped or lane.plan.stream in changed.renewed
        }
        followers.drift.renew(drift_lanes(parts.config, parts.models), anew)
        followers.reporter.renew(followers.reported())
        followers.picture.renew(followers.governing)
        followers.saying.changed(changed.swapped)
        if followers.control is not None:
            followers.control.renew(parts.config)
            followers.telling.verbs = followers.control.open_verbs
        followers.telling.renew(parts.config)
        if followers.page is not None:
            followers.page.configure(parts.config)
        if followers.broker is not None:
            for topic, body in followers.reporter.birth():
                followers.broker.publish(topic, body, qos=1, retain=True)

    def _renew_sinks(self, config: Config) -> None:
        followers, publisher = self._followers, self._pipeline.publisher
        if self._collects_anew:
            old, new = followers.collector, self._collector
            if new is not None:
                publisher.add(new)
                followers.sinks.append(new)
            if old is not None:
                publisher.remove(old)
                followers.sinks.remove(old)
                old.flush(_FLUSH_S)
                old.close()
            followers.collector, self._collector, self._collects_anew = new, None, False
        self._renew_snapshots(config)

    def _renew_snapshots(self, config: Config) -> None:
        followers = self._followers
        if followers.broker is None:
            return
        from edgerun.app.picturing import open_snapshots, snapshot_plans

        if followers.snapshots is not None:
            followers.snapshots.change(snapshot_plans(config))
            return
        followers.snapshots = made = open_snapshots(config, followers.broker, self._context.clock)
        if made is not None:
            self._pipeline.publisher.add(made)
            followers.sinks.append(made)
            if followers.asking is not None:
                followers.asking.use(made)
