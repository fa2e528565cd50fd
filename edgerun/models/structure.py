"""What a model file is made of, read without its runtime: tensors at its edges, ops, state, other files it wants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from edgerun.errors import ModelError
from edgerun.types import TensorSpec

MAX_TENSOR_BYTES = 512 << 20
"""Largest tensor a file may declare. A 640×640 detector's largest is about 100 MB; such devices have 1 to 8 GB."""

EDGE_TPU_OP = "edgetpu-custom-op"
"""The custom op that the Edge TPU compiler puts in place of what it has compiled."""

BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4,
    "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Element size; types of less than a byte, of text and of handles count as 1."""


class Signature(msgspec.Struct, frozen=True):
    """A TFLite SignatureDef: argument name → position among the model's inputs and outputs."""

    key: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


class Structure(msgspec.Struct, frozen=True):
    """The facts of a file's own structure.

    `ops`: how many of each kind (TFLite: by number). `custom_ops`: those that a runtime may lack. `variables`: ops that
    write state the model keeps for itself from call to call. `producer`: who wrote the file, `opset`: for which ONNX.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: Mapping[str, int] = {}
    custom_ops: tuple[str, ...] = ()
    signatures: tuple[Signature, ...] = ()
    variables: int = 0
    external: tuple[str, ...] = ()
    producer: str = ""
    opset: int | None = None

    @property
    def edge_tpu(self) -> bool:
        """Compiled for the Edge TPU: no other device can run it."""
        return EDGE_TPU_OP in self.custom_ops

    @property
    def op_count(self) -> int:
        return sum(self.ops.values())


def check_size(name: str, shape: Sequence[int], dtype: str, where: object) -> None:
    """Raises `ModelError` when a tensor of this shape would exceed `MAX_TENSOR_BYTES`; open sides count as 1."""
    elements = math.prod(max(side, 1) for side in shape)
    if elements * BYTES.get(dtype, 1) > MAX_TENSOR_BYTES:
        raise ModelError(
            "the model declares a tensor that no device of this kind could hold",
            where=where,
            expected=f"≤ {MAX_TENSOR_BYTES >> 20} MiB a tensor",
            got=f"{shown(name)} {sides(shape)} {dtype}",
            remedy="it was refused before any memory was taken; the file is damaged, or made for another machine",
        )


def damaged(kind: str, where: object, error: object) -> ModelError:
    """The error for bytes that are no such file."""
    return ModelError(
        f"edgerun refuses the model: the {kind} file cannot be read",
        where=where,
        got=error,
        remedy="it is damaged or was cut short: fetch it again",
    )


def sides(shape: Iterable[int]) -> str:
    """A shape as people write it: 1×300×300×3, ? for a side left open."""
    return "×".join("?" if side < 0 else str(side) for side in shape) or "scalar"


def shown(name: str) -> str:
    """A name out of a file, safe to print and not longer than a line can bear."""
    clean = "".join(one if one.isprintable() else "?" for one in name)
    return clean if len(clean) <= 100 else clean[:97] + "…"
