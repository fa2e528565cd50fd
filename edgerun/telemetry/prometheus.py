"""The meters as Prometheus reads them: a collector without a state of its own, an exposition, a textfile.

Everything is a total since the process started, read from the ledger when somebody scrapes: telemetry's intervals take
nothing away from it. Names follow https://prometheus.io/docs/practices/naming/ (base units, `_total` on counters).
`prometheus_client` is imported when a collector is made: it costs 150 ms and 14 MiB that only those pay who want it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgerun import __version__
from edgerun.errors import DeviceError, MissingError
from edgerun.meter import STAGES, Histogram
from edgerun.telemetry.ledger import Ledger
from edgerun.telemetry.naming import Metric, metric_of
from edgerun.telemetry.reporter import EngineReport
from edgerun.telemetry.states import StateKeeper
from edgerun.types import Reading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_OCTAVES = tuple(range(8, 25))
"""Histograms are told at powers of two of a microsecond, 0.256 ms to 16.8 s, where their buckets end: exactly."""
_STATES = ("running", "stalled", "paused", "degraded", "ended")


class Scraped(msgspec.Struct, frozen=True):
    """What a scrape looks at. All of the functions may be called by any thread.

    `read_load` gives `rss_mib` and `cpu_s`, `read_device` the newest readings of the sensors, `read_groups` groups of
    telemetry by name: of them `power`, `spool` and `thermal` are told.
    """

    ledger: Ledger
    states: StateKeeper
    engines: Mapping[str, EngineReport]
    read_load: Callable[[], Mapping[str, float]] = dict
    read_device: Callable[[], Sequence[Reading]] = tuple
    read_groups: Callable[[], Mapping[str, Mapping[str, Any]]] = dict


def without_client(error: ImportError) -> MissingError:
    """What is said where `prometheus_client` cannot be imported."""
    return MissingError(
        "metrics need the prometheus-client library", got=str(error), remedy="pip install 'edgerun[metrics]'"
    )


class Exporter:
    """Makes the exposition. Thread-safe. Raises `MissingError` where `prometheus_client` is not installed."""

    def __init__(self, scraped: Scraped) -> None:
        try:
            registry_class = _client("core").CollectorRegistry
        except ImportError as error:
            raise without_client(error) from error
        self._registry = registry_class()
        self._registry.register(Collector(scraped))

    def exposition(self) -> bytes:
        """Everything there is to tell now, in the text format (`CONTENT_TYPE`)."""
        return bytes(_client("exposition").generate_latest(self._registry))


def write_textfile(path: Path, exposition: bytes) -> None:
    """For node_exporter's textfile collector: `path` (`….prom`) is whole at any moment, and anybody may read it.

    Raises `DeviceError`.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # its reader takes only what ends in .prom
    try:
        beside.write_bytes(exposition)
        beside.chmod(0o644)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DeviceError(
            "the metrics cannot be written there",
            where=path,
            got=error.strerror or error,
            remedy="name a file in a folder that exists and that this user may write to",
        ) from error


