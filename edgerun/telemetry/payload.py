"""What is published besides results, as plain dicts ready for JSON: the payloads of docs/schema.

Counters (`grabbed` and the fates) are totals since the process started, everywhere. Latencies, ages and `fps` cover the
time their message covers: the interval in `telemetry`, the whole run in the summary (`ledger.py` keeps the two apart).
A key whose value is not known is left out, never written as 0.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgerun import __version__
from edgerun.meter import STAGES, Histogram, StreamMeter
from edgerun.telemetry.identity import board, boot_id
from edgerun.types import EngineInfo

VERSION = 1
"""The `v` of every message; a breaking change makes it 2."""

PERCENTS = (50, 90, 95, 99)
"""Percentiles of ages and latencies in telemetry, each with the maximum."""

State = Literal["running", "stalled", "paused", "degraded", "ended"]


class InstalledModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as the birth certificate names it; `sha256` (hex) of the model file that runs."""

    name: str
    version: str
    sha256: str | None = None


def stream_summary(
    meter: StreamMeter, seconds: float, *, published_before: int = 0, grabbed_before: int | None = None
) -> dict[str, Any]:
    """One stream's account, rate and percentiles; nothing is reset.

    `seconds` is the time that the meter's histograms cover, `published_before` the `published` counter at its
    beginning: `fps` = results published in that time / seconds. Ages and latencies in ms; without any value the
    key is left out, as is `fps` of no time at all. With `grabbed_before`, likewise, it is telemetry's: `grabbed_fps` is
    in it, and all of `PERCENTS`.
    """
    full = grabbed_before is not None
    view = meter.account.view()
    out: dict[str, Any] = {"grabbed": view.grabbed, **view.fates, "in_flight": view.in_flight}
    if view.failed_reasons:
        out["failed_reasons"] = dict(view.failed_reasons)
    if seconds > 0:
        out["fps"] = round((view.fates["published"] - published_before) / seconds, 2)
        if grabbed_before is not None:
            out["grabbed_fps"] = round((view.grabbed - grabbed_before) / seconds, 2)
    if age_ms := meter.age.summary(PERCENTS) if full else meter.age.summary():
        out["age_ms"] = age_ms
    told = {stage: _latency(meter.stages[stage], full) for stage in STAGES}
    latency_ms = {stage: values for stage, values in told.items() if values}
    if latency_ms:
        out["latency_ms"] = latency_ms
    return out


