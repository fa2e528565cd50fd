"""Keras and SavedModel → a float .tflite with a signature, through TensorFlow's own converter, proved against it."""

from __future__ import annotations

import importlib
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.parts import Network
from edgerun.errors import ConfigError, MissingError, ModelError

TOLERANCE = 1e-3
"""Largest difference between TensorFlow and the .tflite, as a share of the largest output: float32 sums in another
order stay below 1e-4, a wrong operator does not."""
_FILES = (".keras", ".h5", ".hdf5")
_MOST_BYTES = (1 << 31) - 1  # of one FlatBuffer
_NOT_LOADED = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shapes`: input name → its sides, batch included, where the model leaves sides other than the batch open.

    `signature`: which one of a SavedModel that has several; `seed`: of the inputs both models are tried with.
    """

    shapes: Mapping[str, tuple[int, ...]] = {}
    signature: str = "serving_default"
    seed: int = 0


def read(path: str | Path, workdir: Path, options: Options | None = None) -> Network:
    """The model at `path` (.keras, .h5 or a SavedModel folder) as `workdir/<name>.tflite`: float32, batch of one.

    Code that a file carries (Lambda layers) is not run. Raises `ModelError` for what cannot be loaded, needs operators
    that TensorFlow Lite has not, or comes out different; `ConfigError` for sides that are not known; `MissingError`
    without TensorFlow.
    """
    path, options = Path(path), options or Options()
    tf = _tensorflow()
    began = time.perf_counter()
    with _quiet(tf):
        if path.is_dir():
            function, keep = _saved_model(tf, path, options)
        elif path.is_file() and path.suffix.lower() in _FILES:
            function, keep = _keras(tf, path, options)
        else:
            raise ModelError("not a Keras model", where=path, expected=".keras, .h5 or the folder of a SavedModel")
        content = _convert(tf, function, keep, workdir, path)
    workdir.mkdir(parents=True, exist_ok=True)
    target = workdir / f"{path.stem}.tflite"
    target.write_bytes(content)
    seconds = time.perf_counter() - began
    difference = _difference(tf, function, content, options.seed)
    if not difference <= TOLERANCE:
        raise ModelError(
            "the converted model does not compute what the original does",
            where=path,
            expected=f"outputs within {TOLERANCE:g} of the largest one",
            got=f"{difference:.3g}",
            remedy="layers that draw random numbers must not be part of the model that is shipped",
        )
    note = f"Converted by TensorFlow in {seconds:.0f} s; outputs differ by at most {difference:.1g} of the largest."
    return Network(target, "tflite", (note,), {"tensorflow": tf.__version__, "keras": tf.keras.__version__})


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when the library is loaded
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its sums depend on the machine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tf = importlib.import_module("tensorflow")
            importlib.import_module("keras")
    except ImportError as error:
        raise MissingError(
            "TensorFlow cannot be imported, which a Keras model or SavedModel needs",
            got=error,
            remedy="pip install 'edgerun[convert-tf]'",
        ) from error
    return tf


@contextmanager
def _quiet(tf: Any) -> Iterator[None]:
    """TensorFlow's own advice goes nowhere: what matters is in the error or the notes."""
    logger = tf.get_logger()
    before = logger.level
    logger.setLevel("ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _keras(tf: Any, path: Path, options: Options) -> tuple[Any, Any]:
    """The concrete function of a Keras file, with every side fixed, and what must outlive the conversion."""
    try:
        model = tf.keras.models.load_model(path, compile=False, safe_mode=True)
    except _NOT_LOADED as error:
        raise ModelError(
            "not a model that this Keras can load",
            where=path,
            expected="a file of `model.save`, without Lambda layers and without classes of your own",
            got=" ".join(str(error).split())[:300],
            remedy="save it with `model.export(folder)` as a SavedModel, which needs none of your code",
        ) from error
    specs = []
    for tensor in model.inputs:
        name = tensor.name.split(":")[0]
        specs.append(tf.TensorSpec(_fixed(name, tensor.shape, options, path), tensor.dtype, name))

    def serve(*inputs: Any) -> Any:
        given = inputs[0] if len(inputs) == 1 else list(inputs)
        return _named(tf, model(given, training=False), getattr(model, "output_names", ()))

    function = tf.function(serve, autograph=False).get_concrete_function(*specs)
    # Not the model: what is saved with a trained one leaves its weights to be assigned later, and nobody would.
    return function, list(function.variables)


def _named(tf: Any, answer: Any, names: Any) -> dict[str, Any]:
    """The outputs by name: a dict's keys, else the names of the layers that make them."""
    if isinstance(answer, dict):
        return dict(answer)
    flat = tf.nest.flatten(answer)
    known = list(names) if len(set(names)) == len(flat) else [f"output_{i}" for i in range(len(flat))]
    return dict(zip(known, flat, strict=True))


def _saved_model(tf: Any, path: Path, options: Options) -> tuple[Any, Any]:
    """The concrete function of one signature of a SavedModel, with every side fixed, and the model itself."""
    try:
        model = tf.saved_model.load(str(path))
    except _NOT_LOADED as error:
        raise ModelError("not a SavedModel that this TensorFlow can load", where=path,
                         got=" ".join(str(error).split())[:300]) from error  # fmt: skip
    signatures = dict(model.signatures)
    chosen = options.signature if options.signature in signatures else next(iter(signatures), None)
    if chosen is None or (options.signature not in signatures and len(signatures) > 1):
        raise ModelError(
            "the SavedModel has no such signature",
            where=path,
            expected=f"one of {', '.join(signatures)}" if signatures else "a signature",
            got=options.signature,
            remedy=None if signatures else "save it with `model.export(folder)` or with signatures=…",
        )
    signature = signatures[chosen]
    given = signature.structured_input_signature[1]
    specs = {
        name: tf.TensorSpec(_fixed(name, spec.shape, options, path), spec.dtype, name) for name, spec in given.items()
    }

    def serve(**inputs: Any) -> Any:
        return signature(**inputs)

    return tf.function(serve, autograph=False).get_concrete_function(**specs), model


def _fixed(name: str, shape: Any, options: Options, path: Path) -> tuple[int, ...]:
    """The input's sides as asked for, else its own with a batch of one."""
    own = tuple(shape) if shape.__class__ is tuple else tuple(shape.as_list())
    asked = options.shapes.get(name)
    if asked is None and len(options.shapes) == 1 and None in own[1:]:
        asked = next(iter(options.shapes.values()))
    wanted = asked or (1, *own[1:])
    fits = len(wanted) == len(own) and all(have in (None, want) for have, want in zip(own, wanted, strict=True))
    if None in wanted or not fits:
        raise ConfigError(
            f"the sides of the input {name!r} are not known" if None in wanted else f"the input {name!r} does not fit",
            where=path,
            expected="×".join("?" if side is None else str(side) for side in own),
            got="×".join("?" if side is None else str(side) for side in wanted),
            remedy=f"say what they are with --shape {name}=1,… (or --size for a picture)",
        )
    return tuple(int(side) for side in wanted)


def _convert(tf: Any, function: Any, keep: Any, workdir: Path, path: Path) -> bytes:
    """The .tflite of the function; it goes through a SavedModel, as only that way it gets a signature."""
    import tempfile

    workdir.mkdir(parents=True, exist_ok=True)
    holder = tf.Module()
    holder.kept = keep
    weights = sum(int(np.prod(variable.shape)) * variable.dtype.size for variable in function.variables)
    if weights > _MOST_BYTES:
        raise ModelError("a model over 2 GB does not go into a .tflite file", where=path, got=f"{weights:,} bytes")
    try:
        with tempfile.TemporaryDirectory(dir=workdir) as folder:
            tf.saved_model.save(holder, folder, signatures={"serving_default": function})
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
            return bytes(converter.convert())
    except _NOT_LOADED as error:
        needed = sorted(set(re.findall(r"\btf\.(\w+)", str(error))))
        raise ModelError(
            "TensorFlow Lite has no operator for part of this model" if needed else "TensorFlow cannot convert this",
            where=path,
            got=", ".join(needed) or " ".join(str(error).split())[:400],
            remedy="replace these operations, or cut the model before them and do the rest in a decoder",
        ) from error
    except Exception as error:
        if type(error).__name__ != "ConverterError":  # its class is not public
            raise
        needed = sorted(set(re.findall(r"\btf\.(\w+)", str(error))))
        raise ModelError(
            "TensorFlow Lite has no operator for part of this model",
            where=path,
            got=", ".join(needed) or " ".join(str(error).split())[:400],
            remedy="replace these operations, or cut the model before them and do the rest in a decoder",
        ) from error


def _difference(tf: Any, function: Any, content: bytes, seed: int) -> float:
    """Largest difference of any output on one random input, as a share of that output's largest absolute value."""
    litert = importlib.import_module("ai_edge_litert.interpreter")
    runner = litert.Interpreter(model_content=content, num_threads=1).get_signature_runner("serving_default")
    random = np.random.default_rng(seed)
    feeds = {}
    for name, detail in runner.get_input_details().items():
        kind = np.dtype(detail["dtype"])
        shape = tuple(detail["shape"])
        feeds[name] = random.random(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)
    given = function.structured_input_signature
    wanted = (
        function(**{name: tf.constant(value) for name, value in feeds.items()})
        if given[1]
        else function(*[tf.constant(feeds[spec.name]) for spec in given[0]])
    )
    worst = 0.0
    got = runner(**feeds)
    for name, tensor in wanted.items():
        reference = np.asarray(tensor, np.float64)
        if got[name].shape != reference.shape or not np.isfinite(got[name]).all():
            return float("inf")
        if reference.size:
            gap = float(np.max(np.abs(got[name].astype(np.float64) - reference)))
            worst = max(worst, gap / max(float(np.max(np.abs(reference))), 1e-6))
    return worst
