"""What is told of the whole: who this is, what it consists of now, what it costs, and how well it is kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from edgerun.app.picturing import data_policy
from edgerun.app.preparing import Parts
from edgerun.app.renewing import LiveEngines
from edgerun.app.telling import DevicePicture
from edgerun.config import RunOptions
from edgerun.device.load import LoadSensor
from edgerun.errors import DeviceError
from edgerun.pipeline.pipeline import Pipeline
from edgerun.ports import Engine
from edgerun.telemetry import payload
from edgerun.telemetry.ledger import Ledger, StreamTotals
from edgerun.telemetry.reporter import EngineReport, ReportedDevice
from edgerun.telemetry.states import StateKeeper
from edgerun.types import EngineInfo

if TYPE_CHECKING:
    from edgerun.spool.spool import Spool
    from edgerun.telemetry.prometheus import Scraped

_log = logging.getLogger(__name__)


class Reporting:
    """Looks at what runs whenever it is asked; `parts` follows every reload."""

    def __init__(self, parts: Parts, options: RunOptions, pipeline: Pipeline, load: LoadSensor, run_id: str) -> None:
        self._parts, self._options, self._pipeline = parts, options, pipeline
        self._load, self._run_id = load, run_id

    def device(self) -> ReportedDevice:
        """Who this is and what it consists of now."""
        config = self._parts.config
        engines = {}
        for worker in self._pipeline.workers:
            bundle = self._parts.models[worker.name].bundle
            installed = payload.InstalledModel(bundle.name, bundle.version, bundle.sha256)
            engines[worker.name] = EngineReport(
                installed,
                partial(_info_of, worker.engine),
                self._pipeline.seat(worker.name).read_busy_ns,
                partial(self.cache_stats, worker.name),
            )
        return ReportedDevice(
            id=config.device.id,
            run=self._run_id,
            prefix=config.mqtt.prefix if config.mqtt else "",
            streams={name: stream.models for name, stream in config.streams.items()},
            engines=engines,
            security=self.posture(),
            policy=data_policy(config, self._options),
            labels=config.device.labels,
        )

    def posture(self) -> dict[str, Any]:
        """How the link to the broker is secured; nothing where there is none."""
        if self._parts.config.mqtt is None:
            return {}
        from edgerun.app.linking import posture

        return posture(self._parts.config)

    def groups(
        self, spool: Spool | None, audit_works: bool | None, rollout: Mapping[str, Any] | None
    ) -> dict[str, dict[str, Any]]:
        """What telemetry says of the link, its spool and what is on trial; nothing where there is no broker."""
        if spool is None:
            return {}
        from edgerun.app.linking import spool_group

        security = self.posture() | ({} if audit_works is None else {"audit": audit_works})
        return {**spool_group(spool), "security": security, **({} if rollout is None else {"rollout": dict(rollout)})}

    def cache_stats(self, model: str) -> dict[str, int] | None:
        """What a model's cache of results did; None where it has none."""
        cache = self._parts.joined.caches.get(model)
        return None if cache is None else msgspec.structs.asdict(cache.stats())

    def read_load(self) -> dict[str, float]:
        """What this process costs."""
        try:
            return {reading.name: reading.value for reading in self._load.read()}
        except DeviceError as error:  # it is then not known; the process goes on
            _log.warning("%s", error)
            return {}

    def totals(self, ledger: Ledger, model: str) -> Mapping[str, StreamTotals]:
        """What the streams of one model amount to since the start."""
        lanes = {name for name, lane in self._parts.joined.lanes.items() if lane.plan.model == model}
        return {name: one for name, one in ledger.totals().items() if name in lanes}

    def scraped(self, ledger: Ledger, states: StateKeeper, engines: LiveEngines, picture: DevicePicture) -> Scraped:
        """What Prometheus is shown."""
        from edgerun.telemetry.prometheus import Scraped

        return Scraped(ledger, states, engines, self.read_load, picture.readings, lambda: picture.latest)


def _info_of(engine: Engine) -> EngineInfo:
    return engine.info
