"""What is measured: a model, how it is run, and the pictures it is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from edgerun.app.opening import open_decoder, open_model
from edgerun.clock import SystemClock
from edgerun.config import ModelConfig, SourceConfig, StreamConfig, parse_source
from edgerun.config.source import check_path, check_url
from edgerun.decoding import convert
from edgerun.errors import ConfigError, EdgerunError, ModelError, SourceError
from edgerun.infer import open_engine
from edgerun.models import Bundle, complete, find_bundled, load
from edgerun.models.finding import model_path
from edgerun.ports import Engine, EngineContext, Source, SourceContext
from edgerun.preprocess import PicturePreprocess
from edgerun.registry import resolve
from edgerun.secret import Kind, Secret
from edgerun.security.sealing import SealingKey
from edgerun.types import EngineInfo, Image, Tensor, TensorSpec

Stage = Literal["invoke", "all"]
RuntimeChoice = Literal["auto", "litert", "tflite-runtime"]

STAGES = ("preprocess", "infer", "decode")
PICTURES = 8
"""Different pictures that a measurement goes round: what they show changes the work of decoding."""
_CLIP = "clips/street.mp4"
_CLIP_MODEL = "ssd-mobilenet-v2-oid"
_RANDOM_SIZE = (480, 640)


class Subject(msgspec.Struct, frozen=True):
    """A model and how it is run. `source` None: the bundled clip, or random pictures where it is not installed. `key`:
    where the key of a sealed model is (`Secret.handed`).
    """

    model: str
    engine: Literal["tflite", "onnx"] | None = None
    runtime: RuntimeChoice = "auto"
    accelerators: tuple[str, ...] = ("cpu",)
    threads: int = 1
    batch: int = 1
    stage: Stage = "invoke"
    source: str | None = None
    decoder: str | None = None
    key: tuple[Kind, str] | None = None

    @property
    def secret(self) -> Secret | None:
        """The key of a sealed model."""
        return None if self.key is None else Secret(*self.key, "--model-key")

    def load(self) -> Bundle:
        """What lies at the model's path. Raises `ModelError`, and `ConfigError` where the key is not."""
        return load(model_path(self.model), None if self.secret is None else SealingKey.read(self.secret))


class OpenSubject:
    """A subject, loaded. `run(n)` takes `n` pictures (at most the batch) through its stages once.

    `load_s` is what importing the runtime and loading the model took, `input` says what it is given ("clip", "random
    pictures", "random tensors" or the source). Raises `ConfigError`, `ModelError`, `MissingError`, `EngineError` or
    `SourceError`. Used by one thread.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.stages_ns: dict[str, list[int]] = {name: [] for name in STAGES} if subject.stage == "all" else {}
        began_ns = time.perf_counter_ns()
        self._open(subject)
        self.load_s = (time.perf_counter_ns() - began_ns) / 1e9
        try:
            self.run = self._make_run()
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def close(self) -> None:
        """Free the engine. Idempotent."""
        self.engine.close()

    def _open(self, subject: Subject) -> None:
        if subject.stage == "all":
            if subject.batch > 1:
                raise ConfigError(
                    "batches are measured without preprocessing and decoding",
                    where="--stage",
                    expected="invoke, or a batch of 1",
                    got=f"all with a batch of {subject.batch}",
                )
            config = ModelConfig(
                model_path(subject.model),
                engine=subject.engine,
                runtime=subject.runtime,
                accelerators=subject.accelerators,
                threads=subject.threads,
                decoder=subject.decoder,
            )
            self._model = open_model(config, model_key=subject.secret)
            self.bundle, self.engine = self._model.bundle, self._model.engine
            self.model = self.bundle.model
            return
        self.bundle = subject.load()
        self.model, self.engine = _open_engine(subject, self.bundle)

    def sample_input(self) -> list[Tensor]:
        """The inputs of one call, of the whole batch; the caller's own. Only where the stage is `invoke`."""
        return self._batches()[0]

    def _make_run(self) -> Callable[[int], None]:
        return self._make_staged_run() if self.subject.stage == "all" else self._make_bare_run()

    def _make_bare_run(self) -> Callable[[int], None]:
        """Tensors are made once; what is measured is the engine's `infer`: inputs in, invoke, outputs out."""
        batches = self._batches()
        infer, whole, turn = self.engine.infer, self.subject.batch, 0

        def run(count: int) -> None:
            nonlocal turn
            tensors = batches[turn]
            turn = (turn + 1) % len(batches)
            infer(tensors if count == whole else [tensor[:count] for tensor in tensors])

        return run

    def _make_staged_run(self) -> Callable[[int], None]:
        source = SourceConfig("synthetic", resolve("source", "synthetic").options())
        decoder = open_decoder("bench", self._model, StreamConfig(source, "bench"))
        preprocess, infer, turn = self._model.preprocess, self.engine.infer, 0
        pictures, self.input = read_pictures(self.subject.source)
        preparing, inferring, decoding = (self.stages_ns[name] for name in STAGES)
        now_ns = time.perf_counter_ns

        def run(count: int) -> None:
            nonlocal turn
            picture = pictures[turn]
            turn = (turn + 1) % len(pictures)
            began_ns = now_ns()
            tensor, placement = preprocess.prepare(picture)
            prepared_ns = now_ns()
            outputs = infer([tensor])
            inferred_ns = now_ns()
            decoder.decode((*outputs, tensor) if decoder.wants_inputs else outputs, placement)
            preparing.append(prepared_ns - began_ns)
            inferring.append(inferred_ns - prepared_ns)
            decoding.append(now_ns() - inferred_ns)

        return run

    def _batches(self) -> list[list[Tensor]]:
        """Inputs of `PICTURES` calls, each of the whole batch."""
        engine, rows = self.engine, self.subject.batch
        try:
            decoder = self.subject.decoder or self.bundle.decoder or "classify"  # not used: any will do
            bundle = complete(self.bundle, engine.inputs, engine.outputs, decoder=decoder)
            told = {key: value for key, value in msgspec.structs.asdict(bundle.picture).items() if value is not None}
            told.pop("name", None)
            preprocess = PicturePreprocess(single(engine.inputs[0]), **told)
        except ModelError:  # not a picture model, or its pictures are not described: the engine does not mind
            if self.subject.source is not None:
                raise
            self.input = "random tensors"
            random = np.random.default_rng(0)
            return [[random_tensor(spec, rows, random) for spec in engine.inputs] for _ in range(PICTURES)]
        pictures, self.input = read_pictures(self.subject.source)
        singles = [preprocess.prepare(picture)[0].copy() for picture in pictures]
        order = [[singles[(first + row) % len(singles)] for row in range(rows)] for first in range(len(singles))]
        return [[np.concatenate(row_tensors)] for row_tensors in order]


