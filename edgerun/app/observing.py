"""What looks at a run besides its results: input health, drift, what is collected; and how the device is described."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edgerun import __version__
from edgerun.app.drift_file import DriftFile
from edgerun.app.opening import LoadedModel
from edgerun.config import Config, StreamConfig
from edgerun.models.bundle import Bundle
from edgerun.pipeline.notice import InputNotice, NoticeBoard
from edgerun.publish.collect import CollectPlan
from edgerun.publish.homeassistant import DescribedDevice, DescribedStream, ModelVersions
from edgerun.spool.options import state_folder
from edgerun.telemetry.drift import DriftLane, DriftWatch, parse_reference
from edgerun.telemetry.identity import board
from edgerun.types import Image

Inspect = Callable[[Image, int], None]


def accounts_of(name: str, stream: StreamConfig) -> Mapping[str, str]:
    """Account → model, of a stream: its own name, or `stream/model` for each of several models."""
    if len(stream.models) == 1:
        return {name: stream.models[0]}
    return {f"{name}/{model}": model for model in stream.models}


def watch_drift(config: Config, models: Mapping[str, LoadedModel]) -> DriftWatch:
    """Scores and shares of classes of every account, against the reference of its bundle where that has one, else
    against what is learnt, in earlier runs too.

    Raises `ModelError` for a reference that is none.
    """
    return DriftWatch(drift_lanes(config, models))


def drift_lanes(config: Config, models: Mapping[str, LoadedModel]) -> list[DriftLane]:
    """What `watch_drift` watches. Raises `ModelError` for a reference that is none."""
    learnt = {} if config.mqtt is None else DriftFile(state_folder()).read(config.device.id)
    lanes = []
    for name, stream in config.streams.items():
        for account, model in accounts_of(name, stream).items():
            bundle = models[model].bundle
            said = bundle.reference
            reference = None if said is None else parse_reference(said, f"{bundle.name}: manifest.json")
            subject, known = subject_of(stream, bundle), learnt.get(account)
            lane = DriftLane(account, name, bundle.name, reference=reference, subject=subject, learnt=known)
            lanes.append(lane)
    return lanes


def drift_keeper(config: Config, drift: DriftWatch) -> Callable[[], None]:
    """What keeps that which `drift` has learnt; nothing where nobody is told of it."""
    file = DriftFile(state_folder())

    def keep() -> None:
        if config.mqtt is not None:
            file.write(config.device.id, drift.learnt())

    return keep


def subject_of(stream: StreamConfig, bundle: Bundle) -> str:
    """What decides what a model usually sees there, as a hash: the model, where its frames come from, what is reported.

    Names and passwords in the source's address are not in it.
    """
    source = msgspec.json.encode(stream.source, enc_hook=str, order="deterministic").decode()
    said = (bundle.sha256, re.sub(r"//[^/@]*@", "//", source), stream.threshold, stream.labels, stream.region)
    return hashlib.sha256(msgspec.json.encode(said, enc_hook=str)).hexdigest()[:16]


def collected(config: Config) -> dict[str, CollectPlan]:
    """What is kept of which stream."""
    kept = {}
    for name, stream in config.streams.items():
        if stream.collect is not None:
            wanted = msgspec.structs.asdict(stream.collect)
            folder = wanted.pop("folder") or state_folder() / "collect" / name
            kept[name] = CollectPlan(folder=str(folder), max_age_s=wanted.pop("max_age"), **wanted)
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


def described(
    config: Config,
    models: Mapping[str, LoadedModel],
    known: Mapping[str, Any],
    verbs: frozenset[str] = frozenset(("pause", "resume")),
) -> DescribedDevice:
    """The device as Home Assistant is to see it; `known` are the groups of its telemetry, `verbs` what it obeys."""
    assert config.mqtt is not None, "asked for where there is a broker"
    return DescribedDevice(
        id=config.device.id,
        version=__version__,
        streams=tuple(_stream(name, stream, models) for name, stream in config.streams.items()),
        interval_s=config.mqtt.telemetry_interval,
        prefix=config.mqtt.prefix,
        board=board(),
        models=tuple(models),
        verbs=verbs,
        known=known,
    )


def versions_of(models: Mapping[str, LoadedModel]) -> dict[str, ModelVersions]:
    """What is told of the models as they are loaded; nobody has looked for newer ones yet."""
    return {name: ModelVersions(model.bundle.version, title=model.bundle.name) for name, model in models.items()}


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
        snapshot=stream.snapshot is not None,
        events=tuple(events),
    )
