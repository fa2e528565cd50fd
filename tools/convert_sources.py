"""The models that `tools/convert-table` converts, and the sets they are calibrated with and judged by.

All are fetched (`tools/fetch-models --all`), installed (Debian: dataset-fashion-mnist), or made on the spot.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "models"
FASHION = Path("/usr/share/datasets/fashion-mnist")
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
TORCH, TF = ("torch", "torch_pruning", "onnxscript"), ("tensorflow",)
EFFICIENTNET, DETECTOR, DEEPLAB, FACE = (
    "EfficientNet-Lite0, float .onnx",
    "SSD MobileNet v2, fp16 .tflite in a bundle",
    "DeepLabV3, float .tflite",
    "BlazeFace, fp16 .tflite",
)
GESTURES, KERAS, SAVED = "gestures, .onnx bundle on .csv windows", "Keras, .keras", "Keras, SavedModel"
FACTORY, PROGRAM = "PyTorch, file.py:factory", "PyTorch, .pt2"


class Ground:
    """The working folder: `words(source)` are a source and its flags, as they are typed there."""

    def __init__(self, folder: Path, photos: Path | None, pythons: Sequence[str]) -> None:
        self.folder, self._photos, self.pythons = folder, photos, pythons
        self._made: dict[str, list[str]] = {}

    def words(self, source: str) -> list[str]:
        if source not in self._made:
            note(f"making {source} and its sets")
            self._made[source] = MAKERS[source](self)
        return self._made[source]

    def python(self, needs: Sequence[str]) -> str | None:
        """The first environment that has all of it."""
        test = "import importlib.util as u, sys; sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))"
        for python in self.pythons:
            if subprocess.run([python, "-c", test, "litert_quantizer", *needs], check=False).returncode == 0:
                return python
        return None

    def run(self, needs: Sequence[str], text: str) -> None:
        """A script in the working folder, under an environment that has what it needs."""
        python = self.python(needs)
        assert python is not None, "rows whose environment is missing are left out before"
        subprocess.run([python, "-c", text], cwd=self.folder, env=environment(), check=True)

    def photographs(self) -> list[str]:
        """For EfficientNet: the labelled ones, else those that were fetched."""
        if self._photos is None:
            folder = self.folder / "pictures"
            folder.mkdir(exist_ok=True)
            for picture in fetched():
                shutil.copy(picture, folder)
            return ["--calibrate", "pictures[0::2]", "--evaluate", "pictures[1::2]"]
        with (self._photos / "labels.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for name, chosen in (("photos-even", rows[0::2]), ("photos-odd", rows[1::2])):
            copy_labelled([(self._photos / row["file"], row["label"]) for row in chosen], self.folder / name)
        return ["--calibrate", "photos-even", "--evaluate", "photos-odd"]

    def fashion(self) -> list[str]:
        """Pictures as files, with their names in labels.csv."""
        for name, part, count in (("clothes", "train", 5000), ("clothes-test", "t10k", 500)):
            folder = self.folder / name
            if folder.exists():
                continue
            folder.mkdir()
            pixels, labels = clothes(part, count)
            lines = ["file,label"]
            for at, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
                cv2.imwrite(str(folder / f"{at:05}.png"), picture)
                lines.append(f"{at:05}.png,{CLOTHES[label]}")
            (folder / "labels.csv").write_text("\n".join(lines))
        (self.folder / "clothes.txt").write_text("\n".join(CLOTHES))
        words = ["--calibrate", "clothes", "--evaluate", "clothes-test", "--labels", "clothes.txt"]
        return [*words, "--mean", "0", "--std", "255", "--color", "GRAY", "--size", "28x28"]

    def street(self) -> list[str]:
        """Frames and pictures as `tools/rebuild-models` has them."""
        if not (self.folder / "calibrate").exists():
            rebuild().write_sets(CACHE, self.folder)
        return ["--calibrate", "calibrate", "--evaluate", "evaluate"]


def fetched() -> list[Path]:
    return sorted((*CACHE.glob("*.jpg"), *CACHE.glob("*.png")))


def rebuild() -> ModuleType:
    """tools/rebuild-models as a module."""
    loader = SourceFileLoader("rebuild_models", str(ROOT / "tools" / "rebuild-models"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def copy_labelled(files: Sequence[tuple[Path, str]], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path, _ in files:
        shutil.copy(path, folder)
    (folder / "labels.csv").write_text("\n".join(["file,label", *(f"{path.name},{label}" for path, label in files)]))


def clothes(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST's first `count` pictures N×28×28 uint8, and their classes (Debian: dataset-fashion-mnist)."""
    with gzip.open(FASHION / f"{part}-images-idx3-ubyte.gz") as file:
        file.read(16)
        pixels = np.frombuffer(file.read(count * 784), np.uint8).reshape(-1, 28, 28)
    with gzip.open(FASHION / f"{part}-labels-idx1-ubyte.gz") as file:
        return pixels, np.frombuffer(file.read(), np.uint8, count, 8)


