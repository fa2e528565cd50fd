"""The model that is converted: what is known of it, and running any file of it as `edgerun run` would."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.parts import Network, Sample
from edgerun.decoding import convert
from edgerun.errors import EdgerunError, EngineError, ModelError
from edgerun.infer.state import with_state
from edgerun.models import Bundle, Given, PictureInput, load, recurrence, understand
from edgerun.models.artifact import Artifact, make_artifact
from edgerun.models.inspection import exposed
from edgerun.models.manifest import Format
from edgerun.ports import Decoder, DecoderContext, Engine, EngineContext
from edgerun.preprocess import PicturePreprocess
from edgerun.registry import resolve
from edgerun.types import Answer, Image, Placement, Tensor, TensorSpec


class SeenSample(Sample, frozen=True):
    """A sample with what judging it needs: where the picture lies in the input, the frame's size (width, height), and
    the objects in it as (class, box in 0..1 of the frame) where the set names them.
    """

    placement: Placement = Placement()
    frame_size: tuple[int, int] = (1, 1)
    objects: tuple[tuple[int, tuple[float, float, float, float]], ...] | None = None


class Subject(msgspec.Struct, frozen=True):
    """A model and everything that its files, manifest and flags say of it.

    `kind`: what goes in. `inputs` are those of the float network (state and constants left out). `assumed`: sentences
    for the report. Without a decoder (`bundle.decoder` None) raw outputs are compared.
    """

    bundle: Bundle
    kind: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    assumed: tuple[str, ...] = ()

    @property
    def format(self) -> Format:
        return self.bundle.format

    @property
    def model(self) -> bytes:
        return self.bundle.model


class Said(msgspec.Struct, frozen=True):
    """What flags say of the model; wins over everything the model says. `mean` and `std` act on 0–255 pixels."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    color: str | None = None
    fit: str | None = None
    size: tuple[int, int] | None = None
    labels: tuple[str, ...] | None = None
    decoder: str | None = None
    decoder_options: Mapping[str, Any] = {}
    threshold: float | None = None


def describe(network: Network, source: Bundle | None, said: Said) -> Subject:
    """The subject that `network` is: `source` is the bundle or file it was made from, where that says something.

    Raises `ModelError` for a model with state, and for what must be known and is not (with the flag to give).
    """
    own = load(network.path)
    structure = own.main.structure
    if structure is None:
        raise ModelError("the imported network cannot be read", where=network.path, remedy="report it: this is a fault")
    base = source or own
    plan = recurrence(own if base.bare else msgspec.structs.replace(base, artifacts=own.artifacts))
    if plan.stateful:
        raise _keeps_state(base.name)
    inputs, outputs = exposed(structure, plan)
    bundle = _with_flags(base, said, inputs)
    given = Given(said.decoder, said.labels, said.threshold, None, None, said.size)
    made, ledger = understand(bundle, inputs, outputs, given)
    if said.decoder_options:
        made = msgspec.structs.replace(made, decoder_options={**made.decoder_options, **said.decoder_options})
    if made.signal is not None:
        kind = "signal"
    else:
        kind = "picture" if made.picture.size is not None and made.picture.layout is not None else "arrays"
    assumed = [f"assumed: {one}" for one in ledger.assumed]
    for need in ledger.needs:
        if need.optional or kind == "arrays":
            continue
        if need.key == "decoder.kind":
            assumed.append("no decoder is known for the outputs: raw outputs are compared (--decoder names one)")
        elif kind == "signal" and need.key in ("inputs[0].mean and inputs[0].std",):
            continue
        else:
            raise _with_convert_flags(need.error, need.key)
    if kind != "picture" and said.mean is not None:
        picture = msgspec.structs.replace(made.picture, mean=said.mean, std=said.std)
        made = msgspec.structs.replace(made, picture=picture)
    artifact = msgspec.structs.replace(own.main, accelerators=("cpu",))
    made = msgspec.structs.replace(made, artifacts=(artifact,), golden=None)
    return Subject(made, kind, tuple(inputs), tuple(outputs), tuple(assumed))


