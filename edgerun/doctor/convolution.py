"""A small ONNX model made on the spot, to see whether ONNX Runtime and its providers compute."""

from __future__ import annotations


def convolution() -> bytes:
    """An ONNX file (onnx.proto3) of one 3×3 convolution: `x` 1×3×8×8 and weights `w` 4×3×3×3 → `y` 1×4×6×6, float32."""
    node = _text(1, "x") + _text(1, "w") + _text(2, "y") + _text(4, "Conv")
    graph = _part(1, node) + _text(2, "g")
    graph += _value(11, "x", (1, 3, 8, 8)) + _value(11, "w", (4, 3, 3, 3)) + _value(12, "y", (1, 4, 6, 6))
    return _number(1, 8) + _part(7, graph) + _part(8, _number(2, 13))


def _value(field: int, name: str, shape: tuple[int, ...]) -> bytes:
    dimensions = b"".join(_part(1, _number(1, size)) for size in shape)
    tensor = _number(1, 1) + _part(2, dimensions)  # element type 1 is float32
    return _part(field, _text(1, name) + _part(2, _part(1, tensor)))


def _text(field: int, text: str) -> bytes:
    return _part(field, text.encode())


def _part(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3]) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first (protobuf.dev, "Encoding")."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