def efficientnet(ground: Ground) -> list[str]:
    sys.path.insert(0, str(ROOT))
    from tests.convert.efficientnet import float_onnx

    shutil.copy(float_onnx(), ground.folder / "efficientnet_lite0.onnx")
    shutil.copy(CACHE / "labels_without_background.txt", ground.folder / "imagenet.txt")
    said = ["--mean", "127", "--std", "128", "--fit", "crop", "--labels", "imagenet.txt", "--decoder", "classify"]
    return ["efficientnet_lite0.onnx", *ground.photographs(), *said]


def detector(ground: Ground) -> list[str]:
    tool = rebuild()
    tool.write_float(CACHE, ground.folder / "detector", ROOT / "models" / tool.NAME / "LICENSE")
    return ["detector", *ground.street()]


def deeplab(ground: Ground) -> list[str]:
    shutil.copy(CACHE / "deeplabv3_257_fp32.tflite", ground.folder)
    return ["deeplabv3_257_fp32.tflite", *ground.street()]


def face(ground: Ground) -> list[str]:
    shutil.copy(CACHE / "face_detection_short_range.tflite", ground.folder)
    (ground.folder / "portraits").mkdir()
    astronaut = cv2.imread(str(CACHE / "astronaut.png"))
    chance = np.random.default_rng(5)
    for at in range(120):
        side = int(chance.integers(190, 380))
        left, top = (int(chance.integers(max(0, end - side), start)) for start, end in ((170, 280), (70, 185)))
        crop = astronaut[top : top + side, left : left + side][:, :: (1, -1)[at % 2]]
        cv2.imwrite(str(ground.folder / "portraits" / f"{at:03}.png"), np.uint8(crop * chance.uniform(0.5, 1)))
    sets = ["--calibrate", "portraits[0:60]", "--evaluate", "portraits[60:120]"]
    return ["face_detection_short_range.tflite", *sets]


def gestures(ground: Ground) -> list[str]:
    """Random filters and a ridge regression on half of the recordings, as an ONNX model in a bundle."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    lines = (CACHE / "BasicMotions_TRAIN.ts").read_text().splitlines()
    body = [line.split(":") for line in lines if line and line[0] not in "#@"]
    values = np.array([[list(map(float, one.split(","))) for one in row[:-1]] for row in body], np.float32)
    names = sorted({row[-1] for row in body})
    for at, (series, row) in enumerate(zip(values, body, strict=True)):
        folder = ground.folder / ("motion-even", "motion-odd")[at % 2] / row[-1]
        folder.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / f"{at:02}.csv", series.T, "%.5f", ",", header="x,y,z,a,b,c", comments="")
    chance = np.random.default_rng(3)
    spread = np.float32(values.std())
    filters = chance.normal(0, 0.4, (48, 1, 9, 6)).astype(np.float32) / spread
    nodes = [
        helper.make_node("Conv", ["motion", "filters"], ["a"], "filters"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], "mean"),
        helper.make_node("Flatten", ["c"], ["features"], "flat"),
    ]
    windows = values[0::2].reshape(-1, 6, 2, 50).transpose(0, 2, 3, 1).reshape(-1, 50, 6)
    cut = np.lib.stride_tricks.sliding_window_view(windows, (9, 6), (1, 2))[:, :, 0]
    features = np.maximum(np.einsum("ntij,fij->ntf", cut, filters[:, 0]), 0).mean(1)
    wanted = np.eye(len(names))[[names.index(row[-1]) for row in body[0::2] for _ in (0, 1)]]
    gram = np.c_[features, np.ones(len(features))]
    out = np.linalg.solve(gram.T @ gram + 1e-2 * np.eye(49), gram.T @ wanted * 8).astype(np.float32)
    nodes += [
        helper.make_node("Gemm", ["features", "out", "bias"], ["logits"], "out"),
        helper.make_node("Softmax", ["logits"], ["scores"], "scores"),
    ]
    graph = helper.make_graph(
        nodes,
        "gestures",
        [helper.make_tensor_value_info("motion", TensorProto.FLOAT, [1, 1, 50, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, len(names)])],
        [numpy_helper.from_array(one, name) for name, one in
         (("filters", filters), ("out", out[:-1]), ("bias", out[-1]))],
    )  # fmt: skip
    folder = ground.folder / "gestures"
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "model.onnx"
    )
    (folder / "labels.txt").write_text("\n".join(names))
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("model.onnx", "labels.txt")}
    manifest = {
        "v": 1, "name": "gestures", "version": "1", "task": "classify", "labels": "labels.txt",
        "files": {name: {"sha256": digest} for name, digest in files.items()},
        "artifacts": [{"file": "model.onnx", "for": ["cpu"]}],
        "signal": {"rate_hz": 10, "channels": 6, "samples": 50, "hop": 50},
        "decoder": {"kind": "classify"},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return ["gestures", "--calibrate", "motion-even", "--evaluate", "motion-odd"]


KERAS_SCRIPT = """
import gzip, numpy as np, tensorflow as tf
sys_path = "/usr/share/datasets/fashion-mnist/train-"
with gzip.open(sys_path + "images-idx3-ubyte.gz") as f: x = np.frombuffer(f.read()[16:], np.uint8)
with gzip.open(sys_path + "labels-idx1-ubyte.gz") as f: y = np.frombuffer(f.read()[8:], np.uint8)
x, y, k = x[: 784 * 20000].reshape(-1, 28, 28, 1) / np.float32(255), y[:20000], tf.keras
k.utils.set_random_seed(1)
def block(made, stride):
    conv = k.layers.Conv2D(made, 3, stride, "same", use_bias=False)
    return [conv, k.layers.BatchNormalization(), k.layers.ReLU(6)]