def refuse_state(source: Bundle) -> None:
    """Raises `ModelError` for a model with state, which the importers would stumble over in words of their own."""
    if source.main.structure is not None and recurrence(source).stateful:
        raise _keeps_state(source.name)


def _keeps_state(name: str) -> ModelError:
    return ModelError(
        "a model that carries state from call to call cannot be converted",
        where=name,
        expected="outputs that depend on this call's inputs alone",
        remedy="convert it with the tools it was trained with, and make a bundle of the result",
    )


def _with_convert_flags(error: EdgerunError, key: str | None) -> EdgerunError:
    if key is not None and "mean" in key:
        error.remedy = (
            "give --mean and --std: pixels become (pixel - mean) / std; 0 and 255 for models trained on 0..1, "
            "127.5 and 127.5 for -1..1, 123.675,116.28,103.53 and 58.395,57.12,57.375 for ImageNet's"
        )
    return error


def _with_flags(base: Bundle, said: Said, inputs: Sequence[TensorSpec]) -> Bundle:
    """`base` whose picture says what the flags say; name and layout of another file are dropped."""
    picture = base.picture
    shape = inputs[0].shape if len(inputs) == 1 else ()
    if len(shape) != 4:  # what is said of pixels must not make a picture of it
        return base
    stated = {"NHWC": 3, "NCHW": 1}.get(picture.layout or "")
    fits = len(shape) == 4 and (stated is None or shape[stated] in (1, 3))
    if not fits or (picture.name is not None and inputs and picture.name != inputs[0].name):
        picture = msgspec.structs.replace(picture, name=None, layout=None if not fits else picture.layout)
    changes = {key: getattr(said, key) for key in ("mean", "std", "color", "fit") if getattr(said, key) is not None}
    return msgspec.structs.replace(base, picture=msgspec.structs.replace(picture, **changes))


# ---- running -----------------------------------------------------------------------------------------


class Runner:
    """One file of the model: samples in, raw outputs or answers out. Whoever opens it closes it; one thread.

    Pictures go through the project's own preprocessing with this file's input type, so a quantised input gets the very
    values that `edgerun run` would give it. Raises `ModelError` for a file that the engine refuses, or whose outputs
    the decoder does not take.
    """

    def __init__(self, subject: Subject, model: bytes | Path, kind: Format, *, name: str, threads: int = 1) -> None:
        self._subject = subject
        content = model if isinstance(model, bytes) else model.read_bytes()
        self._bundle = msgspec.structs.replace(subject.bundle, artifacts=(_artifact(content, kind, name),))
        self.engine = _open(self._bundle, kind, name, threads)
        self._prepare = self._picture_input() if subject.kind == "picture" else None
        self._names = [spec.name for spec in subject.inputs]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.engine.outputs

    @property
    def picture(self) -> PictureInput:
        """The picture input of this file: its own name and layout."""
        return self._picture

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine. Idempotent."""
        self.engine.close()

    def infer(self, sample: Sample) -> Sequence[Tensor]:
        """Raw outputs, valid until the next call."""
        self._fed = self._feed(sample)
        return self.engine.infer(self._fed)

    def real(self, sample: Sample) -> list[Tensor]:
        """The outputs as real numbers (dequantised), float32; the caller's own."""
        from edgerun.decode.tensors import dequantise

        outputs = self.infer(sample)
        return [np.array(dequantise(one, spec)) for one, spec in zip(outputs, self.outputs, strict=True)]

    def answer(self, sample: Sample, decoder: Decoder) -> Answer:
        """What `decoder` reads out of the outputs. Raises `FrameError` for outputs that are no numbers."""
        outputs = self.infer(sample)
        placement = sample.placement if isinstance(sample, SeenSample) else Placement()
        return decoder.decode([*outputs, *self._fed] if decoder.wants_inputs else outputs, placement)

    def decoder(self, threshold: float | None = None, **options: object) -> Decoder:
        """The decoder of the bundle at its own threshold, or another; of `options` those that it has."""
        bundle = self._bundle
        assert bundle.decoder is not None, "callers ask whether there is one"
        decoder_class = resolve("decoder", bundle.decoder)
        known = {key: value for key, value in options.items() if key in decoder_class.options.__struct_fields__}
        try:
            chosen = convert({**bundle.decoder_options, **known}, decoder_class.options)
        except msgspec.ValidationError as error:
            raise ModelError(f"the options do not fit {bundle.decoder}", where=bundle.name, got=error) from error
        own = bundle.threshold if bundle.threshold is not None else 0.5
        context = DecoderContext(
            inputs=self.engine.inputs,
            outputs=self.engine.outputs,
            labels=bundle.labels or (),
            threshold=own if threshold is None else threshold,
            top_k=max(5, bundle.top_k),
            input_size=bundle.picture.size or (0, 0),
        )
        made: Decoder = decoder_class(chosen, context)
        return made

    def _picture_input(self) -> PicturePreprocess:
        spec, picture = self.engine.inputs[0], self._bundle.picture
        channels = 1 if picture.color == "GRAY" else 3
        if picture.layout is None or spec.shape[3 if picture.layout == "NHWC" else 1] != channels:
            picture = msgspec.structs.replace(picture, layout="NHWC" if spec.shape[3] == channels else "NCHW")
        self._picture = msgspec.structs.replace(picture, name=spec.name)
        # Samples hold the picture in the size of the input already: it lies there as it is.
        return make_preprocess(spec, msgspec.structs.replace(picture, fit="stretch"))

    def _feed(self, sample: Sample) -> list[Tensor]:
        if self._prepare is not None and sample.picture is not None:
            return [self._prepare.prepare(np.ascontiguousarray(sample.picture[..., ::-1]))[0]]
        values = [sample.inputs[name] for name in self._names]
        return [quantise(in_layout(one, spec), spec) for one, spec in zip(values, self.engine.inputs, strict=True)]


