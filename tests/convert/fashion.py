"""A small convolutional network for Fashion-MNIST without a training loop, as float ONNX.

Its first filters are the principal components of 5×5 patches, the next are drawn from a seed, and the classifier is the
ridge regression of the classes on what they give (Coates, Ng and Lee, "An Analysis of Single-Layer Networks in
Unsupervised Feature Learning", 2011): about 86 % right, the same weights on every run, in about two seconds.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgerun.convert.parts import Sample

FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIDE, CLASSES, CHANNELS, WIDE = 28, 10, 16, 32
_TRAINING = 6000

Floats = NDArray[np.float32]


def pictures(part: str, count: int, start: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    """(count×1×28×28 float32 of 0..1, labels) of `train` or `t10k`; skips the test where the data is not installed."""
    if not FOLDER.exists():
        pytest.skip("Fashion-MNIST is not installed (Debian package dataset-fashion-mnist)")
    with gzip.open(FOLDER / f"{part}-images-idx3-ubyte.gz") as file:
        file.read(16 + start * SIDE * SIDE)
        pixels = np.frombuffer(file.read(count * SIDE * SIDE), np.uint8)
    with gzip.open(FOLDER / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, count, 8 + start)
    return (pixels.reshape(-1, 1, SIDE, SIDE) / np.float32(255)).astype(np.float32), labels.astype(np.int64)


class Fashion:
    """`parts.Samples` over pictures of Fashion-MNIST."""

    def __init__(self, part: str, count: int, start: int = 0) -> None:
        self.source = f"Fashion-MNIST {part} {start}..{start + count}"
        self.pictures, self.labels = pictures(part, count, start)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"{self.source} #{index}", {"picture": self.pictures[index : index + 1]})


def build() -> onnx.ModelProto:
    """`picture` N×1×28×28 float32 in 0..1 → `scores` N×10; opset 13, the batch open."""
    chance = np.random.default_rng(7)
    images, labels = pictures("train", _TRAINING)
    weights = {
        "first": _patches(images[:1000], chance),
        "first_bias": np.full(CHANNELS, 0.1, np.float32),
        "depth": (chance.uniform(0, 1, (CHANNELS, 1, 3, 3)) / 4).astype(np.float32),
        "depth_bias": np.zeros(CHANNELS, np.float32),
        "wide": (chance.normal(size=(WIDE, CHANNELS, 1, 1)) / 2).astype(np.float32),
        "wide_bias": np.full(WIDE, 0.1, np.float32),
        "side": (chance.normal(size=(WIDE, WIDE, 3, 3)) / 20).astype(np.float32),
        "side_bias": np.zeros(WIDE, np.float32),
        "zero": np.zeros((), np.float32),
        "six": np.full((), 6, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["picture", "first", "first_bias"], ["a"], "first", pads=[2] * 4),
        helper.make_node("Relu", ["a"], ["b"], "first_relu"),
        helper.make_node(
            "Conv", ["b", "depth", "depth_bias"], ["c"], "depth", group=CHANNELS, pads=[1] * 4, strides=[2, 2]
        ),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"], "depth_clip"),
        helper.make_node("Conv", ["d", "wide", "wide_bias"], ["e"], "wide"),
        helper.make_node("Relu", ["e"], ["f"], "wide_relu"),
        helper.make_node("Conv", ["f", "side", "side_bias"], ["g"], "side", pads=[1] * 4),
        helper.make_node("Relu", ["g"], ["h"], "side_relu"),
        helper.make_node("Add", ["f", "h"], ["i"], "join"),
        helper.make_node("AveragePool", ["i"], ["j"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["j"], ["features"], "flat"),
    ]
    features = _run(_model(nodes, weights, "features", WIDE * 49), images)
    weights["out"], weights["out_bias"] = _regress(features, labels)
    nodes += [
        helper.make_node("Gemm", ["features", "out", "out_bias"], ["logits"], "out"),
        helper.make_node("Softmax", ["logits"], ["scores"], "softmax"),
    ]
    return _model(nodes, weights, "scores", CLASSES)


def _model(nodes: list[Any], weights: dict[str, Floats], output: str, size: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "fashion",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", size])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _patches(images: Floats, chance: np.random.Generator) -> Floats:
    """The first 8 principal components of patches, each with both signs, as CHANNELS×1×5×5."""
    corners = chance.integers(0, SIDE - 5, (20000, 2))
    which = chance.integers(0, len(images), 20000)
    cut = np.stack([images[n, 0, y : y + 5, x : x + 5].ravel() for n, (y, x) in zip(which, corners, strict=True)])
    values, vectors = np.linalg.eigh(np.cov(cut.T))
    best = vectors[:, np.argsort(values)[::-1][: CHANNELS // 2]].T
    best *= np.sign(best.sum(axis=1, keepdims=True))
    return np.concatenate([best, -best]).reshape(CHANNELS, 1, 5, 5).astype(np.float32)


def _regress(features: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Ridge regression of the classes (10 where right, 0 elsewhere, so that the softmax is decided)."""
    mean = features.mean(axis=0)
    centred = (features - mean).astype(np.float64)
    wanted = np.eye(CLASSES)[labels] * 10
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += gram.trace() / len(gram) * 0.3
    found = np.linalg.solve(gram, centred.T @ (wanted - wanted.mean(axis=0)))
    return found.astype(np.float32), (wanted.mean(axis=0) - mean @ found).astype(np.float32)


def _run(model: onnx.ModelProto, images: Floats) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate(
        [session.run(None, {"picture": images[at : at + 500]})[0] for at in range(0, len(images), 500)]
    )
