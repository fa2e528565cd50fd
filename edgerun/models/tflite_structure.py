"""The structure of a `.tflite` file, read straight from the FlatBuffers.

Field numbers are those of TensorFlow Lite's `schema.fbs`: Model operator_codes 1, subgraphs 2, description 3, buffers
4, metadata 6, signature_defs 7; SubGraph tensors 0, inputs 1, outputs 2, operators 3; Tensor shape 0, type 1, name 3,
quantization 4, is_variable 5, shape_signature 7; QuantizationParameters scale 2, zero_point 3, quantized_dimension 6;
OperatorCode deprecated_builtin_code 0, custom_code 1, builtin_code 3; Operator opcode_index 0; SignatureDef inputs 0,
outputs 1, signature_key 2, subgraph_index 4; TensorMap name 0, tensor_index 1.
"""

from __future__ import annotations

from collections import Counter

from edgerun.models.flatbuffer import DAMAGED, Table, root
from edgerun.models.structure import Signature, Structure, check_size, damaged
from edgerun.types import TensorSpec

_TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "text", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16",
)  # fmt: skip
_CUSTOM, _ASSIGN_VARIABLE = 32, 144  # BuiltinOperator
_MOST_RANK, _MOST_EDGES, _MOST_SUBGRAPHS = 32, 1000, 1000
_KNOWN_CUSTOM = 256


def read_tflite(model: bytes, where: str) -> Structure:
    """The structure of the file's first subgraph, with the ops of all. Raises `ModelError`.

    A tensor that is declared larger than `MAX_TENSOR_BYTES` is refused, whatever subgraph it is in.
    """
    try:
        return _read(root(model), where)
    except DAMAGED as error:
        if isinstance(error, ValueError) and hasattr(error, "remedy"):  # a ModelError of check_size
            raise
        raise damaged("TensorFlow Lite", where, error) from error


def _read(model: Table, where: str) -> Structure:
    codes = [_op_code(code) for code in model.tables(1)]
    subgraphs = model.tables(2, _MOST_SUBGRAPHS)
    if not subgraphs:
        raise ValueError("no subgraph")
    ops: Counter[str] = Counter()
    variables = 0
    for subgraph in subgraphs:
        variables += _check_tensors(subgraph, where)
        for op in subgraph.tables(3):
            ops[codes[op.integer(0, "I")]] += 1
    tensors = subgraphs[0].tables(0)
    edges = [subgraphs[0].numbers(field, "i", _MOST_EDGES) for field in (1, 2)]
    if any(not 0 <= index < len(tensors) for indices in edges for index in indices):
        raise ValueError("an input or output that does not exist")
    inputs, outputs = (tuple(_spec(tensors[index]) for index in indices) for indices in edges)
    return Structure(
        inputs=inputs,
        outputs=outputs,
        ops=dict(ops),
        custom_ops=tuple(sorted(op for op in ops if not op.isdecimal())),
        signatures=tuple(_signatures(model, edges[0], edges[1])),
        variables=variables + ops[str(_ASSIGN_VARIABLE)],
        producer=model.text(3),
    )


def _op_code(code: Table) -> str:
    """The number of a built-in op, or the name of a custom one."""
    number = max(code.integer(0, "b"), code.integer(3, "i"))
    if number != _CUSTOM:
        return str(number)
    return code.raw(1, _KNOWN_CUSTOM).decode("utf-8", "replace") or "(custom op without a name)"


def _check_tensors(subgraph: Table, where: str) -> int:
    """Refuse what is too large; returns how many tensors are variables of the interpreter's own."""
    variables = 0
    for tensor in subgraph.tables(0):
        check_size(tensor.text(3), tensor.numbers(0, "i", _MOST_RANK), _type(tensor), where)
        variables += tensor.integer(5, "b") != 0
    return variables


def _type(tensor: Table) -> str:
    number = tensor.integer(1, "b")
    return _TYPES[number] if 0 <= number < len(_TYPES) else f"type {number}"


def _spec(tensor: Table) -> TensorSpec:
    """As the TFLite engine states it, but for sides other than the batch that the file leaves open, allocated as 1."""
    allocated, stated = tensor.numbers(0, "i", _MOST_RANK), tensor.numbers(7, "i", _MOST_RANK)
    quantisation = tensor.table(4)
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis = 0
    if quantisation is not None:
        scale, zero_point = quantisation.floats(2), quantisation.numbers(3, "q")
        axis = quantisation.integer(6, "i")
    shape = stated if 0 in allocated and stated else allocated
    if len(stated) == len(shape):
        shape = (
            *shape[:1],
            *(-1 if said < 0 and own == 1 else own for own, said in zip(shape[1:], stated[1:], strict=True)),
        )
    return TensorSpec(tensor.text(3), shape, _type(tensor), scale, zero_point, axis)


def _signatures(model: Table, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> list[Signature]:
    """Those of the first subgraph, whose tensors are all at its edges."""
    found = []
    for signature in model.tables(7, _MOST_EDGES):
        if signature.integer(4, "I"):
            continue
        sides = []
        for field, edge in ((0, inputs), (1, outputs)):
            named = {entry.text(0): entry.integer(1, "I") for entry in signature.tables(field, _MOST_EDGES)}
            sides.append({name: edge.index(index) for name, index in named.items() if index in edge})
        found.append(Signature(signature.text(2), *sides))
    return found
