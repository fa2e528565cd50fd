"""Which precision each operator of a model gets, from the layers that are to be left in higher precision.

A layer with weights has up to three rungs:

    int8      weights and activations in integers, ranges from calibration ("static")
    dynamic   int8 weights; the input is quantised as it comes, by its own range, and the output is float
    float16   float arithmetic, weights stored as float16

Two entries of the layers stand for the two steps up: its own name (its activations) and, on top of that and without
effect alone, its name + WEIGHTS. Operators
without weights are int8 between int8 operators, and float elsewhere: a lone int8 addition between float layers would
pay two conversions to lose precision, and a softmax at the end would round probabilities to 1/256.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

from edgerun.convert.parts import Layer
from edgerun.convert.tflite.graph import WEIGHTED, Graph
from edgerun.errors import MissingError

Rung = Literal["int8", "dynamic", "float16", "float32"]

WEIGHTS = " (weights)"
"""Ends the name of the entry that stands for a layer's weights."""

_DYNAMIC = ("CONV_2D", "FULLY_CONNECTED")
"""Kinds whose dynamic form XNNPACK computes in integers (qd8-f32-qc8w). The others' falls back to reference kernels:
DEPTHWISE_CONV_2D made a whole SSD MobileNet 3.4 times slower than float (27.0 against 8.0 ms)."""

_PASSING = frozenset(
    (
        "RESHAPE",
        "CONCATENATION",
        "TRANSPOSE",
        "SPLIT",
        "STRIDED_SLICE",
        "SLICE",
        "PACK",
        "UNPACK",
        "GATHER",
        "GATHER_ND",
        "PAD",
        "PADV2",
        "MIRROR_PAD",
        "MAX_POOL_2D",
        "RESIZE_NEAREST_NEIGHBOR",
        "SPACE_TO_DEPTH",
        "BROADCAST_TO",
        "MAXIMUM",
        "RELU",
        "SELECT",
        "SELECT_V2",
    )
)
"""Operators that hand values on, or compare them: no choice of their own, they go with their neighbours."""

_RECIPE_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}


def library(module: str) -> ModuleType:
    """A module of litert-quantizer. Raises `MissingError`."""
    try:
        return importlib.import_module(f"litert_quantizer.{module}")
    except ImportError as error:
        raise MissingError(
            "TensorFlow Lite models cannot be quantised here",
            expected="litert-quantizer",
            got=error,
            remedy="pip install 'edgerun[convert]'",
        ) from error


def static_kinds() -> frozenset[str]:
    """Operators for which litert-quantizer has a static int8 form, by their names in the schema."""
    policy = json.loads(library("default_policy").DEFAULT_JSON_POLICY)["ops_per_config"]["static_wi8_ai8"]
    back = {new: old for old, new in _RECIPE_NAMES.items()}
    return frozenset(back.get(name, name) for name in policy) - {"INPUT", "OUTPUT"}


def recipe_name(kind: str) -> str:
    """The name litert-quantizer's recipes have for an operator of the schema."""
    return _RECIPE_NAMES.get(kind, kind)


_LEAST_COST = 1e-3
"""What leaving any layer costs besides: conversions between integers and floats around it."""
_FLOAT_TIME = 0.6
_DYNAMIC_TIME = 0.1
"""Time a multiply-accumulate costs more than in static int8, as a share of float's: measured on SSD MobileNet v2."""


def ranked(layers: Sequence[Layer], sensitivity: Mapping[str, float]) -> list[str]:
    """Names in the order in which layers are best left in higher precision: most noise taken out for its cost first.

    Noise shares of single layers add up, nearly; so the best choice for any total is the steps of best noise per cost,
    and one order holds for all totals (the greedy solution of the Lagrangian, as for rate and distortion: Shoham and
    Gersho, "Efficient bit allocation for an arbitrary set of quantizers", 1988). A second step that pays better than
    the first is taken with it. Cost: the share of the model's time plus the share of its weights' bytes.
    """
    by_name = {layer.name: layer for layer in layers}
    macs = max(sum(layer.macs for layer in layers), 1)
    weights = max(sum(layer.weights for layer in layers), 1)
    found: list[tuple[float, list[str]]] = []
    for layer in layers:
        if layer.name.endswith(WEIGHTS):
            continue
        noise, time = 10 ** (-sensitivity[layer.name] / 10), layer.macs / macs
        upper = by_name.get(layer.name + WEIGHTS)
        if upper is None:
            cost = time * _FLOAT_TIME + layer.weights / weights
            found.append((noise / (cost + _LEAST_COST), [layer.name]))
            continue
        left = min(10 ** (-sensitivity[upper.name] / 10), noise)
        first = (noise - left) / (time * _DYNAMIC_TIME + _LEAST_COST)
        second = left / (time * (_FLOAT_TIME - _DYNAMIC_TIME) + upper.weights / weights + _LEAST_COST)
        if second > first:
            cost = time * _FLOAT_TIME + upper.weights / weights
            found.append((noise / (cost + _LEAST_COST), [layer.name, upper.name]))
        else:
            found += [(first, [layer.name]), (second, [upper.name])]
    return [name for _, names in sorted(found, key=lambda one: -one[0]) for name in names]


