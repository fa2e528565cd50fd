"""The pipeline of a config: lanes, their way in, the workers and the cascades between them; whole, or by streams."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from edgerun.app.listening import LISTENERS, check_listener, check_windows, listener, source_options
from edgerun.app.observing import Inspect, inspector
from edgerun.app.opening import LoadedModel, check_labels, check_state, of_crops, open_decoder
from edgerun.app.picturing import check_snapshot, check_variant
from edgerun.app.remoting import asked, make_remote_worker
from edgerun.clock import Clock
from edgerun.config import Config, GateConfig, ModelConfig, RunOptions, StreamConfig, ThenConfig, TrackConfig
from edgerun.errors import ConfigError
from edgerun.infer.state import reset
from edgerun.models import Bundle
from edgerun.pipeline.cache import ResultCache
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.cascade import CascadePlan, CropChooser
from edgerun.pipeline.ending import Delivery, Ending
from edgerun.pipeline.gating import GatePlan
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.pipeline.notice import NoticeBoard
from edgerun.pipeline.overlap import OverlappedWorker
from edgerun.pipeline.pipeline import lanes_of
from edgerun.pipeline.turns import Batching, Turns
from edgerun.pipeline.worker import Worker
from edgerun.ports import Broker, Gate, Scene, Source, SourceContext
from edgerun.preprocess import PicturePreprocess
from edgerun.registry import resolve
from edgerun.slot import Outbox
from edgerun.types import Image, ModelInfo
from edgerun.wake import Wake

_log = logging.getLogger(__name__)

_ENOUGH = 0.95
"""A frame decoded at a reduced scale may be this much of the model's input. At 0.96 (288 rows of 576, for 300) the
bundled detector finds the same 485 objects of the bundled clip as in the whole frames."""
_MOST_AWAITED = 16  # crops that wait for a cascade's model before the oldest give way
_MOST_ORDERED = 32  # frames that wait for a model that wants all of them: a second of windows of 32 ms


class Surroundings(msgspec.Struct, frozen=True):
    """What every part of one run shares. `keep_pictures`: results carry their picture; `keep_whole`: at full size;
    `pictures_of`: those of these streams carry the one that was inferred; `looked_at`: those of this one do for now.
    """

    clock: Clock
    notices: NoticeBoard
    outbox: Outbox[Delivery]
    stood_still: Callable[[int], bool]
    keep_pictures: bool
    keep_whole: bool
    broker: Broker | None = None
    pictures_of: frozenset[str] = frozenset()
    looked_at: Callable[[str], bool] = lambda stream: False
    address: tuple[str, str] = ("edgerun", "")
    """The first two levels of this device's topics."""


class JoinedStream(msgspec.Struct, frozen=True):
    """One stream as it runs: its way in, and every account by the name it is published under."""

    capture: Capture
    accounts: Mapping[str, Lane]
    source: msgspec.Struct
    """The options of its source, with what they leave to the model filled in."""

    @property
    def lanes(self) -> list[Lane]:
        """All of them, in the order of `plan_stream`."""
        return lanes_of([self.capture])


class Joined(msgspec.Struct, frozen=True):
    """What a config was made into. `ready` is what all Slots of one engine share."""

    streams: Mapping[str, JoinedStream]
    workers: Sequence[Worker]
    ready: Mapping[str, threading.Condition]
    caches: Mapping[str, ResultCache]

    @property
    def captures(self) -> list[Capture]:
        """Every stream's way in."""
        return [one.capture for one in self.streams.values()]

    @property
    def lanes(self) -> dict[str, Lane]:
        """Every account's lane."""
        return {name: lane for one in self.streams.values() for name, lane in one.accounts.items()}


def used_models(config: Config) -> set[str]:
    """The names of the models that some stream uses."""
    used: set[str] = set()
    for stream in config.streams.values():
        used |= {*stream.models, *([stream.then.model] if stream.then else [])}
        used |= {variant for model in stream.models for variant in config.models[model].variants}
    return used


