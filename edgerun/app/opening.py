"""A model of the config → its bundle, its engine, what makes its input and, for each stream, what reads its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from edgerun.app.listening import LISTENERS, check_listener, check_windows, open_signal, rate_of_sources, source_options
from edgerun.app.picturing import check_snapshot, check_variant, concealing, threshold_for
from edgerun.app.proving import golden_tensors
from edgerun.app.remoting import Outsourced, carrying
from edgerun.config import Config, ModelConfig, StreamConfig, ThenConfig
from edgerun.decode.select import Select
from edgerun.decoding import convert
from edgerun.errors import ConfigError, EdgerunError, ModelError, did_you_mean
from edgerun.infer import open_engine
from edgerun.infer.fallback import OnChange
from edgerun.infer.state import with_state
from edgerun.models import Bundle, complete, fix_sizes, load, read_labels, recurrence
from edgerun.ports import Decoder, DecoderContext, Engine, EngineContext
from edgerun.preprocess import PicturePreprocess, SignalPreprocess
from edgerun.registry import resolve
from edgerun.secret import Secret
from edgerun.security.sealing import SealingKey


class LoadedModel(msgspec.Struct, frozen=True):
    """A model that is open: what it says of itself, its engine and what makes its input."""

    bundle: Bundle
    engine: Engine
    preprocess: PicturePreprocess | SignalPreprocess
    overlapped: bool
    """Whether it may run on something else than the CPU, so that the next input is to be prepared meanwhile."""
    stateful: bool = False
    """Whether its answers depend on what came before."""
    outsourced: Outsourced | None = None
    """Where workers behind the broker run it too."""

    @property
    def ordered(self) -> bool:
        """Whether it wants every frame of its stream, in order."""
        return self.stateful or self.bundle.signal is not None


def read_bundle(config: ModelConfig, model_key: Secret | None = None) -> Bundle:
    """What lies at the model's path, verified, as far as its engine uses it. Raises `ConfigError` or `ModelError`."""
    secret = config.key if config.key is not None else model_key
    key = None if secret is None else SealingKey.read(secret)
    return load(config.path, key).of_format(config.format)


def open_model(
    config: ModelConfig,
    on_change: OnChange | None = None,
    rate_hz: float | None = None,
    model_key: Secret | None = None,
) -> LoadedModel:
    """Load, verify and open one model; `on_change` is told when it runs on another accelerator.

    `rate_hz`: how often samples come, for a model that listens to them; None: as often as it wants them. `model_key`
    opens what is sealed, unless the model has a key of its own.

    Raises `ConfigError`, `ModelError`, `EngineError` or `MissingError`.
    """
    bundle = fix_sizes(read_bundle(config, model_key), config.size)
    kind = config.format or bundle.format
    engine_class = resolve("engine", kind)
    chosen = {"runtime": config.runtime} if kind == "tflite" else {}
    batch = config.batch.max if config.batch is not None else 1
    context = EngineContext(bundle.model, str(config.path), threads=config.threads, batch=batch)
    options = engine_class.options(**chosen)

    def open_it() -> Engine:
        return open_engine(
            engine_class,
            options,
            context,
            config.accelerators,
            model_for=lambda name: bundle.artifact_for(name).model,
            golden=partial(golden_tensors, config, bundle),
            on_change=on_change,
            hang_s=config.hang_s,
        )

    plan = recurrence(bundle)
    engine = with_state(
        open_it(),
        str(config.path),
        state=plan.state,
        constants=plan.constants,
        shapes=plan.shapes,
        variables=plan.variables,
        reopen=open_it,
    )
    try:
        labels = read_labels(config.labels) if config.labels is not None else None
        bundle = complete(
            bundle,
            engine.inputs,
            engine.outputs,
            decoder=config.decoder,
            labels=labels,
            threshold=config.threshold,
            top_k=config.top_k,
            pixels=config.pixels,
            size=config.size,
            pictures=False,
        )
        # Beside an accelerator the next input is filled while this one is worked on.
        overlapped = config.accelerators[0] != "cpu"
        rows = 2 * batch if overlapped or config.engine == "remote" else batch
        if bundle.signal is not None:
            heard = open_signal(bundle, bundle.signal, engine.inputs[0], rate_hz, rows)
            return LoadedModel(bundle, engine, heard, overlapped, plan.stateful or heard.stateful)
        picture = {key: value for key, value in msgspec.structs.asdict(bundle.picture).items() if value is not None}
        picture.pop("name", None)
        preprocess = PicturePreprocess(engine.inputs[0], **picture, rows=rows)
        if config.engine == "remote":
            outsourced = Outsourced.of(config, bundle, engine, on_change, stateful=plan.stateful)
            return LoadedModel(bundle, outsourced, preprocess, overlapped=True, outsourced=outsourced)
        return LoadedModel(bundle, engine, preprocess, overlapped, plan.stateful)
    except EdgerunError:
        engine.close()
        raise


def open_decoder(name: str, model: LoadedModel, stream: StreamConfig) -> Decoder:
    """The decoder of `model` as the stream called `name` wants it. Raises `ConfigError` or `ModelError`, saying so."""
    try:
        return _make_decoder(model, stream)
    except EdgerunError as error:
        error.where = f"streams.{name}" if error.where is None else f"streams.{name}: {error.where}"
        raise


