"""Collecting what the tensors of a float network hold, one sample after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgerun.convert.onnx.graph import check_finite, float_shapes, tools
from edgerun.convert.onnx.ranges import Observed
from edgerun.convert.onnx.sessions import open_session
from edgerun.convert.parts import Progress, Sample, Samples
from edgerun.errors import ConfigError
from edgerun.models.structure import shown, sides


def observe(model: Any, samples: Samples, names: Iterable[str], progress: Progress) -> dict[str, Observed]:
    """What each of the tensors `names` of the ONNX `model` (a ModelProto, left as it is) holds over all samples.

    Peak memory is one sample's tensors. Raises `ConfigError` for an empty set or a sample that does not fit the inputs,
    `ModelError` for values that are not finite.
    """
    if not len(samples):
        raise ConfigError("there is nothing to calibrate with", where=samples.source, expected="100 samples or so")
    inputs = {one.name for one in model.graph.input}
    wanted = [name for name in dict.fromkeys(names) if name not in inputs]
    seen = {name: Observed() for name in (*wanted, *(name for name in names if name in inputs))}
    session = open_session(_with_outputs(model, wanted), samples.source)
    for index in range(len(samples)):
        progress("observe the tensors", index, len(samples))
        sample = samples[index]
        feeds = feed(session, sample)
        for name, values in zip(wanted, session.run(wanted, feeds), strict=True):
            check_finite(name, values, sample.origin)
            seen[name].add(values)
        for name in seen.keys() & inputs:
            check_finite(name, feeds[name], sample.origin)
            seen[name].add(feeds[name])
    progress("observe the tensors", len(samples), len(samples))
    return seen


def feed(session: Any, sample: Sample) -> Mapping[str, np.ndarray]:
    """The sample's inputs for `session`. Raises `ConfigError` naming what is missing or of another shape."""
    for one in session.get_inputs():
        given = sample.inputs.get(one.name)
        if given is None or tuple(given.shape) != tuple(one.shape) or given.dtype != dtype_of(one):
            raise ConfigError(
                f"the sample does not fit the model's input {shown(one.name)}",
                where=sample.origin,
                expected=f"{sides(one.shape)} {one.type}",
                got="nothing" if given is None else f"{sides(given.shape)} {given.dtype}",
            )
    return {one.name: np.ascontiguousarray(sample.inputs[one.name]) for one in session.get_inputs()}


def dtype_of(edge: Any) -> np.dtype[Any]:
    """The numpy dtype of a session's input or output, from its type as ONNX Runtime writes it, `tensor(float)`."""
    kind = edge.type.removeprefix("tensor(").removesuffix(")")
    dtype: np.dtype[Any] = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
    return dtype


def _with_outputs(model: Any, names: list[str]) -> bytes:
    onnx = tools()
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    outputs = {one.name for one in open_model.graph.output}
    shapes = float_shapes(open_model.graph)
    for name in names:
        if name not in outputs:
            shape = [side if side >= 0 else None for side in shapes[name]]
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            open_model.graph.output.append(value)
    return bytes(open_model.SerializeToString())