def single(spec: TensorSpec) -> TensorSpec:
    """`spec` with the first dimension of one picture, whatever batch the engine was opened with."""
    return msgspec.structs.replace(spec, shape=(1, *spec.shape[1:])) if spec.shape else spec


def random_tensor(spec: TensorSpec, rows: int, random: np.random.Generator) -> Tensor:
    """A tensor that fits `spec`: floats in 0..1, 8-bit values over their range, zeros for wider integers.

    Wider integers are indices more often than not, and 0 is one that exists. Open sides become 1, the first `rows`.
    """
    shape = [max(1, side) for side in spec.shape]
    if shape and rows > 1:
        shape[0] = rows
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    return np.zeros(shape, dtype)


def read_pictures(source: str | None) -> tuple[Sequence[Image], str]:
    """Up to `PICTURES` different pictures, `H×W×3` uint8 BGR, and what to call them. Raises `SourceError`."""
    name = source
    if source is None:
        model = find_bundled(_CLIP_MODEL)
        clip = model.parent / _CLIP if model is not None else None
        if clip is None or not clip.is_file():
            random = np.random.default_rng(0)
            shape = (*_RANDOM_SIZE, 3)
            return [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(PICTURES)], "random pictures"
        source, name = str(clip), "clip"
    pictures: list[Image] = []
    opened = _open_source(source)
    try:
        while len(pictures) < PICTURES and opened.grab() is not None:
            pictures.append(opened.retrieve(None).copy())
    finally:
        opened.close()
    if not pictures:
        raise SourceError("the source gave no pictures", where=source, expected="at least one", final=True)
    return pictures, str(name)


def _open_source(text: str) -> Source:
    """`text` as `--source` takes it, opened to be read without pacing. Raises `ConfigError` or `SourceError`."""
    kind, told = parse_source(text)
    for value in (told.get("url"), told.get("path")):
        if value is not None:
            check_url(value)
            check_path(kind, Path(value))
    source_class = resolve("source", kind)
    try:
        options = convert(told, source_class.options)
    except msgspec.ValidationError as error:
        raise ConfigError("not a source", where="--source", expected=f"options of {kind}", got=error) from error
    opened: Source = source_class(options, SourceContext("bench", SystemClock(), threading.Event(), as_fast=True))
    return opened


def _open_engine(subject: Subject, bundle: Bundle) -> tuple[bytes, Engine]:
    """The model's bytes, and the engine on the bundle's artefact of the wanted format. Raises as `open_engine` does."""
    kind = subject.engine or bundle.format
    artifact = next((one for one in bundle.artifacts if one.format == kind and "cpu" in one.accelerators), None)
    model = artifact.model if artifact is not None else bundle.model
    engine_class: Any = resolve("engine", kind)
    options = engine_class.options(**({"runtime": subject.runtime} if kind == "tflite" else {}))
    context = EngineContext(model, subject.model, threads=subject.threads, batch=subject.batch)
    try:
        return model, open_engine(engine_class, options, context, subject.accelerators)
    except EdgerunError as error:
        error.where = error.where or subject.model
        raise