def make_preprocess(spec: TensorSpec, picture: PictureInput) -> PicturePreprocess:
    """The project's preprocessing for this input."""
    described = {key: value for key, value in msgspec.structs.asdict(picture).items() if value is not None}
    described.pop("name", None)
    return PicturePreprocess(spec, **described)


def quantise(values: Tensor, spec: TensorSpec) -> Tensor:
    """Real `values` in the input's own type: value/scale, rounded half away from zero, + zero point, saturated.

    (TensorFlow Lite 8-bit quantisation specification.) Inputs that are not quantised are only converted.
    """
    if not spec.scale or np.dtype(spec.dtype).kind == "f":
        return np.ascontiguousarray(values, spec.dtype)
    scaled = values.astype(np.float64) / spec.scale[0]
    limits = np.iinfo(spec.dtype)
    rounded = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled) + (spec.zero_point[0] if spec.zero_point else 0)
    return np.ascontiguousarray(rounded.clip(limits.min, limits.max), spec.dtype)


def in_layout(values: Tensor, spec: TensorSpec) -> Tensor:
    """`values` in the input's shape, where this file keeps its channels last and the other one second, or so."""
    fits = all(want in (-1, got) for want, got in zip(spec.shape, values.shape, strict=False))
    if fits or values.ndim != 4:
        return values
    last = values.transpose(0, 2, 3, 1)
    return last if last.shape[3] == spec.shape[3] else values.transpose(0, 3, 1, 2)


def input_picture(sample: Sample) -> Image:
    """The sample's picture. Raises `ModelError` where the model takes none."""
    if sample.picture is None:
        raise ModelError("the sample has no picture", where=sample.origin)
    return sample.picture


def _artifact(model: bytes, kind: Format, name: str) -> Artifact:
    return make_artifact(f"model.{kind}", kind, ("cpu",), model, hashlib.sha256(model).hexdigest(), name)


def _open(bundle: Bundle, kind: Format, name: str, threads: int) -> Engine:
    engine_class = resolve("engine", kind)

    def open_it() -> Engine:
        opened: Engine = engine_class(engine_class.options(), EngineContext(bundle.model, name, threads=threads))
        return opened

    engine = open_it()
    try:
        plan = recurrence(bundle)
        if plan.stateful:
            raise EngineError("the file carries state", where=name)
        if plan.plain:
            return engine
        return with_state(
            engine, name, state=(), constants=plan.constants, shapes=plan.shapes, variables=False, reopen=open_it
        )
    except EdgerunError:
        engine.close()
        raise