def engine_summary(model: str, info: EngineInfo, cache: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What ran, for the run's summary; `fallbacks` only when the accelerator is not the first that was asked for.

    `cache`: hits, misses, entries and bytes of its cache of results, where it has one.
    """
    out: dict[str, Any] = {
        "model": model,
        "runtime": info.runtime,
        "accelerator": info.accelerator,
        "threads": info.threads,
    }
    if info.fallbacks:
        out["fallbacks"] = _fallbacks(info)
    return out | _known(cache=cache)


def engine_telemetry(
    info: EngineInfo, *, busy: float | None = None, cache: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """What runs, for telemetry: `busy` is the share of the interval (0..1) in which the engine's worker worked.

    `cache` as in `engine_summary`; its counters are totals. `degraded` says that a preferred accelerator was refused or
    lost.
    """
    out: dict[str, Any] = {"accelerator": info.accelerator}
    if busy is not None:
        out["busy"] = round(min(1.0, max(0.0, busy)), 3)
    out["degraded"] = bool(info.fallbacks)
    if info.fallbacks:
        out["fallbacks"] = _fallbacks(info)
    return out | _known(cache=cache)


def summary(
    *,
    seconds: float,
    streams: Mapping[str, Mapping[str, Any]],
    engines: Mapping[str, Mapping[str, Any]],
    rss_mib: float | None = None,
    cpu_s: float | None = None,
    start_to_first_result_s: float | None = None,
    mqtt: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a whole run (`--json`): a `stream_summary` by stream, an `engine_summary` by engine.

    `mqtt` says what became of the messages given to the broker: `acked`, `waiting`, `dropped` by reason.
    """
    out: dict[str, Any] = {"seconds": round(seconds, 2), "streams": _plain(streams), "engines": _plain(engines)}
    return out | _known(
        rss_mib=_rounded(rss_mib, 1),
        cpu_s=_rounded(cpu_s, 2),
        start_to_first_result_s=_rounded(start_to_first_result_s, 3),
        mqtt=None if mqtt is None else dict(mqtt),
    )


def telemetry(
    *,
    run: str,
    number: int,
    ts: float,
    interval_s: float,
    streams: Mapping[str, Mapping[str, Any]],
    engines: Mapping[str, Mapping[str, Any]],
    thermal: Mapping[str, Any] | None = None,
    power: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
    spool: Mapping[str, Any] | None = None,
    **groups: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The message on `…/telemetry`. `ts` in Unix seconds; `interval_s` is the time it really covers.

    `run` is the process's 8 hex digits, `number` counts its telemetry. `groups` are the further ones of the schema:
    `disk`, `clock`, `sensors` …. Empty groups are left out.
    """
    out: dict[str, Any] = {
        "v": VERSION,
        "id": f"{run}-t{number}",
        "ts": round(ts, 3),
        "interval_s": round(interval_s, 3),
        "streams": _plain(streams),
        "engines": _plain(engines),
    }
    known = {"thermal": thermal, "power": power, "memory": memory, "spool": spool, **groups}
    return out | {key: dict(group) for key, group in known.items() if group}


def info(
    *,
    device: str,
    run: str,
    ts: float,
    runtimes: Sequence[str],
    models: Mapping[str, InstalledModel],
    streams: Mapping[str, Sequence[str]],
    accelerators: Mapping[str, str],
    root: Path = Path("/"),
    security: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The birth certificate on `…/info`.

    `runtimes` as the engines name themselves ("litert 2.3.0"), `models` by their name in the config, `streams` as
    {stream: names of its models}, `accelerators` as {engine: accelerator in use}, `security` as who may read and change
    what, `policy` as what leaves the device and what it keeps, `labels` as the operator's own. Boot id and board are
    read below `root`, and left out where the machine has none.
    """
    out: dict[str, Any] = {"v": VERSION, "device": device, "ts": round(ts, 3), "run": run}
    out |= _known(boot_id=boot_id(root), board=board(root))
    out["versions"] = {
        "edgerun": __version__,
        "python": platform.python_version(),
        "runtimes": sorted(set(runtimes)),
    }
    out["models"] = {name: msgspec.to_builtins(model) for name, model in models.items()}
    out["streams"] = {
        stream: {"model": names[0]} if len(names) == 1 else {"models": list(names)} for stream, names in streams.items()
    }
    out["accelerators"] = dict(accelerators)
    if security:
        out["security"] = dict(security)
    if policy:
        out["data_policy"] = dict(policy)
    if labels:
        out["labels"] = dict(labels)
    return out


def state(
    state: State,
    *,
    reason: str | None = None,
    accelerator: str | None = None,
    counts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The retained message on `…/state/<stream>`: `state` is running, stalled, paused, degraded or ended.

    `counts` says how many of each label the newest result holds; None where nothing is counted (a classification).
    """
    counted = None if counts is None else dict(counts)
    return {"v": VERSION, "state": state, **_known(reason=reason or None, accelerator=accelerator, counts=counted)}


def event(
    *,
    run: str,
    number: int,
    ts: float,
    kind: str,
    text: str,
    stream: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """One message on `…/event`: `kind` for programs (`stalled`, `fell_back`, …), `text` a sentence for a person."""
    out: dict[str, Any] = {"v": VERSION, "id": f"{run}-e{number}", "ts": round(ts, 3), "kind": kind}
    return {**out, **_known(stream=stream, reason=reason or None), "text": text}


def _latency(histogram: Histogram, full: bool) -> dict[str, float]:
    return histogram.summary(PERCENTS) if full else histogram.summary((50, 99), with_max=False)


def _fallbacks(info: EngineInfo) -> list[dict[str, str]]:
    return [{"accelerator": accelerator, "reason": reason} for accelerator, reason in info.fallbacks]


def _plain(named: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: dict(value) for name, value in named.items()}


def _known(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
