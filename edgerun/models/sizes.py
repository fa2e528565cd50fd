"""Sides that a file leaves open, fixed before a runtime opens it.

TensorFlow Lite allocates an open side as 1 and works out every later shape from the inputs' when it prepares the ops
(`Subgraph::AllocateTensors`), so the numbers of an input's shape can be written over in the file itself: the vector in
the FlatBuffer keeps its length. ONNX Runtime takes any size at run time; nothing is changed there.
"""

from __future__ import annotations

import struct

import msgspec

from edgerun.errors import ModelError
from edgerun.models.artifact import Artifact, read_structure
from edgerun.models.bundle import Bundle
from edgerun.models.flatbuffer import root
from edgerun.models.structure import check_size, sides
from edgerun.types import TensorSpec


def fix_sizes(bundle: Bundle, size: tuple[int, int] | None = None) -> Bundle:
    """`bundle` with the open sides of its TFLite inputs fixed to the picture's size and its `shapes`.

    `size` (width, height) wins over the manifest's. Where neither says, sides stay open, and `complete` asks for them.
    Raises `ModelError` for a size that the input cannot have, or beyond the limit of a tensor.
    """
    wanted = size or bundle.picture.size
    artifacts = tuple(_fixed(one, bundle, wanted) for one in bundle.artifacts)
    return bundle if artifacts == bundle.artifacts else msgspec.structs.replace(bundle, artifacts=artifacts)


def _fixed(artifact: Artifact, bundle: Bundle, size: tuple[int, int] | None) -> Artifact:
    file = artifact.structure
    if artifact.format != "tflite" or file is None:
        return artifact
    shapes = {}
    for at, spec in enumerate(file.inputs):
        shape = bundle.shapes.get(spec.name) or _with_picture(spec, size)
        if shape is None or -1 not in spec.shape[1:]:
            continue
        if len(shape) != len(spec.shape) or any(
            own not in (-1, new) for own, new in zip(spec.shape, shape, strict=True)
        ):
            raise ModelError(
                "an input was given a shape it cannot have",
                where=bundle.name,
                expected=f"{spec.name} {sides(spec.shape)}",
                got=sides(shape),
            )
        check_size(spec.name, shape, spec.dtype, bundle.name)
        shapes[at] = shape
    if not shapes:
        return artifact
    model = _written(artifact.model, shapes)
    return msgspec.structs.replace(artifact, model=model, structure=read_structure(model, "tflite", bundle.name))


def _with_picture(spec: TensorSpec, size: tuple[int, int] | None) -> tuple[int, ...] | None:
    """The shape of a picture input of `size`: its open sides are height and width, in this order."""
    if size is None or len(spec.shape) != 4:
        return None
    if spec.shape[3] in (1, 3):
        return (spec.shape[0], size[1], size[0], spec.shape[3])
    return (spec.shape[0], spec.shape[1], size[1], size[0]) if spec.shape[1] in (1, 3) else None


def _written(model: bytes, shapes: dict[int, tuple[int, ...]]) -> bytes:
    """The file with these inputs' shapes, and nothing left open in them."""
    content = bytearray(model)
    graph = root(model).tables(2)[0]
    tensors, inputs = graph.tables(0), graph.numbers(1, "i")
    for at, shape in shapes.items():
        tensor = tensors[inputs[at]]
        for field in (0, 7):
            start = tensor.vector_at(field)
            if start:
                struct.pack_into(f"<{len(shape)}i", content, start, *shape)
    return bytes(content)