def models_to_load(config: Config) -> Iterator[tuple[str, ModelConfig]]:
    """The models that some stream uses, in the config's order; the others are told."""
    used = used_models(config)
    for name, model in config.models.items():
        if name in used:
            yield name, model
        else:
            _log.warning("model %s is used by no stream and is not loaded", name)


def join(config: Config, options: RunOptions, models: Mapping[str, LoadedModel], shared: Surroundings) -> Joined:
    """Everything between the sources and the Outbox. Raises `ConfigError` or `ModelError`."""
    for name, model in models.items():
        check_state(config, name, model)
    ready = {name: threading.Condition() for name in models}
    caches = make_caches(config, models)
    streams = {name: join_stream(name, config, options, models, ready, caches, shared) for name in config.streams}
    workers = [
        make_worker(name, config.models[name], models[name], lanes_to(name, streams), ready[name], shared)
        for name in models
    ]
    return Joined(streams, workers, ready, caches)


def make_caches(config: Config, names: Iterable[str]) -> dict[str, ResultCache]:
    """A cache for each of these models that is to have one."""
    return {name: ResultCache(size) for name in names if (size := config.models[name].cache)}


def lanes_to(model: str, streams: Mapping[str, JoinedStream]) -> list[Lane]:
    """The lanes that one model serves, in the order of the streams."""
    return [lane for one in streams.values() for lane in one.lanes if lane.plan.model == model]


def join_stream(
    name: str,
    config: Config,
    options: RunOptions,
    models: Mapping[str, LoadedModel],
    ready: Mapping[str, threading.Condition],
    caches: Mapping[str, ResultCache],
    shared: Surroundings,
) -> JoinedStream:
    """The lanes of one stream and its way in, not started. Raises `ConfigError` or `ModelError`."""
    stream = config.streams[name]
    own: list[Lane] = []
    accounts: dict[str, Lane] = {}
    for plans in _plans(name, config, models):
        made = [Lane(plan, ready[plan.model], _cache(plan, caches)) for plan in plans]
        lane, key = made[0], name if len(stream.models) == 1 else f"{name}/{plans[0].model}"
        own.append(lane)
        accounts[key] = lane
        rest = made[1:]
        if stream.then is not None:
            lane.cascade = rest.pop(0)
            accounts[f"{key}/{stream.then.model}"] = lane.cascade
            lane.chooser = lane.cascade.chooser = CropChooser(_crop_plan(stream.then))
        for stand_in in rest:
            lane.add_stand_in(stand_in)
    given = check_stream(name, stream, models)
    first = models[stream.models[0]]
    return JoinedStream(_capture(name, stream, given, first, own, options, shared), accounts, given)


def plan_stream(name: str, config: Config, models: Mapping[str, LoadedModel]) -> list[LanePlan]:
    """The plans of one stream's lanes, in the order of `JoinedStream.lanes`. Raises `ConfigError` or `ModelError`."""
    return [plan for plans in _plans(name, config, models) for plan in plans]


def check_stream(name: str, stream: StreamConfig, models: Mapping[str, LoadedModel]) -> msgspec.Struct:
    """The options of the stream's source, with what they leave to the model filled in.

    Raises `ConfigError` when the models cannot take what comes, or not together.
    """
    own = [models[one] for one in stream.models]
    check_labels(name, stream, own)
    check_snapshot(name, stream, [one.bundle for one in own])
    check_windows(name, stream, models)
    for one in own:
        check_listener(name, stream, one.bundle)
    return source_options(name, stream, own[0].bundle, own[0].preprocess)


def remembers_alike(before: StreamConfig, old: Bundle, after: StreamConfig, new: Bundle) -> bool:
    """Whether what a stream remembers of its scene says the same with another config and another model."""
    keys = ("track", "zones", "keyword", "activity")
    if any(getattr(before, key) != getattr(after, key) for key in keys) or old.labels != new.labels:
        return False
    listens = old.decoder in LISTENERS or new.decoder in LISTENERS
    return not listens or (old.decoder, old.signal, before.threshold) == (new.decoder, new.signal, after.threshold)


