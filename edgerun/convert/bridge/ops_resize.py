"""Resize and Upsample: ONNX names the coordinates and the rounding apart, TFLite knows three combinations."""

from __future__ import annotations

import numpy as np

from edgerun.convert.bridge.emitter import Emitter, Handler, Refusal
from edgerun.convert.bridge.graph import Array, Node
from edgerun.convert.bridge.layout import channels_last, stored

# (align_corners, half_pixel_centers) of TFLite's two kernels (resize_bilinear.h, resize_nearest_neighbor.h).
COMBINATIONS = ((False, False), (False, True), (True, False))
TOLERANCE = 1e-4
"""Of a pixel: coordinates that differ by less are the same."""


def resize(emitter: Emitter, node: Node) -> None:
    """By nearest neighbour in any of ONNX's ways (what TFLite does not know is gathered), or linearly in TFLite's."""
    _refuse_unknown(node)
    size, out = emitter.shape(node.inputs[0]), emitter.shape(node.outputs[0])
    if len(size) != 4 or size[:2] != out[:2]:
        raise Refusal("resizes other axes than height and width", "TFLite resizes pictures; reshape before the export")
    mode = node.attribute("mode", "nearest")
    scales = _scales(emitter, node, size, out)
    coordinates = [_onnx(node, size[axis], out[axis], scales[axis]) for axis in (2, 3)]
    nearest = mode == "nearest"
    if nearest:
        wanted = [_rounded(node, source, size[axis]) for source, axis in zip(coordinates, (2, 3), strict=True)]
    else:
        wanted = [np.clip(source, 0, size[axis] - 1) for source, axis in zip(coordinates, (2, 3), strict=True)]
    for align, half in COMBINATIONS:
        made = [_tflite(nearest, align, half, size[axis], out[axis]) for axis in (2, 3)]
        if all(np.allclose(one, other, atol=TOLERANCE, rtol=0) for one, other in zip(made, wanted, strict=True)):
            _kernel(emitter, node, nearest, align, half)
            return
    if not nearest:
        raise Refusal(
            f'interpolates with coordinates "{node.attribute("coordinate_transformation_mode", "half_pixel")}" and a '
            "scale that TFLite's kernel does not have",
            "resize by sizes rather than scales, with half_pixel, align_corners or asymmetric coordinates",
        )
    _gathered(emitter, node, wanted)


def _refuse_unknown(node: Node) -> None:
    mode = node.attribute("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        raise Refusal(f'has mode "{mode}"', "TFLite knows nearest and linear")
    if node.attribute("antialias", 0):
        raise Refusal("is antialiased", "export with antialias=False")
    if node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Refusal("crops and resizes", "crop with a Slice before it")


def _scales(emitter: Emitter, node: Node, size: tuple[int, ...], out: tuple[int, ...]) -> list[float]:
    """Output over input per axis: as stated, else by the sizes."""
    graph = emitter.graph
    name = node.input(2) if node.op == "Resize" and len(node.inputs) > 2 else node.input(1)
    stated = graph.constants[name] if name else None
    if stated is None or stated.size == 0:
        stated = node.attribute("scales")
    if stated is None or len(stated) == 0:
        return [after / before for before, after in zip(size, out, strict=True)]
    axes = node.attribute("axes") or range(4)
    scales = [1.0] * 4
    for axis, scale in zip(axes, stated, strict=True):
        scales[axis] = float(scale)
    return scales


def _onnx(node: Node, size: int, out: int, scale: float) -> Array:
    """Where each output element lies in the input (ONNX operators, Resize, coordinate_transformation_mode)."""
    place = np.arange(out, dtype=np.float64)
    usual = "half_pixel" if node.op == "Resize" else "asymmetric"
    mode = node.attribute("coordinate_transformation_mode", usual)
    if mode == "align_corners":
        return place * (size - 1) / (out - 1) if out > 1 else place * 0
    if mode == "asymmetric":
        return place / scale
    if mode == "pytorch_half_pixel" and out == 1:
        return place * 0
    if mode == "half_pixel_symmetric":
        center = size / 2 * (1 - out / (size * scale))
        return center + (place + 0.5) / scale - 0.5
    return (place + 0.5) / scale - 0.5


def _rounded(node: Node, source: Array, size: int) -> Array:
    usual = "round_prefer_floor" if node.op == "Resize" else "floor"
    rounding = node.attribute("nearest_mode", usual)
    shift = {"round_prefer_floor": -0.5, "round_prefer_ceil": 0.5, "floor": 0.0, "ceil": 0.0}[rounding]
    down = rounding in ("round_prefer_ceil", "floor")
    whole: Array = np.floor(source + shift) if down else np.ceil(source + shift)
    return np.minimum(np.maximum(whole, 0), size - 1)


def _tflite(nearest: bool, align: bool, half: bool, size: int, out: int) -> Array:
    """The same of TFLite's kernels, in float32 as they compute."""
    scale = np.float32((size - 1) / (out - 1)) if align and out > 1 else np.float32(size / out)
    place = np.arange(out, dtype=np.float32)
    half_pixel = np.float32(0.5 if half else 0.0)
    source: Array = (place + half_pixel) * scale
    source = np.floor(source + np.float32(0.5 if align else 0.0)) if nearest else source - half_pixel
    return np.minimum(np.maximum(source, 0), size - 1)


def _kernel(emitter: Emitter, node: Node, nearest: bool, align: bool, half: bool) -> None:
    writer = emitter.writer
    order = channels_last(4)
    shape = stored(emitter.shape(node.outputs[0]), order)
    op, table = (
        ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")
        if nearest
        else (
            "RESIZE_BILINEAR",
            "ResizeBilinearOptions",
        )
    )
    options = {"alignCorners": align, "halfPixelCenters": half}
    inputs = [emitter.pictures(node.inputs[0]), writer.integers(shape[1:3])]
    emitter.emit(node, op, inputs, shape, order, options=options, table=table, version=3 if half or align else 1)


def _gathered(emitter: Emitter, node: Node, wanted: list[Array]) -> None:
    """Rows, then columns, picked by constant indices."""
    writer = emitter.writer
    tensor = emitter.pictures(node.inputs[0])
    for axis, places, name in ((1, wanted[0], f"{node.name}/Rows"), (2, wanted[1], node.name)):
        shape = list(writer.shapes[tensor])
        shape[axis] = len(places)
        inputs = [tensor, writer.integers(places.astype(np.int32))]
        tensor = writer.emit("GATHER", inputs, shape, name, options={"axis": axis}, table="GatherOptions")
    emitter.put(node.outputs[0], tensor, channels_last(4))


HANDLERS: dict[str, Handler] = {"Resize": resize, "Upsample": resize}
