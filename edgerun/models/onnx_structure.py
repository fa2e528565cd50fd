"""The structure of an `.onnx` file, read straight from the protobuf.

Field numbers are those of `onnx.proto3`: ModelProto producer_name 2, producer_version 3, graph 7, opset_import 8,
functions 25; GraphProto node 1, initializer 5, input 11, output 12, value_info 13, sparse_initializer 15; NodeProto
input 1, output 2, op_type 4, attribute 5, domain 7; AttributeProto t 5, g 6, ints 8, tensors 10, graphs 11; TensorProto
dims 1, data_type 2, int64_data 7, name 8, raw_data 9, external_data 13; ValueInfoProto name 1, type 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edgerun.errors import ModelError
from edgerun.models.structure import Structure, check_size, damaged
from edgerun.protobuf import fields, numbers, signed, varints
from edgerun.types import TensorSpec

_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "text", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc")
_FILLS = ("ConstantOfShape", "Expand", "RandomNormal", "RandomUniform")
"""Ops that make a tensor of whatever shape their constant says."""
_DEEPEST = 32
_MOST_RANK = 64


def read_onnx(model: bytes, where: str) -> Structure:
    """The structure of the file. Raises `ModelError`, also for a tensor that is declared too large.

    Shapes that the graph computes, beyond those that one of its constants states, are not seen here.
    """
    try:
        return _Reader(where).read(memoryview(model))
    except ModelError:
        raise
    except (IndexError, ValueError, OverflowError, KeyError) as error:
        raise damaged("ONNX", where, error) from error


class _Reader:
    """Gathers over the graph and all graphs inside its nodes."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._ops: Counter[tuple[str, str]] = Counter()
        self._external: dict[str, None] = {}
        self._lengths: dict[str, tuple[int, ...]] = {}
        self._fills: list[tuple[str, str]] = []

    def read(self, model: memoryview) -> Structure:
        producer = version = ""
        opset = None
        functions: set[tuple[str, str]] = set()
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        constants: set[str] = set()
        graphs = 0
        for field, part in fields(model):
            if field == 2:
                producer = _text(part)
            elif field == 3:
                version = _text(part)
            elif field == 7:  # a second one adds to the first (Protocol Buffers encoding guide, "Last One Wins")
                graphs += 1
                for edge, at in ((inputs, 11), (outputs, 12)):
                    edge += [self._value(value) for number, value in fields(part) if number == at]
                constants |= self._graph(part, 0)
            elif field == 8:
                domain = next((_text(item) for number, item in fields(part) if number == 1), "")
                if domain in ("", "ai.onnx"):
                    opset = next((signed(value) for number, value in numbers(part) if number == 2), None)
            elif field == 25:
                functions.add(self._function(part))
        if not graphs:
            raise ValueError("no graph")
        for name, op in self._fills:
            check_size(f"the result of {op}", self._lengths.get(name, ()), "float32", self._where)
        custom = [op for op in self._ops if op[0] not in _KNOWN_DOMAINS and op not in functions]
        return Structure(
            inputs=tuple(spec for spec in inputs if spec.name not in constants),
            outputs=tuple(outputs),
            ops={
                kind if domain in _KNOWN_DOMAINS[:2] else f"{domain}:{kind}": n
                for (domain, kind), n in self._ops.items()
            },
            custom_ops=tuple(sorted(f"{domain}:{kind}" for domain, kind in custom)),
            external=tuple(self._external),
            producer=f"{producer} {version}".strip(),
            opset=opset,
        )

    def _graph(self, graph: memoryview, depth: int) -> set[str]:
        """Look through a graph; returns the names of its constants (older files list them as inputs too)."""
        if depth > _DEEPEST:
            raise ValueError("graphs nested too deep")
        names = set()
        for field, part in fields(graph):
            if field == 1:
                self._node(part, depth)
            elif field == 5:
                names.add(self._tensor(part))
            elif field == 13:
                self._value(part)
            elif field == 15:
                names |= {self._tensor(item) for number, item in fields(part) if number in (1, 2)}
        return names

    def _node(self, node: memoryview, depth: int) -> None:
        kind = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        for field, part in fields(node):
            if field == 4:
                kind = _text(part)
            elif field == 7:
                domain = _text(part)
            elif field in (1, 2):
                (inputs if field == 1 else outputs).append(_text(part))
        for field, part in fields(node):
            if field == 5:
                self._attribute(part, kind, outputs, depth)
        self._ops[domain, kind] += 1
        if kind in _FILLS and inputs:
            self._fills.append((inputs[-1], kind))

    def _attribute(self, attribute: memoryview, kind: str, outputs: Sequence[str], depth: int) -> None:
        if kind in _FILLS:
            loose = [signed(value) for number, value in numbers(attribute) if number == 8]
            check_size(f"the result of {kind}", loose, "float32", self._where)
        for field, part in fields(attribute):
            if field in (5, 10):
                self._tensor(part, outputs[0] if kind == "Constant" and outputs else "")
            elif field in (6, 11):
                self._graph(part, depth + 1)
            elif field == 8 and kind in _FILLS:
                check_size(f"the result of {kind}", _integers(part), "float32", self._where)

    def _function(self, function: memoryview) -> tuple[str, str]:
        """FunctionProto: name 1, node 7, domain 10. Its ops are the file's own, so it is no custom op."""
        name = domain = ""
        for field, part in fields(function):
            if field == 1:
                name = _text(part)
            elif field == 10:
                domain = _text(part)
            elif field == 7:
                self._node(part, 1)
        return domain, name

    def _tensor(self, tensor: memoryview, name: str = "") -> str:
        """Check a constant; returns its name. Short integer ones may be the shape of something else."""
        kind, dims = 0, [signed(value) for number, value in numbers(tensor) if number == 1]
        kind = next((value for number, value in numbers(tensor) if number == 2), 0)
        integers: tuple[int, ...] = ()
        for field, part in fields(tensor):
            if field == 1:
                dims += _integers(part)
            elif field == 8:
                name = name or _text(part)
            elif field == 7 and len(part) <= _MOST_RANK * 10:
                integers += _integers(part)
            elif field == 9 and kind == 7 and len(part) <= _MOST_RANK * 8 and len(part) % 8 == 0:
                integers = tuple(int(value) for value in np.frombuffer(part, "<i8"))
            elif field == 13:
                entry = {number: _text(item) for number, item in fields(part)}
                if entry.get(1) == "location":
                    self._external[entry.get(2, "")] = None
        integers += tuple(signed(value) for number, value in numbers(tensor) if number == 7)
        if kind == 7 and len(dims) <= 1:
            self._lengths[name] = integers
        check_size(name, dims, _TYPES.get(kind, f"type {kind}"), self._where)
        return name

    def _value(self, value: memoryview) -> TensorSpec:
        """TypeProto tensor_type 1: elem_type 1, shape 2; Dimension dim_value 1, dim_param 2. Open sides are -1."""
        name, dtype = "", "not a tensor"
        shape: list[int] = []
        for field, part in fields(value):
            if field == 1:
                name = _text(part)
            for number, tensor in fields(part) if field == 2 else ():
                if number != 1:
                    continue
                kind = next((item for at, item in numbers(tensor) if at == 1), 0)
                dtype = _TYPES.get(kind, f"type {kind}")
                for at, sides in fields(tensor):
                    if at == 2:
                        shape += [_side(side) for place, side in fields(sides) if place == 1]
        if len(shape) > _MOST_RANK:
            raise ValueError(f"a tensor of {len(shape)} dimensions")
        check_size(name, shape, dtype, self._where)
        return TensorSpec(name, tuple(shape), dtype)


def _op_name(domain: str, kind: str) -> str:
    return kind if domain in _KNOWN_DOMAINS[:2] else f"{domain}:{kind}"


def _side(dimension: memoryview) -> int:
    """Some exporters write 0 for a side that is not known."""
    value = next((signed(number) for at, number in numbers(dimension) if at == 1), -1)
    return value if value > 0 else -1


def _integers(packed: memoryview) -> tuple[int, ...]:
    if len(packed) > _MOST_RANK * 10:
        raise ValueError("a shape of too many dimensions")
    return tuple(signed(value) for value in varints(packed))


def _text(part: memoryview) -> str:
    return bytes(part[: 1 << 16]).decode("utf-8", "replace")