class Collector:
    """See `prometheus_client.registry.Collector`."""

    def __init__(self, scraped: Scraped) -> None:
        self._scraped = scraped

    def collect(self) -> Iterator[Any]:
        """The metric families of this moment."""
        yield _gauge("edgerun_build_info", "The version that runs; always 1.", [({"version": __version__}, 1)])
        yield from self._streams()
        yield from self._engines()
        yield from self._process()
        yield from self._groups()
        yield from _device_families(self._scraped.read_device())

    def _streams(self) -> Iterator[Any]:
        totals = self._scraped.ledger.totals()
        views = {name: total.account for name, total in totals.items()}
        yield _counter(
            "edgerun_frames_grabbed",
            "Frames taken from the source: the sum of edgerun_frames_total and edgerun_frames_in_flight.",
            [({"stream": name}, view.grabbed) for name, view in views.items()],
        )
        yield _counter(
            "edgerun_frames",
            "Frames by what became of them.",
            [({"stream": n, "fate": fate}, count) for n, view in views.items() for fate, count in view.fates.items()],
        )
        yield _gauge(
            "edgerun_frames_in_flight",
            "Frames on their way.",
            [({"stream": name}, view.in_flight) for name, view in views.items()],
        )
        reasons = [
            ({"stream": name, "reason": reason}, count)
            for name, view in views.items()
            for reason, count in view.failed_reasons.items()
        ]
        yield _counter("edgerun_frames_failed", "Failed frames by reason.", reasons, labels=("stream", "reason"))
        yield _histogram(
            "edgerun_result_age_seconds",
            "Age of published results, from capture to publishing.",
            [({"stream": name}, total.age) for name, total in totals.items()],
        )
        yield _histogram(
            "edgerun_stage_duration_seconds",
            "Time that frames spent in each stage.",
            [({"stream": n, "stage": s}, total.stages[s]) for n, total in totals.items() for s in STAGES],
        )
        states = self._scraped.states.all()
        yield _gauge(
            "edgerun_stream_state",
            "1 for the state that the stream is in.",
            [({"stream": n, "state": s}, int(one.state == s)) for n, one in states.items() for s in _STATES],
        )
        faults = [({"stream": n, "fault": fault}, 1) for n in states for fault in self._scraped.states.faults(n)]
        yield _gauge("edgerun_input_fault", "1 while this is wrong with the input.", faults, labels=("stream", "fault"))

    def _engines(self) -> Iterator[Any]:
        engines = self._scraped.engines
        infos = {name: engine.info() for name, engine in engines.items()}
        yield _gauge(
            "edgerun_engine_info",
            "What runs each model; always 1.",
            [
                (
                    {
                        "engine": name,
                        "model": engine.model.name,
                        "version": engine.model.version,
                        "runtime": infos[name].runtime,
                        "accelerator": infos[name].accelerator,
                    },
                    1,
                )
                for name, engine in engines.items()
            ],
        )
        yield _counter(
            "edgerun_engine_busy_seconds",
            "Time that the engine's worker spent on frames.",
            [({"engine": name}, engine.busy_ns() / 1e9) for name, engine in engines.items()],
        )
        yield _gauge(
            "edgerun_engine_degraded",
            "1 while a preferred accelerator was refused or lost.",
            [({"engine": name}, int(bool(info.fallbacks))) for name, info in infos.items()],
        )
        caches = {name: stats for name, engine in engines.items() if (stats := engine.cache()) is not None}
        found = [({"engine": n, "found": f}, stats[f]) for n, stats in caches.items() for f in ("hits", "misses")]
        yield _counter("edgerun_cache_lookups", "Looks into the cache of results.", found, labels=("engine", "found"))
        used = [({"engine": name}, stats["bytes"]) for name, stats in caches.items()]
        yield _gauge("edgerun_cache_bytes", "Memory that cached results take.", used, labels=("engine",))

    def _process(self) -> Iterator[Any]:
        load = self._scraped.read_load()
        if "rss_mib" in load:
            text = "Resident memory of the process."
            yield _gauge("edgerun_process_resident_memory_bytes", text, [({}, load["rss_mib"] * 2**20)])
        if "cpu_s" in load:
            yield _counter("edgerun_process_cpu_seconds", "CPU time of the process.", [({}, load["cpu_s"])])

    def _groups(self) -> Iterator[Any]:
        groups = self._scraped.read_groups()
        power, thermal, spool = (groups.get(name, {}) for name in ("power", "thermal", "spool"))
        if "energy_kwh" in power:
            labels = {"source": str(power.get("source", ""))}
            yield _counter("edgerun_energy_joules", "Energy used.", [(labels, power["energy_kwh"] * 3.6e6)])
        if "throttled" in thermal:
            text = "1 while something slows the machine down."
            yield _gauge("edgerun_throttled", text, [({}, int(thermal["throttled"]))])
        if "messages" in spool:
            yield _gauge("edgerun_spool_messages", "Messages that wait on disk.", [({}, spool["messages"])])
            yield _gauge("edgerun_spool_bytes", "Bytes of the spool on disk.", [({}, spool["bytes"])])
            yield _counter("edgerun_spool_dropped", "Messages lost to the budget.", [({}, spool["dropped"])])


def _client(module: str) -> Any:
    return importlib.import_module(f"prometheus_client.{module}")


_Samples = Sequence[tuple[Mapping[str, str], float]]


def _device_families(readings: Sequence[Reading]) -> Iterator[Any]:
    families: dict[str, tuple[Metric, list[tuple[Mapping[str, str], float]]]] = {}
    for reading in readings:
        metric = metric_of(reading)
        if metric is not None:
            families.setdefault(metric.name, (metric, []))[1].append(({"place": metric.place}, metric.value))
    for name, (metric, samples) in sorted(families.items()):
        make = _counter if metric.counts else _gauge
        yield make(name, metric.text, samples)


def _gauge(name: str, text: str, samples: _Samples, labels: Sequence[str] = ()) -> Any:
    return _filled(_client("core").GaugeMetricFamily(name, text, labels=_labels(samples, labels)), samples)


def _counter(name: str, text: str, samples: _Samples, labels: Sequence[str] = ()) -> Any:
    """`_total` is added to the name."""
    return _filled(_client("core").CounterMetricFamily(name, text, labels=_labels(samples, labels)), samples)


def _filled(family: Any, samples: _Samples) -> Any:
    for labels, value in samples:
        family.add_metric(list(labels.values()), value)
    return family


def _labels(samples: _Samples, labels: Sequence[str]) -> list[str]:
    return list(samples[0][0]) if samples else list(labels)


def _histogram(name: str, text: str, samples: Sequence[tuple[Mapping[str, str], Histogram]]) -> Any:
    family = _client("core").HistogramMetricFamily(name, text, labels=list(samples[0][0]) if samples else [])
    for labels, values in samples:
        counts = values.cumulative(_OCTAVES)
        buckets = [(f"{2.0**octave / 1e6:.6g}", float(n)) for octave, n in zip(_OCTAVES, counts, strict=True)]
        family.add_metric(list(labels.values()), [*buckets, ("+Inf", float(values.count))], values.sum_ms / 1e3)
    return family
