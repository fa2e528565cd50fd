"""The status page of a run: what it shows, what its buttons do, and the server that gives it out."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import msgspec

from edgerun import __version__
from edgerun.app.entrance import Entrance
from edgerun.app.observing import accounts_of
from edgerun.app.painting import Painter
from edgerun.app.telling import DevicePicture
from edgerun.clock import Clock
from edgerun.config import Config
from edgerun.config.web import WebConfig
from edgerun.control.desk import Desk, Origin
from edgerun.decoding import decode
from edgerun.device.evidence import processor_temp_c
from edgerun.pipeline.notice import Asked, NoticeBoard
from edgerun.publish.console import describe
from edgerun.telemetry.ledger import Ledger
from edgerun.telemetry.reporter import EngineReport
from edgerun.telemetry.states import StateKeeper
from edgerun.types import Publication
from edgerun.web.gate import Check, Gate
from edgerun.web.live import LiveOptions, LiveView
from edgerun.web.recent import Recent
from edgerun.web.server import Door, Server
from edgerun.web.site import Page as WebPage
from edgerun.web.site import PagesSite, StatusSite
from edgerun.web.timeline import Journal, Timeline

_STEP_S = 5.0
_TOLD_EVENTS = ("entered", "left", "dwelled", "heard", "began", "ended")
_GRAVE = frozenset(
    ("stalled", "degraded", "fell_back", "lost", "throttled", "governed", "late", "spool_dropped", "frozen", "dark")
)
_ORIGIN = Origin("web", "the status page")


class Sources(msgspec.Struct, frozen=True):
    """Where the page's facts come from. What a function gives is of that moment."""

    states: StateKeeper
    ledger: Ledger
    engines: Callable[[], Mapping[str, EngineReport]]
    picture: DevicePicture
    read_load: Callable[[], Mapping[str, float]]
    connected: Callable[[], bool | None]
    desk: Desk
    notices: NoticeBoard
    pages: Mapping[str, WebPage] = {}


