"""The other things a float network can become: half the size, ONNX Runtime's own format, or itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.convert.onnx.graph import array, consumers, tools
from edgerun.convert.onnx.sessions import open_session
from edgerun.convert.parts import Network, Target
from edgerun.errors import ModelError
from edgerun.models.structure import shown

_HALF_MAX = 65504.0
"""Largest finite float16 (IEEE 754 binary16)."""
_FEW = 16
"""Constants of so few values stay float32: they are scalars and axes' parameters, and save nothing."""


def as_float(network: Network) -> bytes:
    """The network as it is: float32, self-contained."""
    return network.path.read_bytes()


def as_fp16(network: Network, target: Target) -> bytes:
    """The network with half the bytes; inputs and outputs stay float32.

    For `gpu` every operator computes in float16. For all others the constants alone are float16, each behind a Cast
    that ONNX Runtime folds as it loads: CPUs without float16 kernels would convert before and after every operator and
    get slower, so what a CPU gains is the size of the file, no speed. Raises `ModelError` for a constant beyond
    float16.
    """
    model = tools().load_model(str(network.path))
    _check_reach(model.graph, network.path)
    made = _compute_in_half(model) if target == "gpu" else _store_in_half(model)
    return bytes(made.SerializeToString())


def as_ort(model: bytes, where: Path | str) -> bytes:
    """An .onnx file's contents in ONNX Runtime's format, optimised as far as holds on every machine.

    Such a file loads faster (EfficientNet-Lite0: int8 in 8 instead of 27 ms, float in 24 instead of 31) and needs this
    version of ONNX Runtime or later. Int8 runs as fast as from .onnx; float convolutions on x86 take 2.5 to 3 times as
    long, for the layout that suits the width of a machine's vectors (NCHWc) is no part of it and is not applied to such
    files later.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.ort"
        open_session(model, where, saved=(target, "ORT"))
        return target.read_bytes()


def _check_reach(graph: Any, where: Path) -> None:
    for tensor in graph.initializer:
        if tensor.data_type == tools().TensorProto.FLOAT:
            values = np.abs(array(tensor))
            finite = values[np.isfinite(values)]
            if finite.size > _FEW and finite.max() > _HALF_MAX:
                raise ModelError(
                    "a constant of the model does not fit float16",
                    where=where,
                    expected=f"values up to {_HALF_MAX:g}",
                    got=f"{finite.max():.3g} in {shown(tensor.name)}",
                    remedy="ask for int8 or float",
                )


def _store_in_half(model: Any) -> Any:
    onnx = tools()
    graph, readers = model.graph, consumers(model.graph)
    casts = []
    for tensor in graph.initializer:
        values = array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or values.size <= _FEW or tensor.name not in readers:
            continue
        name = tensor.name
        stored = f"{name}_half"
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], f"{name}_widen", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _compute_in_half(model: Any) -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)
