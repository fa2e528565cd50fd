"""What is told of the whole: who this is, what it consists of now, what it costs, and how well it is kept."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import msgspec

from edgerun.app.picturing import data_policy
from edgerun.app.preparing import Parts
from edgerun.config import RunOptions
from edgerun.device.load import LoadSensor
from edgerun.errors import DeviceError
from edgerun.pipeline.pipeline import Pipeline
from edgerun.ports import Engine
from edgerun.telemetry import payload
from edgerun.telemetry.reporter import EngineReport, ReportedDevice
from edgerun.types import EngineInfo

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


def _info_of(engine: Engine) -> EngineInfo:
    return engine.info
