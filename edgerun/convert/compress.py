"""What magnitude pruning and weight clustering of single weights would save: an analysis, not a step of conversion.

Zeros and repeated values make a file that packs better (S. Han et al., "Deep Compression", 2016). They make nothing
faster: the runtimes' dense kernels multiply by zero as they multiply by anything else, and the model takes the same
memory once it is unpacked. What is counted is the file as Deflate leaves it, which is what a .zip bundle, an HTTP
transfer or an update over the air moves.
"""

from __future__ import annotations

import importlib
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from edgerun.convert.parts import Network, Progress, Samples, Step
from edgerun.errors import ConfigError, MissingError
from edgerun.models.manifest import Format
from edgerun.types import Tensor

SHARES = (0.3, 0.5, 0.7)
CLUSTERS = (256, 64, 16)
_FEWEST = 256
"""Smaller tensors (biases, scales, anchors) are left alone: nothing to win, much to lose."""
_ITERATIONS = 20
_KINDS = (np.dtype(np.float32), np.dtype(np.int8))


class Trial(msgspec.Struct, frozen=True):
    """One way of changing the weights. `amount`: share of zeros, or values per tensor; 0 where nothing was changed.

    `packed_bytes`: the file after Deflate. `sqnr_db`: of the outputs against the unchanged model; `top1`: share of the
    samples whose largest output is the same; None without samples.
    """

    kind: Literal["none", "prune", "cluster"]
    amount: float
    size_bytes: int
    packed_bytes: int
    sqnr_db: float | None
    top1: float | None
    seconds: float


def analyse(
    network: Network,
    samples: Samples | None,
    progress: Progress,
    shares: Sequence[float] = SHARES,
    clusters: Sequence[int] = CLUSTERS,
) -> tuple[Trial, ...]:
    """Every share and number of clusters tried on the network's float32 and int8 weights; the unchanged file first.

    Raises `ConfigError` for a share outside 0..1 or fewer than two clusters, `MissingError` without the runtime, and
    whatever `progress` raises.
    """
    if any(not 0 < share < 1 for share in shares) or any(count < 2 for count in clusters):
        raise ConfigError("no such pruning or clustering", expected="shares in 0..1, 2 clusters or more",
                          got=f"{[*shares, *clusters]}")  # fmt: skip
    content = network.path.read_bytes()
    trials: list[Trial] = []
    asked: list[tuple[Literal["none", "prune", "cluster"], float]] = [("none", 0)]
    asked += [("prune", share) for share in shares]
    asked += [("cluster", count) for count in clusters]
    reference: list[Tensor] | None = None
    for done, (kind, amount) in enumerate(asked):
        progress("trying what single weights are worth", done, len(asked))
        began = time.perf_counter()
        made = rewrite(content, network.format, _change(kind, amount))
        outputs = _outputs(made, network.format, samples) if samples is not None else None
        reference = reference or outputs
        sqnr, top1 = _compare(reference, outputs) if reference and outputs else (None, None)
        packed = len(zlib.compress(made, 6))
        trials.append(Trial(kind, amount, len(made), packed, sqnr, top1, time.perf_counter() - began))
    progress("trying what single weights are worth", len(asked), len(asked))
    return tuple(trials)


def steps(trials: Iterable[Trial]) -> tuple[Step, ...]:
    """The trials for the report, one sentence each, without a claim of speed."""
    told = []
    before = 0
    for trial in trials:
        before = before or trial.packed_bytes
        what = {
            "none": "As it is",
            "prune": f"The smallest {trial.amount:.0%} of the weights zero",
            "cluster": f"{trial.amount:.0f} values per tensor",
        }[trial.kind]
        text = f"{what}: {trial.size_bytes / 1e3:.0f} kB, packed {trial.packed_bytes / 1e3:.0f} kB"
        if trial.kind != "none":
            text += f" ({trial.packed_bytes / before:.0%})"
            if trial.sqnr_db is not None and trial.top1 is not None:
                text += f", outputs {trial.sqnr_db:.1f} dB from the model's, largest one the same in {trial.top1:.1%}"
            text += "; no faster, and no smaller in memory"
        told.append(Step("weights", f"{text}.", trial.seconds))
    return tuple(told)


def prune_weights(weights: Tensor, share: float) -> Tensor:
    """`weights` with the `share` of them that lie nearest to 0 set to 0; of equals the first go first."""
    flat = weights.ravel().copy()
    gone = round(share * flat.size)
    flat[np.argsort(np.abs(flat.astype(np.float32)), kind="stable")[:gone]] = 0
    return flat.reshape(weights.shape)


