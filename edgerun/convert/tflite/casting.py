"""float16 weights: half the size, the same speed on a CPU (they are unpacked when the model is opened)."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgerun.convert.parts import Network
from edgerun.convert.tflite.graph import WEIGHTED, Graph, open_graph

_HALF_MAX = 65504.0
_WORTH_IT = 128
"""Constants of fewer elements stay: a DEQUANTIZE operator and its tensor cost more than they save."""


def to_half(graph: Graph) -> int:
    """Pack the float32 weights of `graph` as float16 behind DEQUANTIZE, in place; how many constants were packed.

    The form that the TensorFlow converter writes for `supported_types = [float16]`, which every delegate knows. Left
    alone: biases (XNNPACK refuses a packed one beside int8 weights), what overflows float16, and constants that are
    read as something else too.
    """
    readers = graph.consumers()
    added: list[Any] = []
    packed: dict[int, int] = {}
    for tensor in list(readers):
        values = graph.constant(tensor)
        if values is None or values.dtype != np.float32 or values.size < _WORTH_IT:
            continue
        if not all(_is_weight(graph, graph.main.operators[at], tensor) for at in readers[tensor]):
            continue
        if np.abs(values).max() > _HALF_MAX:
            continue
        half = graph.add_tensor(f"{graph.name(tensor)}/float16", tensor, "float16")
        full = graph.add_tensor(f"{graph.name(tensor)}/float32", tensor, "float32")
        graph.set_constant(half, values.astype(np.float16))
        added.append(graph.operator("DEQUANTIZE", [half], [full]))
        packed[tensor] = full
    for op in graph.main.operators:
        op.inputs = [packed.get(int(i), int(i)) for i in op.inputs]
    graph.main.operators = [*added, *graph.main.operators]
    graph.drop_unused()
    return len(packed)


def _is_weight(graph: Graph, op: Any, tensor: int) -> bool:
    return graph.kind(op) in WEIGHTED and int(op.inputs[1]) == tensor


def fp16(network: Network) -> bytes:
    """The model with float16 weights and float32 arithmetic. Raises `ModelError` for a file that is no model."""
    graph = open_graph(network.path)
    to_half(graph)
    return graph.to_bytes()


def plain(network: Network) -> bytes:
    """The model in float32, as it was read: weights unpacked, with a signature."""
    return open_graph(network.path).to_bytes()
