"""Windows that slide over a picture: how ONNX pads them, and how TFLite can be told the same."""

from __future__ import annotations

from dataclasses import dataclass

from edgerun.convert.bridge.emitter import Emitter, Refusal
from edgerun.convert.bridge.graph import Node, Shape

LOWEST = -3.4028234663852886e38  # the least float32


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution or pooling, in elements; `before` and `after`: padding as ONNX states it."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    out: int

    @property
    def reach(self) -> int:
        """Elements from the first to the last that one window sees."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def past(self) -> int:
        """Elements after the end that the last window needs; negative where it ends earlier."""
        return (self.out - 1) * self.stride + self.reach - self.size - self.before

    @property
    def is_valid(self) -> bool:
        """TFLite's VALID: no padding, as many windows as fit."""
        return self.before == 0 and self.past <= 0 and self.out == (self.size - self.reach) // self.stride + 1

    @property
    def is_same(self) -> bool:
        """TFLite's SAME: ceil(size / stride) windows, the odd element of padding after (padding.h, ComputePadding)."""
        total = max((self.out - 1) * self.stride + self.reach - self.size, 0)
        return (
            self.out == -(-self.size // self.stride) and self.before == total // 2 and self.past <= total - total // 2
        )


def axes(emitter: Emitter, node: Node, kernel: Shape) -> list[Axis]:
    """The spatial axes of a node whose first input is N×C×…; padding told by `auto_pad` is worked out."""
    sizes = emitter.shape(node.inputs[0])[2:]
    outs = emitter.shape(node.outputs[0])[2:]
    rank = len(sizes)
    strides = node.attribute("strides", [1] * rank)
    dilations = node.attribute("dilations", [1] * rank)
    pads = node.attribute("pads", [0] * 2 * rank)
    automatic = node.attribute("auto_pad", "NOTSET")
    found = []
    for index in range(rank):
        before, after = pads[index], pads[index + rank]
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            reach = (kernel[index] - 1) * dilations[index] + 1
            total = max((outs[index] - 1) * strides[index] + reach - sizes[index], 0)
            before = total // 2 if automatic == "SAME_UPPER" else total - total // 2
            after = total - before
        elif automatic == "VALID":
            before = after = 0
        if before < 0 or after < 0:
            raise Refusal("crops its input by negative padding", "export it as a Slice before the layer")
        if (outs[index] - 1) * strides[index] >= sizes[index] + before:
            raise Refusal("has a last window that lies outside of its input", "leave ceil_mode off")
        found.append(Axis(sizes[index], kernel[index], strides[index], dilations[index], before, after, outs[index]))
    return found


def flat(found: list[Axis]) -> list[Axis]:
    """The two axes that TFLite's operators have: a signal is a picture one row high."""
    if len(found) > 2:
        raise Refusal(
            f"slides over {len(found)} dimensions", "TFLite's kernels know one and two; reshape before the export"
        )
    return [Axis(1, 1, 1, 1, 0, 0, 1), *found] if len(found) == 1 else found


def kind(found: list[Axis]) -> str | None:
    """`VALID` or `SAME` where the padding is that, None where it has to be a PAD of its own."""
    if all(axis.is_valid for axis in found):
        return "VALID"
    return "SAME" if all(axis.is_same for axis in found) else None


def as_picture(emitter: Emitter, name: str) -> int:
    """The N×C×… value as a tensor N×H×W×C."""
    tensor = emitter.pictures(name)
    shape = emitter.writer.shapes[tensor]
    return emitter.writer.reshape(tensor, (shape[0], 1, *shape[1:])) if len(shape) == 3 else tensor


def padded(emitter: Emitter, node: Node, tensor: int, found: list[Axis], value: float = 0.0) -> int:
    """The N×H×W×C tensor with the padding that its windows really see, by one PAD."""
    paddings = [(0, 0), *((axis.before, max(axis.past, 0)) for axis in found), (0, 0)]
    return pad(emitter, tensor, paddings, f"{node.name}/Pad", value)


def pad(emitter: Emitter, tensor: int, paddings: list[tuple[int, int]], name: str, value: float = 0.0) -> int:
    """A PAD with zeros, or a PADV2 with another value."""
    writer = emitter.writer
    if not any(before or after for before, after in paddings):
        return tensor
    shape = tuple(size + before + after for size, (before, after) in zip(writer.shapes[tensor], paddings, strict=True))
    inputs = [tensor, writer.integers(paddings)]
    version = 1 if len(shape) <= 4 else 2
    if value == 0.0:
        return writer.emit("PAD", inputs, shape, name, table="PadOptions", version=version)
    import numpy as np

    filler = writer.constant(f"{name}/value", np.array([value], writer.dtypes[tensor]))
    return writer.emit("PADV2", [*inputs, filler], shape, name, table="PadV2Options", version=version)
