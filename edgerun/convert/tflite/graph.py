"""One TensorFlow Lite model in memory: its operators, tensors and constants by number, and back to bytes.

Field and operator names are those of the format's own schema (tensorflow/lite/schema/schema.fbs), read and written by
the runtime's own `flatbuffer_utils`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerun.errors import MissingError, ModelError
from edgerun.models.flatbuffer import DAMAGED

FloatArray = NDArray[np.float32]

MOST_BYTES = 2**31 - 1
"""A FlatBuffer's offsets are signed 32-bit: a larger file has its weights outside of it, which nothing here reads."""

WEIGHTED: Mapping[str, int] = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
"""Operators with trained weights → the axis of the weights that counts output channels (TFLite 8-bit specification)."""

_TYPES: Mapping[str, str] = {
    "FLOAT32": "float32",
    "FLOAT16": "float16",
    "FLOAT64": "float64",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def tools() -> tuple[ModuleType, ModuleType]:
    """LiteRT's schema and its reader and writer. Raises `MissingError`."""
    try:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise MissingError(
            "TensorFlow Lite models cannot be converted here",
            expected="ai-edge-litert",
            got=error,
            remedy="pip install 'edgerun[convert]'",
        ) from error
    return schema, flatbuffer_utils


class Graph:
    """A model, its first subgraph in reach by operator and tensor number. Changes are made in place.

    `model` is the schema's own `ModelT`. Raises `ModelError` for bytes that are no TensorFlow Lite model.
    """

    def __init__(self, content: bytes, where: object) -> None:
        self._schema, self._tools = tools()
        self.where = where
        if content[4:8] != b"TFL3":
            raise ModelError(
                "not a TensorFlow Lite model", where=where, expected="the identifier TFL3 at byte 4", got=content[4:8]
            )
        try:
            self.model: Any = self._tools.read_model_from_bytearray(bytearray(content))
        except (*DAMAGED, TypeError, AttributeError, KeyError) as error:
            raise ModelError("the model is damaged", where=where, got=f"{type(error).__name__}: {error}") from error
        if not self.model.subgraphs:
            raise ModelError("the model holds no graph", where=where)
        self._kinds = _names_of(self._schema.BuiltinOperator)
        self._types = _names_of(self._schema.TensorType)

    @property
    def main(self) -> Any:
        return self.model.subgraphs[0]

    @property
    def ops(self) -> list[Any]:
        return list(self.main.operators)

    def kind(self, op: Any) -> str:
        """The operator's name in the schema, `CONV_2D`; of a custom one its own."""
        code = self.model.operatorCodes[op.opcodeIndex]
        name = self._kinds[int(max(code.builtinCode, code.deprecatedBuiltinCode))]
        return bytes(code.customCode).decode(errors="replace") if name == "CUSTOM" and code.customCode else name

    def is_custom(self, op: Any) -> bool:
        code = self.model.operatorCodes[op.opcodeIndex]
        return self._kinds[int(max(code.builtinCode, code.deprecatedBuiltinCode))] == "CUSTOM"

    def name(self, tensor: int) -> str:
        return bytes(self.main.tensors[tensor].name or b"").decode(errors="replace")

    def rename(self, tensor: int, name: str) -> None:
        self.main.tensors[tensor].name = name.encode()

    def layer(self, op: Any) -> str:
        """What an operator is called: the name of its first output."""
        return self.name(int(op.outputs[0])) if len(op.outputs) else self.kind(op)

    def shape(self, tensor: int) -> tuple[int, ...]:
        sides = self.main.tensors[tensor].shape
        return () if sides is None else tuple(int(side) for side in sides)

    def dtype(self, tensor: int) -> str:
        """`float32`, `int8` …; the schema's own name for a type numpy does not have (`INT4`, `STRING`)."""
        name = self._types[int(self.main.tensors[tensor].type)]
        return _TYPES.get(name, name)

    def scales(self, tensor: int) -> tuple[FloatArray, NDArray[np.int64], int] | None:
        """Scale, zero point and the axis they run along of a quantised tensor, else None."""
        stated = self.main.tensors[tensor].quantization
        if stated is None or stated.scale is None or len(stated.scale) == 0:
            return None
        zero = stated.zeroPoint
        scale = np.asarray(stated.scale, np.float32)
        return (
            scale,
            np.zeros(len(scale), np.int64) if zero is None or len(zero) == 0 else np.asarray(zero, np.int64),
            int(stated.quantizedDimension or 0),
        )

    def raw(self, tensor: int) -> bytes | None:
        """The bytes of a constant; None for a tensor that is computed."""
        if tensor < 0:
            return None
        data = self.model.buffers[self.main.tensors[tensor].buffer].data
        return None if data is None or len(data) == 0 else bytes(data)

    def is_constant(self, tensor: int) -> bool:
        if tensor < 0:
            return False
        data = self.model.buffers[self.main.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """A constant's values in its shape and dtype, a copy; None for a computed tensor or a type numpy lacks."""
        content, dtype = self.raw(tensor), self.dtype(tensor) if tensor >= 0 else ""
        if content is None or dtype not in _TYPES.values():
            return None
        return np.frombuffer(content, dtype).reshape(self.shape(tensor)).copy()

    def set_constant(self, tensor: int, values: NDArray[Any]) -> None:
        """New values (float32, float16 or integers) for a constant, in a buffer of its own; its shape stays."""
        stated = self.main.tensors[tensor]
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        stated.buffer = len(self.model.buffers) - 1
        stated.type = self.type_number(str(values.dtype))

    def type_number(self, dtype: str) -> int:
        name = next(key for key, value in _TYPES.items() if value == dtype)
        return int(getattr(self._schema.TensorType, name))

    def add_tensor(self, name: str, like: int, dtype: str) -> int:
        """A new computed tensor in the shape of another; its number."""
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), list(self.shape(like)), 0
        tensor.type = self.type_number(dtype)
        self.main.tensors.append(tensor)
        return len(self.main.tensors) - 1

    def operator(self, kind: str, inputs: list[int], outputs: list[int]) -> Any:
        """A new operator without options, to be put into `main.operators` by the caller."""
        number = int(getattr(self._schema.BuiltinOperator, kind))
        code = next((i for i, c in enumerate(self.model.operatorCodes) if self._number(c) == number), None)
        if code is None:
            entry = self._schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = number, min(number, 127), 3
            self.model.operatorCodes.append(entry)
            code = len(self.model.operatorCodes) - 1
        op = self._schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = code, inputs, outputs
        return op

    @staticmethod
    def _number(code: Any) -> int:
        return int(max(code.builtinCode, code.deprecatedBuiltinCode))

    def producers(self) -> dict[int, int]:
        """Computed tensor → number of the operator that computes it."""
        return {int(t): at for at, op in enumerate(self.main.operators) for t in op.outputs}

    def consumers(self) -> dict[int, list[int]]:
        """Tensor → numbers of the operators that read it."""
        found: dict[int, list[int]] = {}
        for at, op in enumerate(self.main.operators):
            for tensor in op.inputs:
                found.setdefault(int(tensor), []).append(at)
        return found

    def float_activations(self) -> Iterator[int]:
        """Computed float32 tensors: the inputs, then each operator's outputs in the order of execution."""
        for tensor in (*self.main.inputs, *(t for op in self.main.operators for t in op.outputs)):
            if tensor >= 0 and self.dtype(int(tensor)) == "float32":
                yield int(tensor)

    def weighted(self) -> Iterator[tuple[Any, int]]:
        """Operators whose weights are float32 constants, with the axis of their output channels."""
        for op in self.main.operators:
            axis = WEIGHTED.get(self.kind(op))
            if axis is not None and self.is_constant(int(op.inputs[1])) and self.dtype(int(op.inputs[1])) == "float32":
                yield op, axis

    def bias_of(self, op: Any) -> int:
        """The tensor number of an operator's bias, -1 without one (a transposed convolution's is its fourth input)."""
        place = 3 if self.kind(op) == "TRANSPOSE_CONV" else 2
        return int(op.inputs[place]) if len(op.inputs) > place else -1

    def macs(self, op: Any) -> int:
        """Multiply-accumulates for one input: output elements × weights per output channel; 0 without weights."""
        kind = self.kind(op)
        if kind not in WEIGHTED:
            return 0
        weights, out = self.shape(int(op.inputs[2 if kind == "TRANSPOSE_CONV" else 1])), self.shape(int(op.outputs[0]))
        if kind == "TRANSPOSE_CONV":
            weights, out = self.shape(int(op.inputs[1])), self.shape(int(op.inputs[2]))
            return int(np.prod(out)) * int(np.prod(weights[:3]))
        per_output = int(np.prod(weights[1:3] if kind == "DEPTHWISE_CONV_2D" else weights[1:]))
        return int(np.prod(out)) * per_output

    def drop_unused(self) -> None:
        """Forget tensors, buffers and operator codes of the first subgraph that nothing refers to any longer."""
        graph = self.main
        used = {int(i) for op in graph.operators for i in (*op.inputs, *op.outputs, *(op.intermediates or ()))}
        used |= {int(i) for i in (*graph.inputs, *graph.outputs)}
        kept = sorted(i for i in used if i >= 0)
        place = {old: new for new, old in enumerate(kept)} | {-1: -1}
        graph.tensors = [graph.tensors[i] for i in kept]
        for op in graph.operators:
            op.inputs, op.outputs = [place[int(i)] for i in op.inputs], [place[int(i)] for i in op.outputs]
            if op.intermediates is not None:
                op.intermediates = [place[int(i)] for i in op.intermediates]
        graph.inputs = [place[int(i)] for i in graph.inputs]
        graph.outputs = [place[int(i)] for i in graph.outputs]
        for signature in self.model.signatureDefs or []:
            if signature.subgraphIndex == 0:
                for entry in (*signature.inputs, *signature.outputs):
                    entry.tensorIndex = place[int(entry.tensorIndex)]
        self._drop_buffers()

    def _drop_buffers(self) -> None:
        tensors = [tensor for graph in self.model.subgraphs for tensor in graph.tensors]
        entries = list(self.model.metadata or [])
        buffers = [0, *sorted({int(owner.buffer) for owner in (*tensors, *entries)} - {0})]
        place = {old: new for new, old in enumerate(buffers)}
        for owner in (*tensors, *entries):
            owner.buffer = place[int(owner.buffer)]
        self.model.buffers = [self.model.buffers[i] for i in buffers]
        ops = [op for graph in self.model.subgraphs for op in graph.operators]
        codes = sorted({int(op.opcodeIndex) for op in ops})
        self.model.operatorCodes = [self.model.operatorCodes[i] for i in codes]
        for op in ops:
            op.opcodeIndex = codes.index(int(op.opcodeIndex))

    def sign(self, key: str) -> None:
        """Give the first subgraph a SignatureDef under which each input and output has its tensor's name."""
        definition = self._schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = key.encode(), 0
        definition.inputs, definition.outputs = [], []
        for numbers, entries in (
            (self.main.inputs, definition.inputs),
            (self.main.outputs, definition.outputs),
        ):
            for number in numbers:
                entry = self._schema.TensorMapT()
                entry.name, entry.tensorIndex = self.name(int(number)).encode(), int(number)
                entries.append(entry)
        self.model.signatureDefs = [definition]

    def to_bytes(self) -> bytes:
        return bytes(self._tools.convert_object_to_bytearray(self.model))


def open_graph(path: Path) -> Graph:
    """The model in a file. Raises `ModelError` for one over 2 GB, damaged, or of another format."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ModelError(
                "the model is too large",
                where=path,
                expected=f"at most {MOST_BYTES} bytes (2 GB, the end of what a FlatBuffer's offsets reach)",
                got=size,
                remedy="prepare a smaller model, or split it into parts that are run one after the other",
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelError("the model cannot be read", where=path, got=error) from error
    return Graph(content, path)


def _names_of(numbered: Any) -> dict[int, str]:
    return {value: name for name, value in vars(numbered).items() if isinstance(value, int)}
