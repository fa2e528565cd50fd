"""What a model file is by its first bytes, so that a wrong file is named for what it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Literal

from edgerun.errors import ModelError

_HEAD_BYTES = 512
_MOST_TENSOR_BYTES = 1 << 30
"""No model for such devices has a tensor of 1 GiB; a damaged one may, and LiteRT fills it with zeros when it opens."""


def check_content(model: bytes | Path, kind: Literal["tflite", "onnx"], name: str) -> None:
    """Raises `ModelError` when `model` cannot be of this kind.

    A TFLite model has the FlatBuffers file identifier "TFL3" at byte 4 (TensorFlow Lite schema). ONNX is a bare
    protobuf without any mark of its own, so only what is plainly something else is refused.
    """
    try:
        if isinstance(model, Path):
            with model.open("rb") as file:
                head = file.read(_HEAD_BYTES)
        else:
            head = model[:_HEAD_BYTES]
    except OSError as error:
        raise ModelError("the model cannot be read", where=name, got=error.strerror or str(error)) from error
    got = _describe(head)
    if kind == "tflite" and head[4:8] != b"TFL3":
        expected = 'a TensorFlow Lite model ("TFL3" at byte 4)'
    elif kind == "onnx" and got != "something else":
        expected = "an ONNX model"
    else:
        return
    raise ModelError(
        f"not {'a TensorFlow Lite' if kind == 'tflite' else 'an ONNX'} model",
        where=name,
        expected=expected,
        got=got,
        remedy="fetch or export the file again, and give its path rather than that of a page or pointer to it",
    )


def refuse_huge(tensors: Iterable[tuple[str, Sequence[int], int]], name: str) -> None:
    """Raises `ModelError` before memory is taken for a tensor that no device has room for.

    `tensors`: name, shape as the file states it (open sides are not positive) and bytes of one value.
    """
    for tensor, shape, item_bytes in tensors:
        size = prod(int(side) for side in shape if side > 0) * item_bytes
        if size > _MOST_TENSOR_BYTES:
            raise ModelError(
                "the model declares a tensor that is too large for any device",
                where=name,
                expected=f"at most {_MOST_TENSOR_BYTES >> 30} GiB",
                got=f"{size / (1 << 30):.1f} GiB for {tensor!r}, {'×'.join(map(str, shape))}",
                remedy="the file is damaged: fetch or convert it again",
            )


def _describe(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if head[:4] == b"PK\x03\x04":
        return "a zip archive"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "an HDF5 file (Keras)"
    if not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head) and len(head) > 8:
        return "text"
    return "something else"


def one_line(error: BaseException) -> str:
    """A library's message without its line breaks, short enough for a paragraph."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 400 else text[:397] + "…"
