"""Small TFLite models, written with the schema that LiteRT ships."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_ADD, _CALL_ONCE, _VAR_HANDLE, _READ, _ASSIGN = 0, 129, 142, 143, 144  # BuiltinOperator
_FLOAT32, _RESOURCE = 0, 13  # TensorType


def accumulator(width: int) -> bytes:
    """float32 1×`width`: y = the sum of everything that went in, kept in a resource variable that begins as zeros."""
    codes = [_ADD, _CALL_ONCE, _VAR_HANDLE, _READ, _ASSIGN]
    model = schema.ModelT()
    model.version, model.description = 3, b"accumulator"
    model.operatorCodes = [_code(number) for number in codes]
    zeros = schema.BufferT()
    zeros.data = list(np.zeros(width, np.float32).tobytes())
    model.buffers = [schema.BufferT(), zeros]
    shape = [1, width]
    main = _graph(
        b"main",
        [_tensor(b"x", shape), _tensor(b"handle", [], _RESOURCE), _tensor(b"held", shape), _tensor(b"y", shape)],
        [
            _op(codes.index(_CALL_ONCE), [], [], "CallOnceOptions", initSubgraphIndex=1),
            _op(codes.index(_VAR_HANDLE), [], [1], "VarHandleOptions", container=b"", sharedName=b"sum"),
            _op(codes.index(_READ), [1], [2], "ReadVariableOptions"),
            _op(codes.index(_ADD), [0, 2], [3], "AddOptions"),
            _op(codes.index(_ASSIGN), [1, 3], [], "AssignVariableOptions"),
        ],
        [0],
        [3],
    )
    start = _graph(
        b"start",
        [_tensor(b"handle", [], _RESOURCE), _tensor(b"zeros", shape, buffer=1)],
        [
            _op(codes.index(_VAR_HANDLE), [], [0], "VarHandleOptions", container=b"", sharedName=b"sum"),
            _op(codes.index(_ASSIGN), [0, 1], [], "AssignVariableOptions"),
        ],
        [],
        [],
    )
    model.subgraphs = [main, start]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def doubler(shape: list[int], stated: list[int]) -> bytes:
    """float32 y = x + x; allocated as `shape`, with `stated` (-1: open) as the signature of the shape."""
    model = schema.ModelT()
    model.version, model.description = 3, b"doubler"
    model.operatorCodes, model.buffers = [_code(_ADD)], [schema.BufferT()]
    tensors = [_tensor(b"x", shape), _tensor(b"y", shape)]
    for tensor in tensors:
        tensor.shapeSignature = stated
    model.subgraphs = [_graph(b"main", tensors, [_op(0, [0, 0], [1], "AddOptions")], [0], [1])]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _code(number: int) -> Any:
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode, code.builtinCode, code.version = min(number, 127), number, 1
    return code


def _tensor(name: bytes, shape: list[int], kind: int = _FLOAT32, buffer: int = 0) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    return tensor


def _op(code: int, inputs: list[int], outputs: list[int], options: str, **fields: Any) -> Any:
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = code, inputs, outputs
    op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    op.builtinOptions = getattr(schema, options + "T")()
    for name, value in fields.items():
        setattr(op.builtinOptions, name, value)
    return op


def _graph(name: bytes, tensors: list[Any], ops: list[Any], inputs: list[int], outputs: list[int]) -> Any:
    graph = schema.SubGraphT()
    graph.name, graph.tensors, graph.operators = name, tensors, ops
    graph.inputs, graph.outputs = inputs, outputs
    return graph
