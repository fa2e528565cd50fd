"""What the device tells of itself beside telemetry: to Home Assistant, and to Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from edgerun.app.observing import described, versions_of
from edgerun.app.opening import LoadedModel
from edgerun.app.picturing import old_snapshots
from edgerun.clock import Clock
from edgerun.config import Config
from edgerun.ports import Broker
from edgerun.telemetry.readings import device_groups
from edgerun.types import Reading

if TYPE_CHECKING:
    from edgerun.app.governing import Governing
    from edgerun.broker.message import Message
    from edgerun.publish.homeassistant import Announcer, ModelTopics
    from edgerun.publish.snapshot import OldSnapshots
    from edgerun.telemetry.http import Page
    from edgerun.telemetry.prometheus import Exporter, Scraped

_log = logging.getLogger(__name__)

_TEXTFILE_EVERY_NS = 30_000_000_000
_OTHERS = ("streams", "engines")
"""Groups of telemetry that are not the device's own."""

Groups = Mapping[str, Mapping[str, Any]]


class DevicePicture:
    """The groups of telemetry that the sensors, the energy meter and the governor give. `latest`: as last taken.

    `more`: further groups (`spool`). Taken by one thread; read by any.
    """

    def __init__(self, governing: Governing | None, more: Callable[[], Groups] = dict) -> None:
        self._governing, self._more = governing, more
        self.latest: Groups = {}

    def renew(self, governing: Governing | None) -> None:
        """Another looks at the device from now on."""
        self._governing = governing

    def take(self) -> Groups:
        """The groups now. What counts over an interval begins anew."""
        groups: dict[str, Mapping[str, Any]] = dict(self._more())
        if self._governing is not None:
            broken = {f"{one.kind}/{one.place}": one.reason for one in self._governing.broken}
            groups |= device_groups(self.readings(), broken)
            groups |= self._governing.groups()
        self.latest = groups
        return groups

    def readings(self) -> Sequence[Reading]:
        """The newest of every sensor."""
        return () if self._governing is None else self._governing.readings


class Telling:
    """Keeps Home Assistant's discovery sent and serves Prometheus, where the config asks for it.

    Construction opens what is to be served and raises what cannot be. `scraped` gives what a scrape looks at.
    """

    def __init__(
        self,
        config: Config,
        models: Mapping[str, LoadedModel],
        broker: Broker | None,
        picture: DevicePicture,
        scraped: Callable[[], Scraped],
        clock: Clock,
        verbs: frozenset[str] = frozenset(),
    ) -> None:
        self._config, self._models, self._picture, self._clock = config, models, picture, clock
        self._broker = broker
        self.verbs = verbs
        """What Home Assistant may ask for."""
        self.versions: ModelTopics | None = None
        """What is told of the models' versions, where there is a broker."""
        self._announcer: Announcer | None = None
        self._old_snapshots: OldSnapshots | None = None
        self._exporter: Exporter | None = None
        self.pages: dict[str, Page] = {}
        """What `[metrics]` promises, by path."""
        self._open = ExitStack()
        self._known: dict[str, dict[str, Any]] = {}
        self._textfile_ns = clock.mono_ns()
        if config.metrics is not None:
            from edgerun.app.metrics import make_pages, serve_metrics

            self._exporter, self.pages = make_pages(scraped())
            if config.web is None:  # else one server serves both
                self._open.callback(serve_metrics(config.metrics, self.pages).close)
        if broker is not None and config.mqtt is not None:
            from edgerun.publish.homeassistant import Announcer, ModelTopics

            self.versions = ModelTopics(broker, f"{config.mqtt.prefix}/{config.device.id}", versions_of(models))
            self._old_snapshots = old_snapshots(config, broker)
            self._open.callback(self._old_snapshots.close)
            if config.mqtt.home_assistant:
                told = described(config, models, {}, verbs)
                self._announcer = Announcer(broker, told, config.mqtt.home_assistant_prefix)
                self._open.callback(self._announcer.close)

    def renew(self, config: Config) -> None:
        """The run is another from now on: what is announced follows."""
        self._config = config
        if self._broker is not None and self._old_snapshots is not None:
            self._old_snapshots.close()
            self._old_snapshots = old_snapshots(config, self._broker)
        if self.versions is not None:
            self.versions.loaded(versions_of(self._models))
        if self._announcer is not None:
            self._announcer.update(described(config, self._models, self._known, self.verbs))

    def birth(self) -> list[Message]:
        """What every new connection begins with."""
        versions = [] if self.versions is None else self.versions.birth()
        return versions if self._announcer is None else [*versions, self._announcer.birth()]

    def tick(self) -> None:
        """Do what is due; called several times a second by one thread."""
        if self._old_snapshots is not None:
            self._old_snapshots.tick()
        if self._announcer is not None:
            self._announcer.tick()
        textfile = None if self._config.metrics is None else self._config.metrics.textfile
        if self._exporter is None or textfile is None or self._clock.mono_ns() < self._textfile_ns:
            return
        from edgerun.telemetry.prometheus import write_textfile

        self._textfile_ns = self._clock.mono_ns() + _TEXTFILE_EVERY_NS
        if self._broker is None:
            self._picture.take()
        try:
            write_textfile(textfile, self._exporter.exposition())
        except OSError as error:
            _log.warning("%s: the metrics cannot be written: %s", textfile, error.strerror or error)

    def look(self, telemetry: Mapping[str, Any]) -> None:
        """This was told of the device: what it has now and had not before gets its entities."""
        if self._announcer is None:
            return
        groups = {
            name: group for name, group in telemetry.items() if isinstance(group, Mapping) and name not in _OTHERS
        }
        for name, group in groups.items():
            self._known.setdefault(name, {}).update(group)
        self._announcer.update(described(self._config, self._models, self._known, self.verbs))

    def close(self) -> None:
        """Serve and announce no more. Idempotent."""
        self._open.close()
