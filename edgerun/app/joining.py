"""The pipeline of a config: lanes, their way in, the workers and the cascades between them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from edgerun.app.listening import LISTENERS, check_listener, check_windows, listener, source_options
from edgerun.app.observing import Inspect, inspector
from edgerun.app.opening import LoadedModel, check_labels, check_state, of_crops, open_decoder
from edgerun.clock import Clock
from edgerun.config import Config, GateConfig, ModelConfig, RunOptions, StreamConfig, ThenConfig, TrackConfig
from edgerun.errors import ConfigError
from edgerun.infer.state import reset
from edgerun.pipeline.cache import ResultCache
from edgerun.pipeline.capture import Capture
from edgerun.pipeline.cascade import CascadePlan, CropChooser
from edgerun.pipeline.ending import Delivery, Ending
from edgerun.pipeline.gating import GatePlan
from edgerun.pipeline.intake import Intake
from edgerun.pipeline.lane import Lane, LanePlan
from edgerun.pipeline.notice import NoticeBoard
from edgerun.pipeline.overlap import OverlappedWorker
from edgerun.pipeline.turns import Batching, Turns
from edgerun.pipeline.worker import Worker
from edgerun.ports import Broker, Gate, Scene, Source, SourceContext
from edgerun.registry import resolve
from edgerun.slot import Outbox
from edgerun.types import Image, ModelInfo
from edgerun.wake import Wake

_ENOUGH = 0.95
"""A frame decoded at a reduced scale may be this much of the model's input. At 0.96 (288 rows of 576, for 300) the
bundled detector finds the same 485 objects of the bundled clip as in the whole frames."""
_MOST_AWAITED = 16  # crops that wait for a cascade's model before the oldest give way
_MOST_ORDERED = 32  # frames that wait for a model that wants all of them: a second of windows of 32 ms


class Surroundings(msgspec.Struct, frozen=True):
    """What every part of one run shares. `keep_pictures`: results carry their picture; `keep_whole`: at full size."""

    clock: Clock
    notices: NoticeBoard
    outbox: Outbox[Delivery]
    stood_still: Callable[[int], bool]
    keep_pictures: bool
    keep_whole: bool
    broker: Broker | None = None


class Joined(msgspec.Struct, frozen=True):
    """The threads' objects, and every account by the name it is published under."""

    captures: Sequence[Capture]
    workers: Sequence[Worker]
    lanes: Mapping[str, Lane]
    caches: Mapping[str, ResultCache]


def used_models(config: Config) -> set[str]:
    """The names of the models that some stream uses."""
    used: set[str] = set()
    for stream in config.streams.values():
        used |= {*stream.models, *([stream.then.model] if stream.then else [])}
        used |= {variant for model in stream.models for variant in config.models[model].variants}
    return used


def join(config: Config, options: RunOptions, models: Mapping[str, LoadedModel], shared: Surroundings) -> Joined:
    """Everything between the sources and the Outbox. Raises `ConfigError` or `ModelError`."""
    for name, model in models.items():
        check_state(config, name, model)
    ready = {name: threading.Condition() for name in models}
    caches = {name: ResultCache(size) for name in models if (size := config.models[name].cache)}
    by_model: dict[str, list[Lane]] = {name: [] for name in models}
    lanes: dict[str, Lane] = {}
    captures = []
    for name, stream in config.streams.items():
        own = []
        check_labels(name, stream, [models[one] for one in stream.models])
        for model_name in stream.models:
            plan = _plan(name, stream, model_name, models[model_name])
            lane = Lane(plan, ready[model_name], caches.get(model_name))
            key = name if len(stream.models) == 1 else f"{name}/{model_name}"
            lanes[key] = lane
            by_model[model_name].append(lane)
            own.append(lane)
            if stream.then is not None:
                target = stream.then.model
                lane.cascade = Lane(_cascade_plan(name, stream, stream.then, models[target]), ready[target])
                lanes[f"{key}/{target}"] = lane.cascade
                lane.chooser = lane.cascade.chooser = CropChooser(_crop_plan(stream.then))
                by_model[target].append(lane.cascade)
            for variant in config.models[model_name].variants:
                stand_in = Lane(_variant_plan(name, stream, variant, models, plan), ready[variant], caches.get(variant))
                lane.add_stand_in(stand_in)
                by_model[variant].append(stand_in)
        check_windows(name, stream, models)
        for one in stream.models:
            check_listener(name, stream, models[one].bundle)
        first = models[stream.models[0]]
        given = source_options(name, stream, first.bundle, first.preprocess)
        captures.append(_capture(name, stream, given, first, own, options, shared))
    workers = [_worker(name, config.models[name], models[name], by_model[name], ready[name], shared) for name in models]
    return Joined(captures, workers, lanes, caches)


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
    )


def _variant_plan(
    name: str, stream: StreamConfig, variant: str, models: Mapping[str, LoadedModel], plan: LanePlan
) -> LanePlan:
    """The lane that may stand in for one: of the same stream, and with the same memory of its scene."""
    model = models[variant]
    check_labels(name, stream, [model])
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
    return CascadePlan(frozenset(then.on), then.max_crops, then.margin, round(then.every_s * 1e9))


def _cascade_plan(name: str, stream: StreamConfig, then: ThenConfig, model: LoadedModel) -> LanePlan:
    """The crops' own lane: of the stream's weight and deadline, without its caps, gate and scene."""
    return LanePlan(
        stream=name,
        decoder=open_decoder(name, model, of_crops(stream, then)),
        model=then.model,
        max_age_ms=stream.max_age_ms,
        weight=stream.weight,
        depth=max(_MOST_AWAITED, then.max_crops),
    )


def _enough(stream: StreamConfig, model: LoadedModel) -> tuple[int, int] | None:
    """The smallest frame in which the part that the model looks at is hardly smaller than its input."""
    if stream.gate is not None and stream.gate.crop:
        return None
    x0, y0, x1, y1 = stream.region or (0.0, 0.0, 1.0, 1.0)
    width, height = model.preprocess.size
    return round(_ENOUGH * width / (x1 - x0)), round(_ENOUGH * height / (y1 - y0))


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


def _worker(
    name: str,
    config: ModelConfig,
    model: LoadedModel,
    lanes: Sequence[Lane],
    ready: threading.Condition,
    shared: Surroundings,
) -> Worker:
    batch = config.batch
    batching = Batching() if batch is None else Batching(batch.max, round(batch.max_delay_ms * 1e6))
    info = ModelInfo(model.bundle.name, model.bundle.version, model.engine.info.accelerator)
    turns = Turns(lanes, ready, shared.clock, batching)
    ending = Ending(info, shared.outbox, shared.clock, keep_pictures=shared.keep_pictures)
    # Of what remembers, nothing is prepared before the answer to what came before is there.
    kind = OverlappedWorker if model.overlapped and not model.ordered else Worker
    return kind(name, model.engine, model.preprocess, turns, ending, shared.clock, partial(reset, model.engine))