class StatusPage:
    """A sink and a server. Made before the pipeline, which gives it results; opened when the rest is there."""

    wants_picture = False  # `looked_at` says of which stream, and when
    broken = False

    def __init__(self, config: Config, clock: Clock, run_id: str) -> None:
        self._clock, self._run_id, self._began_ns = clock, run_id, clock.mono_ns()
        self._painter = Painter(config, clock)
        web = config.web or WebConfig()
        options = LiveOptions(fps=web.live_fps, width=web.live_width)
        self._live = LiveView(clock, options, self._painter.paint, self._wake, self._painter.admit)
        self._timeline, self._journal = Timeline(_STEP_S), Journal()
        self._said: dict[str, str] = {}
        self._server: Server | None = None
        self.facts: Facts | None = None
        self._config = config

    def looked_at(self, stream: str) -> bool:
        """Whether somebody waits for this stream's next picture: then its results must carry one. Any thread."""
        return self._live.looked_at(stream)

    def note(self, kind: str, text: str, stream: str | None = None) -> None:
        """Put something that happened into the event log. Any thread."""
        self._journal.add(self._clock.unix_s(), kind, text, stream, grave=kind in _GRAVE)

    def publish(self, publication: Publication) -> None:
        """Take one result: its picture for who looks, its events for the log."""
        self._live.publish(publication)
        result = publication.result
        if result.answer.detections is None and result.crop is None:
            self._said[result.stamp.stream] = describe(result.answer, 3)
        for event in result.events:
            if event.kind in _TOLD_EVENTS:
                who = event.label if event.track is None else f"{event.label} #{event.track}"
                where = f" {event.zone}" if event.zone else ""
                how_long = f" after {event.seconds:.1f} s" if event.seconds else ""
                self.note(event.kind, f"{who} {event.kind}{where}{how_long}", result.stamp.stream)

    def flush(self, timeout_s: float) -> None:
        """Nothing is on its way to anybody who could not do without it."""

    def configure(self, config: Config) -> None:
        """The config was changed while it runs: other streams, zones, masks. The address stays until a restart."""
        self._config = config
        self._painter.configure(config)
        if self.facts is not None:
            self.facts.config = config

    def open(self, sources: Sources, entrance: Entrance) -> None:
        """Make what answers at the addresses of `entrance`, and take its events over."""
        for unix_s, kind, text, stream in entrance.early:
            self._journal.add(unix_s, kind, text, stream, grave=kind in _GRAVE)
        self.facts = Facts(self._config, sources, self._clock, self._run_id, self._said, self.note)
        web = self._config.web or WebConfig()
        gate = self._gate(entrance.check, entrance.host, web.hosts)
        gate.cookie = f"edgerun-{entrance.port}"  # cookies know no ports: devices behind tunnels share a name
        site = StatusSite(gate, self.facts, self._live, self._timeline, self._journal, self._clock, sources.pages)
        doors = [Door(entrance.web, site.answer)]
        if entrance.metrics is not None:
            metrics_gate = self._gate(entrance.check_metrics, entrance.metrics_host, ())
            doors.append(Door(entrance.metrics, PagesSite(metrics_gate, sources.pages).answer))
        self._server = Server(doors, self._clock, tick=self._sample, tick_s=_STEP_S)

    def start(self) -> None:
        """Answer from now on."""
        if self._server is not None:
            self._server.start()

    def close(self) -> None:
        """Answer no more. Idempotent."""
        if self._server is not None:
            self._server.close()
        self._live.close()

    def _gate(self, check: Check | None, host: str, hosts: Collection[str]) -> Gate:
        return Gate(check, loopback=ipaddress.ip_address(host).is_loopback, hosts=hosts, clock=self._clock)

    def _wake(self) -> None:
        if self._server is not None:
            self._server.wake()

    def _sample(self) -> None:
        if self.facts is not None:
            self._timeline.add(self._clock.unix_s(), self.facts.sample())


