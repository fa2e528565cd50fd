"""Whether the TFLite file says what the ONNX file says, on a few inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.convert.bridge.graph import Array, Graph
from edgerun.convert.bridge.layout import Order, identity
from edgerun.convert.bridge.writer import SIGNATURE
from edgerun.errors import MissingError, ModelError

DRAWS = 3
SEED = 5
WORST = 1e-3
"""Largest difference allowed, in parts of the output's largest value: a hundred times what rounding does."""
WORST_HALF = 3e-2
"""Of an original that computes in float16, which has 11 bits."""
LEAST_COSINE = 0.9999
LEAST_EQUAL = 0.99
"""Share of the elements of an integer output (class maps) that must be equal: ties may fall either way."""


def compare(
    source: Path, made: bytes, graph: Graph, layouts: Mapping[str, Order], given: Iterable[Mapping[str, Array]] = ()
) -> str:
    """Run both on random inputs and on those `given` (ONNX layout), and say in one sentence how they agree.

    Raises `ModelError` when they do not.
    """
    session, halves = _session(source)
    runner = _runner(made, source)
    worst, least = 0.0, 1.0
    limit = WORST_HALF if halves else WORST
    for number, feeds in enumerate([*_drawn(graph), *given]):
        types = {entry.name: entry.type for entry in session.get_inputs()}
        mine = {name: _typed(value, types[name]) for name, value in feeds.items()}
        expected = _answers(session, mine, source)
        moved = {
            name: np.ascontiguousarray(value.transpose(layouts.get(name, identity(value.ndim))))
            for name, value in feeds.items()
        }
        try:
            got = runner(**moved)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"LiteRT does not run the TFLite file that was made of it ({error})", where=source
            ) from error
        for name, reference in zip(graph.outputs, expected, strict=True):
            difference, cosine = _difference(np.asarray(reference), got[name])
            worst, least = max(worst, difference), min(least, cosine)
            if difference > limit or cosine < LEAST_COSINE:
                raise ModelError(
                    f'the TFLite file answers differently from the ONNX file: output "{name}", input {number + 1}',
                    where=source,
                    expected=f"largest difference ≤ {limit:g} of the largest value, cosine ≥ {LEAST_COSINE}",
                    got=f"{difference:.2g} and {cosine:.5f}",
                    remedy="report the model to edgerun, and use --format onnx meanwhile",
                )
    return f"Against ONNX Runtime: largest difference {worst:.1e} of the largest value, cosine {least:.6f}."


def _session(source: Path) -> tuple[Any, bool]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(f"comparing needs {error.name}", remedy="pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except _errors() as error:
        raise ModelError(f"ONNX Runtime does not load the ONNX file ({error})", where=source) from error
    return session, any(entry.type == "tensor(float16)" for entry in (*session.get_inputs(), *session.get_outputs()))


def _errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a model it cannot run."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException


def _answers(session: Any, feeds: dict[str, Array], source: Path) -> list[Any]:
    try:
        return list(session.run(None, feeds))
    except _errors() as error:
        raise ModelError(f"ONNX Runtime does not run the ONNX file ({error})", where=source) from error


def _runner(made: bytes, source: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=made)
        interpreter.allocate_tensors()
        return interpreter.get_signature_runner(SIGNATURE)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"LiteRT does not take the TFLite file that was made of it ({error})",
            where=source,
            remedy="report the model to edgerun, and use --format onnx meanwhile",
        ) from error


def _drawn(graph: Graph) -> list[dict[str, Array]]:
    """Inputs like normalised pictures: floats in −1..1, bytes 0..255, other integers and switches 0 or 1."""
    generator = np.random.default_rng(SEED)
    draws = []
    for _ in range(DRAWS):
        feeds: dict[str, Array] = {}
        for name in graph.inputs:
            shape, dtype = graph.shapes[name], graph.dtypes[name]
            if dtype == np.float32:
                feeds[name] = generator.uniform(-1, 1, shape).astype(np.float32)
            else:
                feeds[name] = generator.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)
        draws.append(feeds)
    return draws


def _typed(value: Array, kind: str) -> Array:
    return value.astype({"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(kind, value.dtype))


def _difference(reference: Array, got: Array) -> tuple[float, float]:
    """Largest difference in parts of the reference's largest value, and the cosine of the two."""
    if reference.shape != got.shape:
        return np.inf, 0.0
    if reference.dtype.kind != "f":
        equal = float(np.mean(reference == got)) if reference.size else 1.0
        return (0.0, 1.0) if equal >= LEAST_EQUAL else (1.0 - equal, equal)
    left, right = reference.astype(np.float64).reshape(-1), got.astype(np.float64).reshape(-1)
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)):
        return np.inf, 0.0
    left, right = left[finite], right[finite]
    size = float(np.abs(left).max(initial=0.0))
    if size < 1e-12:
        return float(np.abs(right).max(initial=0.0)), 1.0
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    cosine = float(left @ right) / norms if norms else 0.0
    return float(np.abs(left - right).max()) / size, min(cosine, 1.0)