def cluster_weights(weights: Tensor, count: int) -> Tensor:
    """`weights` with at most `count` different values: k-means in one dimension, begun evenly over their range.

    Linear initialisation keeps the large weights, which matter most (S. Han et al., 2016). Empty clusters stay where
    they are, so the result depends on the weights alone.
    """
    values, places = np.unique(weights, return_inverse=True)
    if values.size <= count:
        return weights.copy()
    numbers = np.bincount(places.ravel()).astype(np.float64)
    exact = values.astype(np.float64)
    centres = np.linspace(exact[0], exact[-1], count)
    for _ in range(_ITERATIONS):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, exact)
        mass = np.bincount(nearest, numbers, count)
        moved = np.where(mass > 0, np.bincount(nearest, numbers * exact, count) / np.maximum(mass, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    chosen = centres[np.searchsorted((centres[1:] + centres[:-1]) / 2, exact)]
    if weights.dtype.kind == "i":
        chosen = np.rint(chosen)
    return chosen.astype(weights.dtype)[places.ravel()].reshape(weights.shape)


def rewrite(content: bytes, kind: Format, change: Callable[[Tensor], Tensor]) -> bytes:
    """The model file with `change` made to each float32 or int8 constant of 256 elements or more."""
    return _rewrite_onnx(content, change) if kind == "onnx" else _rewrite_tflite(content, change)


def _change(kind: str, amount: float) -> Callable[[Tensor], Tensor]:
    if kind == "prune":
        return lambda weights: prune_weights(weights, amount)
    if kind == "cluster":
        return lambda weights: cluster_weights(weights, int(amount))
    return lambda weights: weights


def _rewrite_onnx(content: bytes, change: Callable[[Tensor], Tensor]) -> bytes:
    onnx = _need("onnx", "edgerun[convert]")
    helper = importlib.import_module("onnx.numpy_helper")
    model = onnx.load_model_from_string(content)
    for tensor in model.graph.initializer:
        weights = helper.to_array(tensor)
        if weights.dtype in _KINDS and weights.size >= _FEWEST and weights.ndim > 1:
            tensor.CopyFrom(helper.from_array(np.ascontiguousarray(change(weights)), tensor.name))
    return bytes(model.SerializeToString(deterministic=True))


def _rewrite_tflite(content: bytes, change: Callable[[Tensor], Tensor]) -> bytes:
    """In place: neither the number of weights nor their width changes, so nothing in the file moves."""
    schema = _need("ai_edge_litert.schema_py_generated", "edgerun")
    whole = bytearray(content)
    model = schema.ModelT.InitFromPackedBuf(bytes(whole), 0)
    kinds: dict[int, Any] = {schema.TensorType.FLOAT32: _KINDS[0], schema.TensorType.INT8: _KINDS[1]}
    table = schema.Model.GetRootAs(whole, 0)
    seen = set()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            kind = kinds.get(tensor.type)
            if kind is None or tensor.buffer in seen or tensor.shape is None or len(tensor.shape) < 2:
                continue
            data = _buffer(whole, table.Buffers(tensor.buffer))
            if data.size >= _FEWEST * kind.itemsize and data.size % kind.itemsize == 0:
                seen.add(tensor.buffer)
                data[:] = change(data.view(kind)).view(np.uint8)
    return bytes(whole)


def _buffer(whole: bytearray, buffer: Any) -> Any:
    """A view of the buffer's bytes; newer files hold them behind the FlatBuffer, at an offset from the beginning."""
    if buffer.Offset() > 1:
        return np.frombuffer(whole, np.uint8, buffer.Size(), buffer.Offset())
    return buffer.DataAsNumpy() if buffer.DataLength() else np.empty(0, np.uint8)


def _outputs(content: bytes, kind: Format, samples: Samples) -> list[Tensor]:
    """The model's outputs for each sample, one after the other, as float64 vectors."""
    run = _onnx_runner(content) if kind == "onnx" else _tflite_runner(content)
    made = []
    for index in range(len(samples)):
        parts = [np.asarray(part, np.float64).ravel() for part in run(samples[index].inputs)]
        made.append(np.concatenate(parts))
    return made


def _onnx_runner(content: bytes) -> Callable[[Mapping[str, Tensor]], Sequence[Tensor]]:
    runtime = _need("onnxruntime", "edgerun")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda inputs: list(session.run(None, dict(inputs)))


def _tflite_runner(content: bytes) -> Callable[[Mapping[str, Tensor]], Sequence[Tensor]]:
    interpreter = _need("ai_edge_litert.interpreter", "edgerun").Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    places = interpreter.get_input_details()

    def run(inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        ordered = [inputs[place["name"]] for place in places] if len(places) > 1 else list(inputs.values())
        for place, tensor in zip(places, ordered, strict=True):
            interpreter.set_tensor(place["index"], tensor)
        interpreter.invoke()
        return [interpreter.get_tensor(place["index"]) for place in interpreter.get_output_details()]

    return run


def _compare(reference: list[Tensor], outputs: list[Tensor]) -> tuple[float, float]:
    signal = sum(float(np.dot(one, one)) for one in reference)
    noise = sum(float(np.dot(gap, gap)) for gap in (a - b for a, b in zip(reference, outputs, strict=True)))
    same = sum(int(np.argmax(a) == np.argmax(b)) for a, b in zip(reference, outputs, strict=True))
    return 10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-12 * signal, 1e-30))), same / len(reference)


def _need(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(f"{name} cannot be imported", got=error, remedy=f"pip install '{package}'") from error
