"""Tiny nets and pictures for the tests of convert, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE = 16
CLASSES = ("red", "green", "blue")


def pictures(count: int, seed: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Pictures N×20×24×3 uint8 BGR of a blot on noise, and which of CLASSES its colour is."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 90, (count, 20, 24, 3), dtype=np.uint8)
    labels = [at % 3 for at in range(count)]
    for at, label in enumerate(labels):
        y, x = rng.integers(0, 10), rng.integers(0, 12)
        made[at, y : y + 10, x : x + 12, 2 - label] = rng.integers(170, 256)
    return made, labels


def write_pictures(folder: Path, count: int, seed: int, *, labelled: bool = False) -> Path:
    """A folder of PNG files, in one sub-folder per class where `labelled`."""
    import cv2

    made, labels = pictures(count, seed)
    for at, (picture, label) in enumerate(zip(made, labels, strict=True)):
        inner = folder / CLASSES[label] if labelled else folder
        inner.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(inner / f"{at}.png"), picture)
    return folder


def colour_net(path: Path, *, outlier: float = 0.0, classes: int = 3) -> Path:
    """A classifier of CLASSES by colour: two convolutions and a mean, NCHW 0..1, as ONNX.

    `outlier`: how much larger than the others one activation of the first layer is, which nothing reads: in 8 bits,
    with one scale for all of them, the others vanish.
    """
    rng = np.random.default_rng(1)
    first = rng.normal(0, 0.05, (8, 3, 3, 3)).astype(np.float32)
    for channel in range(3):
        first[channel, channel] += 0.4
        for other in range(3):
            if other != channel:
                first[channel, other] -= 0.2
    if outlier:
        first[7] = np.abs(first[7]) * outlier
    second = rng.normal(0, 0.02, (classes, 8, 1, 1)).astype(np.float32)
    for channel in range(3):
        second[channel, channel] += 2.0
    second[:, 7] = 0.0
    weights = {"w1": first, "b1": np.zeros(8, np.float32), "w2": second, "b2": np.zeros(classes, np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="second"),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["scores"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def quiet(step: str, done: int, of: int) -> None:
    """Progress that nobody looks at."""
