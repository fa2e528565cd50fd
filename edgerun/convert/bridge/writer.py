"""The TFLite file as it grows: tensors, constants, operators, and at the end the FlatBuffer with its signature.

Operators and their options: tensorflow/compiler/mlir/lite/schema/schema.fbs; the version each use of them needs:
tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgerun.convert.bridge.graph import Array, Shape
from edgerun.convert.bridge.layout import Order, identity, moves_nothing, stored
from edgerun.errors import MissingError

SIGNATURE = "serving_default"


class Writer:
    """One subgraph in the making. Tensors are named by their index."""

    def __init__(self) -> None:
        try:
            from ai_edge_litert import schema_py_generated
        except ImportError as error:
            raise MissingError(f"writing TFLite needs {error.name}", remedy="pip install 'edgerun[convert]'") from error
        self.schema: Any = schema_py_generated
        self.shapes: list[Shape] = []
        self.dtypes: list[np.dtype[Any]] = []
        self.names: list[str] = []
        self.constants: dict[int, Array] = {}
        self.operators: list[tuple[str, list[int], list[int], Any, int]] = []
        self.maker: dict[int, int] = {}
        """By tensor: the place of the operator that makes it."""
        self._shared: dict[tuple[Any, ...], int] = {}
        self._moved: dict[tuple[int, str, tuple[int, ...]], int] = {}
        self._taken: set[str] = set()

    def tensor(self, name: str, shape: Sequence[int], dtype: Any) -> int:
        self.shapes.append(tuple(int(size) for size in shape))
        self.dtypes.append(np.dtype(dtype))
        self.names.append(self._unique(name))
        return len(self.shapes) - 1

    def _unique(self, name: str) -> str:
        fresh, count = name, 1
        while fresh in self._taken:
            fresh, count = f"{name}_{count}", count + 1
        self._taken.add(fresh)
        return fresh

    def rename(self, tensor: int, name: str) -> None:
        """Give the tensor exactly that name; whichever has it now gets another."""
        if name in self._taken and name != self.names[tensor]:
            other = self.names.index(name)
            self.names[other] = self._unique(name)
        self._taken.discard(self.names[tensor])
        self._taken.add(name)
        self.names[tensor] = name

    def constant(self, name: str, value: Array, own: bool = False) -> int:
        """A constant tensor. Integers and single numbers that are there already are used again, but not where it is to
        be a layer's `own`: a quantiser gives the weights and bias of each a scale of their own.
        """
        value = np.asarray(value, order="C")
        shared = not own and (value.dtype.kind == "i" or value.size == 1)
        key = (value.shape, value.dtype.str, value.tobytes()) if shared else None
        if key in self._shared:
            return self._shared[key]
        tensor = self.tensor(name, value.shape, value.dtype)
        self.constants[tensor] = value
        if key is not None:
            self._shared[key] = tensor
        return tensor

    def integers(self, values: Any) -> int:
        """Shapes, axes and paddings (numbers, lists, pairs), as TFLite takes them: int32."""
        array = np.array(values, np.int32)
        return self.constant(f"const/{'x'.join(map(str, array.shape)) or 'scalar'}", array)

    def emit(
        self,
        op: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        name: str,
        *,
        options: Mapping[str, Any] | None = None,
        table: str = "",
        version: int = 1,
        dtype: Any = None,
    ) -> int:
        """Append an operator with one output, of the type of its first input or `dtype`; return that output.

        `table` names the options' table where it is not the operator's own in the schema.
        """
        output = self.tensor(name, shape, self.dtypes[inputs[0]] if dtype is None else dtype)
        self.append(op, inputs, [output], options=options, table=table, version=version)
        return output

    def append(
        self,
        op: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        options: Mapping[str, Any] | None = None,
        table: str = "",
        version: int = 1,
    ) -> None:
        built = None
        if table:
            built = getattr(self.schema, f"{table}T")()
            for key, value in (options or {}).items():
                if not hasattr(built, key):
                    raise AttributeError(f"{table} has no field {key}")
                setattr(built, key, value)
        for output in outputs:
            self.maker[output] = len(self.operators)
        self.operators.append((op, list(inputs), list(outputs), built, version))

    def reshape(self, tensor: int, shape: Sequence[int], name: str = "") -> int:
        """The tensor with another shape; of two reshapes in a row only the second is kept."""
        shape = tuple(int(size) for size in shape)
        maker = self.maker.get(tensor)
        if maker is not None and self.operators[maker][0] == "RESHAPE":
            tensor = self.operators[maker][1][0]
        if self.shapes[tensor] == shape:
            return tensor
        if tensor in self.constants:
            return self.constant(f"{self.names[tensor]}/Reshape", self.constants[tensor].reshape(shape))
        key = (tensor, "reshape", shape)
        if key not in self._moved:
            options = {"newShape": list(shape)}
            self._moved[key] = self.emit(
                "RESHAPE",
                [tensor, self.integers(shape)],
                shape,
                name or f"{self.names[tensor]}/Reshape",
                options=options,
                table="ReshapeOptions",
            )
        return self._moved[key]

    def transpose(self, tensor: int, permutation: Order) -> int:
        """The tensor with its axes permuted; a RESHAPE, or nothing, where no value has to move."""
        if permutation == identity(len(permutation)):
            return tensor
        shape = stored(self.shapes[tensor], permutation)
        if tensor in self.constants:
            return self.constant(f"{self.names[tensor]}/Transpose", self.constants[tensor].transpose(permutation))
        if moves_nothing(self.shapes[tensor], permutation):
            return self.reshape(tensor, shape)
        key = (tensor, "transpose", permutation)
        if key not in self._moved:
            inputs = [tensor, self.integers(permutation)]
            name = f"{self.names[tensor]}/Transpose"
            self._moved[key] = self.emit("TRANSPOSE", inputs, shape, name, table="TransposeOptions")
        return self._moved[key]

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int], description: str) -> bytes:
        """The file, without what no output needs; the signature names inputs and outputs as the mappings do."""
        from ai_edge_litert.tools import flatbuffer_utils

        schema = self.schema
        operators = self._needed(set(outputs.values()))
        used = [*inputs.values(), *outputs.values()]
        used += [tensor for _, into, out, _, _ in operators for tensor in (*into, *out)]
        order = sorted({tensor for tensor in used if tensor >= 0})
        place = {tensor: index for index, tensor in enumerate(order)} | {-1: -1}
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.description, model.subgraphs, model.buffers = 3, description, [graph], [schema.BufferT()]
        graph.name = "main"
        graph.tensors = [self._tensor(model, tensor) for tensor in order]
        graph.inputs = np.array([place[tensor] for tensor in inputs.values()], np.int32)
        graph.outputs = np.array([place[tensor] for tensor in outputs.values()], np.int32)
        versions: dict[str, int] = {}
        for op, _, _, _, version in operators:
            versions[op] = max(version, versions.get(op, 1))
        model.operatorCodes = [self._code(op, version) for op, version in versions.items()]
        codes = {op: index for index, op in enumerate(versions)}
        graph.operators = []
        for op, into, out, built, _ in operators:
            entry = schema.OperatorT()
            entry.opcodeIndex = codes[op]
            entry.inputs = np.array([place[tensor] for tensor in into], np.int32)
            entry.outputs = np.array([place[tensor] for tensor in out], np.int32)
            if built is not None:
                entry.builtinOptions = built
                entry.builtinOptionsType = getattr(schema.BuiltinOptions, type(built).__name__.removesuffix("T"))
            graph.operators.append(entry)
        model.signatureDefs = [self._signature(inputs, outputs, place)]
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    def counts(self, outputs: set[int]) -> tuple[int, int]:
        """How many operators those outputs need, and how many of them transpose."""
        needed = self._needed(outputs)
        return len(needed), sum(operator[0] == "TRANSPOSE" for operator in needed)

    def _needed(self, wanted: set[int]) -> list[Any]:
        kept, wanted = [], set(wanted)
        for operator in reversed(self.operators):
            if wanted.intersection(operator[2]):
                wanted.update(operator[1])
                kept.append(operator)
        return kept[::-1]

    def _tensor(self, model: Any, tensor: int) -> Any:
        entry = self.schema.TensorT()
        entry.name = self.names[tensor]
        entry.shape = np.array(self.shapes[tensor], np.int32)
        entry.type = getattr(self.schema.TensorType, self.dtypes[tensor].name.upper())
        entry.hasRank = True
        if tensor in self.constants:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(self.constants[tensor].tobytes(), np.uint8)
            model.buffers.append(buffer)
            entry.buffer = len(model.buffers) - 1
        return entry

    def _code(self, op: str, version: int) -> Any:
        entry = self.schema.OperatorCodeT()
        entry.builtinCode = getattr(self.schema.BuiltinOperator, op)
        entry.deprecatedBuiltinCode = min(entry.builtinCode, 127)  # PLACEHOLDER_FOR_GREATER_OP_CODES
        entry.version = version
        return entry

    def _signature(self, inputs: Mapping[str, int], outputs: Mapping[str, int], place: Mapping[int, int]) -> Any:
        signature = self.schema.SignatureDefT()
        signature.signatureKey = SIGNATURE
        for field, named in (("inputs", inputs), ("outputs", outputs)):
            entries = []
            for name, tensor in named.items():
                entry = self.schema.TensorMapT()
                entry.name, entry.tensorIndex = name, place[tensor]
                entries.append(entry)
            setattr(signature, field, entries)
        return signature
