"""The bar: a small network for Fashion-MNIST loses half its MACs, learns again from itself, and goes to int8."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the convert-torch extra is not installed")
pytest.importorskip("torch_pruning", reason="the convert-torch extra is not installed")
pytest.importorskip("onnxscript", reason="the convert-torch extra is not installed")

import onnxruntime  # noqa: E402

from edgerun.convert.onnx.quantizer import OnnxOptions, OnnxQuantizer  # noqa: E402
from edgerun.convert.parts import Network  # noqa: E402
from edgerun.convert.torch.cost import cost, latency_ms  # noqa: E402
from edgerun.convert.torch.distil import Lesson  # noqa: E402
from edgerun.convert.torch.importing import export_loaded  # noqa: E402
from edgerun.convert.torch.loading import Loaded, Options  # noqa: E402
from edgerun.convert.torch.prune import Goal  # noqa: E402
from edgerun.convert.torch.recipe import prune_and_distil  # noqa: E402
from tests.convert import fashion, torch_nets  # noqa: E402

EPOCHS, BATCH, TAUGHT = 3, 64, 12_000


def quiet(step: str, done: int, total: int) -> None:
    """Nobody watches."""


def trained() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch_nets.fashion().train()
    images, labels = (torch.from_numpy(part) for part in fashion.pictures("train", 60_000))
    optimiser = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, EPOCHS * (len(images) // BATCH))
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for at in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[at : at + BATCH]
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def top1(path: Path) -> float:
    """Share of the 10 000 test pictures that the file names rightly; it takes one at a time."""
    images, labels = fashion.pictures("t10k", 10_000)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    answers = [int(np.argmax(session.run(None, {name: image[None]})[0])) for image in images]
    return float(np.mean(np.array(answers) == labels))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_half_the_macs_and_int8_cost_at_most_a_point(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other on a busy machine take fifteen times as long
    try:
        began = time.perf_counter()
        model = trained()
        loaded = Loaded(model, (torch.zeros(1, 1, 28, 28),), ("picture",), "tests", "fashion")
        print(f"\ntrained in {time.perf_counter() - began:.0f} s")
        original = export_loaded(loaded, tmp_path / "original", Options())
        calibration = fashion.Fashion("train", TAUGHT)
        network, steps = prune_and_distil(
            loaded,
            calibration,
            tmp_path,
            quiet,
            goal=Goal(0.5),
            lesson=Lesson(epochs=6, batch=BATCH),
            original=original,
        )
    finally:
        torch.set_num_threads(threads)
    for step in steps:
        print(f"{step.name}: {step.text} ({step.seconds:.0f} s)")
    quantizer = OnnxQuantizer(network, fashion.Fashion("train", 200), OnnxOptions(), quiet)
    small = tmp_path / "int8.onnx"
    small.write_bytes(quantizer.build(frozenset()))
    files = [original.path, network.path, small]
    right = [top1(path) for path in files]
    for path, share, milliseconds in zip(files, right, latency_ms(files), strict=True):
        print(f"{path.name}: top-1 {share:.4f}, {milliseconds:.4f} ms, {path.stat().st_size / 1e3:.0f} kB")
    assert right[0] > 0.88
    assert right[2] >= right[0] - 0.01
    assert _macs(network) <= 0.5 * cost(model, loaded.inputs).macs
    assert small.stat().st_size < original.path.stat().st_size / 4


def _macs(network: Network) -> int:
    """Of the convolutions and the classifier, counted from the file."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(network.path)))
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in (*model.graph.value_info, *model.graph.output)}  # fmt: skip
    held = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(held[node.input[1]]) * np.prod(shapes[node.output[0]][2:]))
        if node.op_type in ("Gemm", "MatMul"):
            total += int(np.prod(held[node.input[1]]))
    return total