class Plan:
    """The operators of one graph and the choices there are for each. `dynamic`: whether the middle rung is offered."""

    def __init__(self, graph: Graph, dynamic: bool) -> None:
        self._graph, self._dynamic = graph, dynamic
        self._static = static_kinds()
        self._producers, self._consumers = graph.producers(), graph.consumers()
        self._inputs = {int(i) for i in graph.main.inputs}
        self.kinds = {graph.layer(op): graph.kind(op) for op in graph.ops}
        self.layers = tuple(self._entries())
        whole = self.rungs(frozenset())  # what is float even then offers no choice
        self.layers = tuple(one for one in self.layers if one.macs or one.weights or whole[one.name] == "int8")
        self.refused = {name: kind for name, kind in self.kinds.items() if not self._may(name)}
        """Layers no int8 form is known for → their kind; they stay in float."""

    def _entries(self) -> list[Layer]:
        entries = []
        for op in self._graph.ops:
            name, kind = self._graph.layer(op), self._graph.kind(op)
            if not self._may(name) or kind in _PASSING:
                continue
            if not self._weighted(op):
                entries.append(Layer(name, kind, 0, 0))
                continue
            count = 1
            for side in self._graph.shape(int(op.inputs[1])):
                count *= side
            two = self._may_be_dynamic(op)
            entries.append(Layer(name, kind, self._graph.macs(op), 0 if two else count))
            if two:
                entries.append(Layer(name + WEIGHTS, kind, 0, count))
        return entries

    def _may(self, name: str) -> bool:
        return self.kinds[name] in self._static

    def _weighted(self, op: Any) -> bool:
        return self._graph.kind(op) in WEIGHTED and self._graph.is_constant(int(op.inputs[1]))

    def _may_be_dynamic(self, op: Any) -> bool:
        kind = self._graph.kind(op)
        if not self._dynamic or kind not in _DYNAMIC:
            return False
        weights, data = self._graph.shape(int(op.inputs[1])), self._graph.shape(int(op.inputs[0]))
        return kind != "CONV_2D" or weights[-1] == data[-1]  # grouped convolutions have no dynamic kernel

    def rungs(self, kept: frozenset[str]) -> Mapping[str, Rung]:
        """Layer → its rung, every operator's included. Unknown names in `kept` are a `KeyError`."""
        unknown = kept - {layer.name for layer in self.layers}
        if unknown:
            raise KeyError(f"no layers of this model: {sorted(unknown)}")
        found: dict[str, Rung] = {}
        for op in self._graph.ops:
            name = self._graph.layer(op)
            if self._weighted(op) and self._may(name):
                found[name] = self._weighted_rung(op, name, kept)
        self._spread(found, kept)
        return found

    def _weighted_rung(self, op: Any, name: str, kept: frozenset[str]) -> Rung:
        if name not in kept:
            return "int8"
        return "dynamic" if self._may_be_dynamic(op) and name + WEIGHTS not in kept else "float16"

    def _spread(self, found: dict[str, Rung], kept: frozenset[str]) -> None:
        """Rungs of the operators without weights: forwards from what they read, then back where nobody wants int8."""
        for op in self._graph.ops:
            name = self._graph.layer(op)
            if name not in found:
                whole = self._may(name) and name not in kept and self._reads_int8(op, found)
                found[name] = "int8" if whole else "float32"
        for op in reversed(self._graph.ops):
            name = self._graph.layer(op)
            if found[name] == "int8" and not self._weighted(op) and not self._wanted_int8(op, found):
                found[name] = "float32"

    def _reads_int8(self, op: Any, found: Mapping[str, Rung]) -> bool:
        for tensor in map(int, op.inputs):
            if tensor < 0 or self._graph.is_constant(tensor) or self._graph.dtype(tensor) != "float32":
                continue
            if tensor in self._inputs:
                continue
            producer = self._producers.get(tensor)
            if producer is None or found[self._graph.layer(self._graph.main.operators[producer])] != "int8":
                return False
        return True

    def _wanted_int8(self, op: Any, found: Mapping[str, Rung]) -> bool:
        readers = [at for tensor in op.outputs for at in self._consumers.get(int(tensor), ())]
        return any(found[self._graph.layer(self._graph.main.operators[at])] == "int8" for at in readers)

    def input_int8(self, rungs: Mapping[str, Rung]) -> bool:
        """Whether everything that reads the model's float inputs is int8, so that they can be int8 themselves."""
        readers = [at for tensor in self._inputs for at in self._consumers.get(tensor, ())]
        return bool(readers) and all(
            rungs.get(self._graph.layer(self._graph.main.operators[at])) == "int8" for at in readers
        )