class Facts:
    """What the page shows and asks for. Used by the server's thread, which also takes the samples."""

    def __init__(
        self,
        config: Config,
        sources: Sources,
        clock: Clock,
        run_id: str,
        said: Mapping[str, str],
        note: Callable[[str, str, str | None], None],
    ) -> None:
        self.config = config
        self._sources, self._clock, self._run_id, self._said, self._note = sources, clock, run_id, said, note
        self._began_ns = clock.mono_ns()
        self._recent = Recent(sources.ledger.totals, clock)
        self._cpu: float | None = None
        self._cpu_before: tuple[int, float] | None = None

    def status(self) -> dict[str, Any]:
        """See docs/schema/status.schema.json."""
        load = self._sources.read_load()
        groups = {name: dict(group) for name, group in self._sources.picture.latest.items()}
        if (rss_mib := load.get("rss_mib")) is not None:
            groups["memory"] = {"rss_mib": round(rss_mib, 1), **groups.get("memory", {})}
        out: dict[str, Any] = {
            "device": self.config.device.id,
            "run": self._run_id,
            "version": __version__,
            "uptime_s": round((self._clock.mono_ns() - self._began_ns) / 1e9, 1),
            "streams": self._streams(),
            "accounts": self._accounts(self._recent.view()),
            "engines": {name: _engine(one) for name, one in self._sources.engines().items()},
            **groups,
        }
        if (temp_c := self._temp_c()) is not None:
            out["temp_c"] = round(temp_c, 1)
        if self._cpu is not None:
            out["cpu"] = round(self._cpu, 3)
        if (connected := self._sources.connected()) is not None:
            out["broker"] = {"connected": connected}
        return out

    def sample(self) -> dict[str, dict[str, float | None]]:
        """One step of the timeline."""
        if self.config.mqtt is None and (self.config.metrics is None or self.config.metrics.textfile is None):
            self._sources.picture.take()  # nobody else does
        self._cpu = self._cpu_now()
        power = self._sources.picture.latest.get("power", {})
        out: dict[str, dict[str, float | None]] = {
            "device": {"temp_c": self._temp_c(), "power_w": power.get("power_w"), "cpu": self._cpu}
        }
        for name, one in self._recent.mark().items():
            age = one.get("age_ms", {})
            out[f"stream:{name}"] = {"fps": one.get("fps"), "p50": age.get("p50"), "p99": age.get("p99")}
        return out

    def pictures(self) -> Collection[str]:
        """The streams whose results have pictures; of windows of samples there are none."""
        signals = ("wav", "microphone", "iio", "serial", "csv")
        return [name for name, one in self.config.streams.items() if one.source.kind not in signals]

    def layout(self) -> dict[str, Any]:
        """Zones and masks, as the config has them."""
        out = {}
        for name in self.pictures():
            stream = self.config.streams[name]
            zones = {zone: msgspec.to_builtins(one) for zone, one in stream.zones.items()}
            mask = () if stream.privacy is None else stream.privacy.mask
            out[name] = {"track": bool(stream.track), "zones": zones, "mask": mask}
        return out

    def verbs(self) -> Collection[str]:
        """The commands that there are, and that may be given without a signature."""
        return self._sources.desk.verbs

    def do(self, verb: str, arguments: Mapping[str, Any], done: Callable[[Mapping[str, Any]], None]) -> None:
        """Through the same desk as commands from the broker; done by the main thread."""

        def reply(body: bytes) -> None:
            answer = decode(body, dict[str, Any])
            stream = arguments.get("stream")
            what = "done" if answer.get("ok") else f"refused: {answer.get('error')}"
            self._note("command", f"{verb} {what}", stream if isinstance(stream, str) else None)
            done(answer)

        command = self._sources.desk.read(verb, msgspec.json.encode(arguments), _ORIGIN, reply)
        if command is not None:
            self._sources.notices.put(Asked(partial(self._sources.desk.do, command)))

    def why_not_ready(self) -> str | None:
        """Which streams give no results."""
        return self._sources.states.why_not_ready()

    def _streams(self) -> dict[str, Any]:
        pictures = self.pictures()
        out = {}
        for name, now in self._sources.states.all().items():
            one: dict[str, Any] = {"state": now.state, "accelerator": now.accelerator, "picture": name in pictures}
            if now.reason:
                one["reason"] = now.reason
            if now.counts is not None:
                one["counts"] = dict(now.counts)
            elif name in self._said:
                one["said"] = self._said[name]
            if faults := self._sources.states.faults(name):
                one["input"] = list(faults)
            out[name] = one
        return out

    def _accounts(self, measured: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        owner = {account: name for name, one in self.config.streams.items() for account in accounts_of(name, one)}
        return {
            name: {"stream": owner.get(name, name.partition("/")[0]), **values} for name, values in measured.items()
        }

    def _temp_c(self) -> float | None:
        return processor_temp_c({one.name: one.value for one in self._sources.picture.readings()})

    def _cpu_now(self) -> float | None:
        """The share of one core that this process takes, since it was last asked."""
        now_ns, cpu_s = self._clock.mono_ns(), self._sources.read_load().get("cpu_s")
        before, self._cpu_before = self._cpu_before, None if cpu_s is None else (now_ns, cpu_s)
        if cpu_s is None or before is None or now_ns <= before[0]:
            return None
        return max(0.0, (cpu_s - before[1]) / ((now_ns - before[0]) / 1e9))


def _engine(report: EngineReport) -> dict[str, Any]:
    info = report.info()
    out: dict[str, Any] = {
        "model": report.model.name,
        "version": report.model.version,
        "runtime": info.runtime,
        "accelerator": info.accelerator,
        "threads": info.threads,
    }
    if info.fallbacks:
        out["fallbacks"] = [{"accelerator": name, "reason": reason} for name, reason in info.fallbacks]
    return out
