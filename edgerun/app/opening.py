"""A model of the config → its bundle, its engine, what makes its input and, for each stream, what reads its outputs."""

from __future__ import annotations

import msgspec

from edgerun.config import Config, ModelConfig, StreamConfig
from edgerun.decode.select import Select
from edgerun.errors import EdgerunError, ModelError
from edgerun.infer import open_engine
from edgerun.infer.fallback import OnChange
from edgerun.infer.state import with_state
from edgerun.models import Bundle, complete, fix_sizes, load, read_labels, recurrence
from edgerun.ports import Decoder, DecoderContext, Engine, EngineContext
from edgerun.preprocess import PicturePreprocess
from edgerun.registry import resolve


class LoadedModel(msgspec.Struct, frozen=True):
    """A model that is open: what it says of itself, its engine and what makes its input."""

    bundle: Bundle
    engine: Engine
    preprocess: PicturePreprocess
    overlapped: bool
    """Whether it may run on something else than the CPU, so that the next input is to be prepared meanwhile."""


def open_model(config: ModelConfig, on_change: OnChange | None = None) -> LoadedModel:
    """Load, verify and open one model; `on_change` is told when it runs on another accelerator.

    Raises `ConfigError`, `ModelError`, `EngineError` or `MissingError`.
    """
    bundle = fix_sizes(load(config.path).of_format(config.engine), config.size)
    kind = config.engine or bundle.format
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
            on_change=on_change,
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
        )
        # Beside an accelerator the next input is filled while this one is worked on.
        overlapped = config.accelerators[0] != "cpu"
        rows = 2 * batch if overlapped else batch
        picture = {key: value for key, value in msgspec.structs.asdict(bundle.picture).items() if value is not None}
        picture.pop("name", None)
        return LoadedModel(bundle, engine, PicturePreprocess(engine.inputs[0], **picture, rows=rows), overlapped)
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
        options = msgspec.convert(dict(bundle.decoder_options), decoder_class.options)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"the decoder section does not fit {bundle.decoder}", where=f"{bundle.name}: manifest.json", got=error
        ) from error
    threshold = stream.threshold if stream.threshold is not None else bundle.threshold
    context = DecoderContext(
        inputs=model.engine.inputs,
        outputs=model.engine.outputs,
        labels=bundle.labels or (),
        threshold=threshold if threshold is not None else 0.5,
        top_k=bundle.top_k,
        input_size=model.preprocess.size,
    )
    decoder: Decoder = decoder_class(options, context)
    labels = stream.labels
    if len(stream.models) > 1 and decoder.labels:  # each model has labels of its own
        labels = tuple(label for label in labels if label in decoder.labels)
    return Select(decoder, labels) if labels else decoder


def check_models(config: Config) -> list[EdgerunError]:
    """Everything wrong with the models of `config` and with the streams' use of them; nothing is started."""
    errors: list[EdgerunError] = []
    for name, model_config in config.models.items():
        try:
            model = open_model(model_config)
        except EdgerunError as error:
            errors.append(error)
            continue
        for stream_name, stream in config.streams.items():
            if name in stream.models:
                try:
                    open_decoder(stream_name, model, stream)
                except EdgerunError as error:
                    errors.append(error)
        model.engine.close()
    return errors