def _plans(name: str, config: Config, models: Mapping[str, LoadedModel]) -> list[list[LanePlan]]:
    """For each model of the stream: its lane's plan, that of the crops of a cascade, those of what may stand in."""
    stream, found = config.streams[name], []
    check_labels(name, stream, [models[one] for one in stream.models])
    check_snapshot(name, stream, [models[one].bundle for one in stream.models])
    for model in stream.models:
        plan = _plan(name, stream, model, models[model])
        then = stream.then
        crops = [] if then is None else [_cascade_plan(name, stream, then, models[then.model])]
        variants = config.models[model].variants
        found.append([plan, *crops, *(_variant_plan(name, stream, one, models, plan) for one in variants)])
    return found


def _cache(plan: LanePlan, caches: Mapping[str, ResultCache]) -> ResultCache | None:
    """Crops have none: their payload is not the frame's."""
    return None if plan.crops else caches.get(plan.model)


def _plan(name: str, stream: StreamConfig, model_name: str, model: LoadedModel) -> LanePlan:
    then = stream.then
    return LanePlan(
        stream=name,
        decoder=open_decoder(name, model, stream),
        model=model_name,
        max_age_ms=stream.max_age_ms,
        max_fps=stream.max_fps,
        min_fps=stream.min_fps,
        weight=stream.weight,
        region=stream.region,
        depth=_MOST_ORDERED if model.ordered else 1,
        enough=None if then is not None else _enough(stream, model),
        scene=_scene(name, stream, model),
        ordered=model.ordered,
        window=model.bundle.signal is not None,
        threshold=asked(stream, model.bundle),
    )


def _variant_plan(
    name: str, stream: StreamConfig, variant: str, models: Mapping[str, LoadedModel], plan: LanePlan
) -> LanePlan:
    """The lane that may stand in for one: of the same stream, and with the same memory of its scene."""
    model = models[variant]
    check_labels(name, stream, [model])
    check_variant(name, stream, models[plan.model].bundle, model.bundle)
    made = _plan(name, msgspec.structs.replace(stream, model=variant, track=False), variant, model)
    if plan.ordered or made.ordered:
        raise ConfigError(
            "a model that remembers what came before has no variants, and is none",
            where=f"models.{plan.model}.variants",
            got=variant,
            remedy="remove variants",
        )
    return msgspec.structs.replace(made, scene=plan.scene)


def _crop_plan(then: ThenConfig) -> CascadePlan:
    return CascadePlan(
        frozenset(then.on), then.max_crops, then.margin, round(then.every_s * 1e9), then.score, then.whole
    )


def _cascade_plan(name: str, stream: StreamConfig, then: ThenConfig, model: LoadedModel) -> LanePlan:
    """The crops' own lane: of the stream's weight and deadline, without its caps, gate and scene."""
    return LanePlan(
        stream=name,
        decoder=open_decoder(name, model, of_crops(stream, then)),
        model=then.model,
        max_age_ms=stream.max_age_ms,
        weight=stream.weight,
        depth=max(_MOST_AWAITED, then.max_crops),
        crops=True,
        threshold=asked(of_crops(stream, then), model.bundle),
    )


def _enough(stream: StreamConfig, model: LoadedModel) -> tuple[int, int] | None:
    """The smallest frame in which the part that the model looks at is hardly smaller than its input."""
    if stream.gate is not None and stream.gate.crop:
        return None
    x0, y0, x1, y1 = stream.region or (0.0, 0.0, 1.0, 1.0)
    width, height = model.preprocess.size
    shown = 0 if stream.snapshot is None else stream.snapshot.width
    return max(shown, round(_ENOUGH * width / (x1 - x0))), round(_ENOUGH * height / (y1 - y0))