def _make_decoder(model: LoadedModel, stream: StreamConfig) -> Decoder:
    bundle = model.bundle
    assert bundle.decoder is not None, "derive.complete leaves no model without a decoder"
    decoder_class = resolve("decoder", bundle.decoder)
    try:
        options = convert(dict(bundle.decoder_options), decoder_class.options)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"the decoder section does not fit {bundle.decoder}", where=f"{bundle.name}: manifest.json", got=error
        ) from error
    threshold = stream.threshold if stream.threshold is not None else bundle.threshold
    reported = 0.0 if bundle.decoder in LISTENERS else threshold if threshold is not None else 0.5
    context = DecoderContext(
        inputs=model.engine.inputs,
        outputs=model.engine.outputs,
        labels=bundle.labels or (),
        threshold=threshold_for(stream, bundle, reported),
        top_k=bundle.top_k,
        input_size=model.preprocess.size,
    )
    made = carrying(decoder_class(options, context), model.outsourced)
    decoder: Decoder = concealing(stream, bundle, made, reported)
    if not stream.labels:
        return decoder
    if len(stream.models) == 1:
        return Select(decoder, stream.labels)
    # Each of several models has labels of its own; `check_labels` looks at them together.
    return Select(decoder, [label for label in stream.labels if label in decoder.labels])


def of_crops(stream: StreamConfig, then: ThenConfig) -> StreamConfig:
    """The stream as the second model of its cascade sees it."""
    return msgspec.structs.replace(stream, model=then.model, threshold=then.threshold, labels=(), snapshot=None)


def check_state(config: Config, name: str, model: LoadedModel) -> None:
    """Raises `ConfigError` when a model that remembers is used in a way that would mix up what it remembers."""
    if not model.stateful:
        return
    what = ""
    users = [stream for stream in config.streams.values() if name in stream.models]
    if any(stream.then is not None and stream.then.model == name for stream in config.streams.values()):
        what = "cannot look at crops"
    elif len(users) > 1:
        what = "serves one stream only"
    elif config.models[name].batch is not None or config.models[name].cache:
        what = "takes neither batch nor cache"
    elif any(stream.gate is not None for stream in users):
        what = "takes no gate"
    elif any(stream.max_fps for stream in users):
        what = "takes no max_fps"
    if what:
        raise ConfigError(
            f"a model that remembers what came before {what}",
            where=f"models.{name}",
            remedy="give each stream a [models.NAME] table of its own, and leave such keys out",
        )


def check_labels(name: str, stream: StreamConfig, models: Sequence[LoadedModel]) -> None:
    """Raises `ConfigError` for a label in `labels`, `then.on` or a zone that none of the stream's `models` has."""
    known = {label for model in models for label in model.bundle.labels or ()}
    if any(not model.bundle.labels for model in models):  # its classes are numbers
        return
    seen = known & set(stream.labels) if stream.labels else known
    asked = [("labels", stream.labels, known)] if len(models) > 1 else []
    if stream.then is not None:
        asked.append(("then.on", stream.then.on, seen))
    asked += [(f"zones.{zone}.labels", each.labels, seen) for zone, each in stream.zones.items()]
    for place, labels, possible in asked:
        for label in labels:
            if label not in possible:
                raise ConfigError(
                    "no such label" if label not in known else "a label that the stream's labels leave out",
                    where=f"streams.{name}.{place}",
                    expected="one of " + ", ".join(sorted(possible)[:12]),
                    got=f'"{label}"',
                    remedy=did_you_mean(label, sorted(possible)),
                )


def check_models(config: Config) -> list[EdgerunError]:
    """Everything wrong with the models of `config` and with the streams' use of them; nothing is started."""
    errors: list[EdgerunError] = []
    models: dict[str, LoadedModel] = {}
    for name, model_config in config.models.items():
        try:
            rate_hz = rate_of_sources(config, name)
            models[name] = open_model(model_config, rate_hz=rate_hz, model_key=config.security.model_key)
        except EdgerunError as error:
            errors.append(error)
    for name, model in models.items():
        try:
            check_state(config, name, model)
        except EdgerunError as error:
            errors.append(error)
    for name, stream in config.streams.items():
        own = [models[one] for one in stream.models if one in models]
        try:
            check_windows(name, stream, models)
            for model in own:
                source_options(name, stream, model.bundle, model.preprocess)
                check_listener(name, stream, model.bundle)
                open_decoder(name, model, stream)
            for one in [one for one in stream.models if one in models]:
                for variant in [variant for variant in config.models[one].variants if variant in models]:
                    open_decoder(name, models[variant], msgspec.structs.replace(stream, model=variant))
                    check_labels(name, stream, [models[variant]])
                    check_variant(name, stream, models[one].bundle, models[variant].bundle)
            if stream.then is not None and stream.then.model in models:
                open_decoder(name, models[stream.then.model], of_crops(stream, stream.then))
            if len(own) == len(stream.models):
                check_labels(name, stream, own)
                check_snapshot(name, stream, [model.bundle for model in own])
        except EdgerunError as error:
            errors.append(error)
    for model in models.values():
        model.engine.close()
    return errors