layers = [k.Input((28, 28, 1), name="picture"), *block(16, 2), *block(32, 1), *block(32, 2)]
layers += [k.layers.GlobalAveragePooling2D(), k.layers.Dense(10), k.layers.Softmax(name="scores")]
net = k.Sequential(layers)
net.compile("adam", "sparse_categorical_crossentropy")
net.fit(x, y, batch_size=64, epochs=3, verbose=0)
net.save("clothes.keras")
net.export("clothes_saved", verbose=False)
"""
TORCH_SCRIPT = """
import torch
from tests.convert.test_torch_fashion import trained
model = trained()
torch.save(model.state_dict(), "clothes.pth")
torch.export.save(torch.export.export(model, (torch.zeros(1, 1, 28, 28),)), "clothes.pt2")
"""
FACTORY_SCRIPT = """
import torch
from tests.convert.torch_nets import fashion

def build():
    model = fashion()
    model.load_state_dict(torch.load("clothes.pth", weights_only=True))
    return model
"""


def keras(ground: Ground, name: str) -> list[str]:
    if not (ground.folder / name).exists():
        ground.run(TF, KERAS_SCRIPT)
    return [name, *ground.fashion()]


def torch(ground: Ground, name: str) -> list[str]:
    if not (ground.folder / "clothes.pt2").exists():
        (ground.folder / "clothes.py").write_text(FACTORY_SCRIPT)
        ground.run(TORCH, TORCH_SCRIPT)
    return [name, *ground.fashion()]


def as_it_is(ground: Ground, name: str) -> list[str]:
    shutil.copy(CACHE / name, ground.folder)
    return [name, "--calibrate", "pictures"]


MAKERS: dict[str, Callable[[Ground], list[str]]] = {
    EFFICIENTNET: efficientnet,
    DETECTOR: detector,
    DEEPLAB: deeplab,
    FACE: face,
    GESTURES: gestures,
    KERAS: lambda ground: keras(ground, "clothes.keras"),
    SAVED: lambda ground: keras(ground, "clothes_saved"),
    FACTORY: lambda ground: torch(ground, "clothes.py:build"),
    PROGRAM: lambda ground: torch(ground, "clothes.pt2"),
    "Silero VAD, .onnx with state": lambda ground: as_it_is(ground, "silero_vad.onnx"),
    "okay_nabu, streaming .tflite": lambda ground: as_it_is(ground, "okay_nabu.tflite"),
    "EfficientNet-Lite0, int8 .tflite": lambda ground: as_it_is(ground, "efficientnet_lite0_int8.tflite"),
}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
