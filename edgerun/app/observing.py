"""What looks at a run besides its results: input health, drift, what is collected; and how the device is described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edgerun import __version__
from edgerun.app.opening import LoadedModel
from edgerun.config import Config, StreamConfig
from edgerun.pipeline.notice import InputNotice, NoticeBoard
from edgerun.publish.collect import CollectPlan
from edgerun.publish.homeassistant import DescribedDevice, DescribedStream
from edgerun.spool.options import state_folder
from edgerun.telemetry.drift import DriftLane, DriftWatch, parse_reference
from edgerun.types import Image

Inspect = Callable[[Image, int], None]


def accounts_of(name: str, stream: StreamConfig) -> Mapping[str, str]:
    """Account → model, of a stream: its own name, or `stream/model` for each of several models."""
    if len(stream.models) == 1:
        return {name: stream.models[0]}
    return {f"{name}/{model}": model for model in stream.models}


def watch_drift(config: Config, models: Mapping[str, LoadedModel]) -> DriftWatch:
    """Scores and shares of classes of every account, against the reference of its bundle where that has one.

    Raises `ModelError` for a reference that is none.
    """
    lanes = []
    for name, stream in config.streams.items():
        for account, model in accounts_of(name, stream).items():
            bundle = models[model].bundle
            said = bundle.reference
            reference = None if said is None else parse_reference(said, f"{bundle.name}: manifest.json")
            lanes.append(DriftLane(account, name, bundle.name, reference=reference))
    return DriftWatch(lanes)


def collected(config: Config) -> dict[str, CollectPlan]:
    """What is kept of which stream."""
    kept = {}
    for name, stream in config.streams.items():
        if stream.collect is not None:
            wanted = msgspec.structs.asdict(stream.collect)
            folder = wanted.pop("folder") or state_folder() / "collect" / name
            kept[name] = CollectPlan(folder=str(folder), **wanted)
    return kept


def inspector(name: str, stream: StreamConfig, model: LoadedModel, notices: NoticeBoard) -> Inspect:
    """What looks at a stream's own pictures or windows for cameras and sensors that see nothing any more."""
    from edgerun.scene.health import Change
    from edgerun.scene.inspector import PictureInspector, SignalInspector

    def tell(change: Change) -> None:
        notices.put(InputNotice(name, change.fault, change.present, change.event, change.text))

    if model.bundle.signal is not None:
        return SignalInspector(tell).inspect
    return PictureInspector(tell, () if stream.privacy is None else stream.privacy.mask).inspect


def described(config: Config, models: Mapping[str, LoadedModel], known: Mapping[str, Any]) -> DescribedDevice:
    """The device as Home Assistant is to see it; `known` are the groups of its telemetry."""
    assert config.mqtt is not None, "asked for where there is a broker"
    return DescribedDevice(
        id=config.device.id,
        version=__version__,
        streams=tuple(_stream(name, stream, models) for name, stream in config.streams.items()),
        interval_s=config.mqtt.telemetry_interval,
        prefix=config.mqtt.prefix,
        verbs=frozenset(("pause", "resume")),
        known=known,
    )


def _stream(name: str, stream: StreamConfig, models: Mapping[str, LoadedModel]) -> DescribedStream:
    used = [models[model].bundle for model in stream.models]
    events = ["appeared", "lost"] if stream.track else []
    events += ["entered", "left"] if stream.zones else []
    events += ["dwelled"] if any(zone.dwell_s for zone in stream.zones.values()) else []
    events += ["heard"] if any(bundle.decoder == "keyword" for bundle in used) else []
    events += ["began", "ended"] if any(bundle.decoder == "vad" for bundle in used) else []
    return DescribedStream(
        name,
        tuple(accounts_of(name, stream)),
        labels=stream.labels,
        counted=any(bundle.task == "detect" for bundle in used),
        events=tuple(events),
    )