def _scene(name: str, stream: StreamConfig, model: LoadedModel) -> Scene | None:
    if model.bundle.decoder in LISTENERS:
        return listener(name, stream, model.bundle)
    if not stream.track:
        return None
    from edgerun.scene.memory import SceneMemory
    from edgerun.scene.track import TrackOptions
    from edgerun.scene.zones import Zone

    track = stream.track if isinstance(stream.track, TrackConfig) else TrackConfig()
    zones = [Zone(name, zone.polygon, zone.labels, zone.dwell_s) for name, zone in stream.zones.items()]
    return SceneMemory(TrackOptions(lost_s=track.lost_s), zones)


def _gate_plan(stream: StreamConfig, inspect: Inspect) -> GatePlan:
    gate = stream.gate
    return GatePlan(
        gate=None if gate is None else _gate(gate),
        still_ns=0 if gate is None else round(gate.still_s * 1e9),
        crop=gate is not None and gate.crop,
        blackout=_blackout(stream),
        share=0.0 if gate is None else gate.motion,
        inspect=inspect,
    )


def _gate(config: GateConfig) -> Gate:
    from edgerun.scene.glance import Glance
    from edgerun.scene.motion import MotionGate

    return Glance(MotionGate(config.motion, config.hold_s, config.mask))


def _blackout(stream: StreamConfig) -> Callable[[Image], None] | None:
    if stream.privacy is None or not stream.privacy.mask:
        return None
    from edgerun.scene.mask import Blackout

    return Blackout(stream.privacy.mask).apply


def _capture(
    name: str,
    stream: StreamConfig,
    given: msgspec.Struct,
    first: LoadedModel,
    lanes: Sequence[Lane],
    options: RunOptions,
    shared: Surroundings,
) -> Capture:
    source_class = resolve("source", stream.source.kind)

    def open_source(stop: threading.Event, wake: Wake) -> Source:
        context = SourceContext(
            name,
            shared.clock,
            stop,
            as_fast=stream.as_fast or options.as_fast,
            loop=stream.loop or options.loop,
            wake=wake,
            broker=shared.broker,
        )
        source: Source = source_class(given, context)
        return source

    intake = Intake(
        lanes,
        shared.clock,
        gate=_gate_plan(stream, inspector(name, stream, first, shared.notices)),
        keep_pictures=shared.keep_pictures,
        keep_whole=shared.keep_whole,
        looked_at=partial(shared.looked_at, name),
        spare_core=len(os.sched_getaffinity(0)) > 1,
    )
    return Capture(
        name,
        open_source,
        intake,
        shared.clock,
        shared.notices,
        frames=options.frames,
        stood_still=shared.stood_still,
    )


def make_worker(
    name: str,
    config: ModelConfig,
    model: LoadedModel,
    lanes: Sequence[Lane],
    ready: threading.Condition,
    shared: Surroundings,
) -> Worker:
    """What serves these lanes with one model, not running."""
    batch = config.batch
    batching = Batching() if batch is None else Batching(batch.max, round(batch.max_delay_ms * 1e6))
    info = ModelInfo(model.bundle.name, model.bundle.version, model.engine.info.accelerator)
    turns = Turns(lanes, ready, shared.clock, batching)
    shown = any(lane.plan.stream in shared.pictures_of for lane in lanes)
    keep_pictures = shared.keep_pictures or shown
    ending = Ending(info, shared.outbox, shared.clock, keep_pictures=keep_pictures, looked_at=shared.looked_at)
    if model.outsourced is not None and isinstance(model.preprocess, PicturePreprocess):
        parts = (name, model.bundle, model.outsourced, model.preprocess, turns, ending, shared.clock)
        return make_remote_worker(*parts, shared.broker, shared.address)
    # Of what remembers, nothing is prepared before the answer to what came before is there.
    kind = OverlappedWorker if model.overlapped and not model.ordered else Worker
    return kind(name, model.engine, model.preprocess, turns, ending, shared.clock, partial(reset, model.engine))
