"""What a PyTorch model costs: multiply-accumulates, weights, and milliseconds in the runtime that will run it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from edgerun.convert.torch.extra import Module, TorchTensor, need, torch_
from edgerun.errors import ModelError

_ROUNDS = 15
_WARMUP = 3
_SLICE_S = 0.05
"""One round runs a model at least this long, so that a clock tick or a short interruption does not decide."""


class Cost(msgspec.Struct, frozen=True):
    """Of one input. `weights`: numbers it holds, biases and normalisation included."""

    macs: int
    weights: int


class LayerCost(msgspec.Struct, frozen=True):
    """A layer's multiply-accumulates for one input, its weights, and the channels that both are proportional to."""

    macs: int
    weights: int
    inputs: int
    outputs: int


def cost(module: Module, inputs: Sequence[TorchTensor]) -> Cost:
    """Counted by PyTorch itself while the model runs once: convolutions, matrix products, attention; the rest is free.

    A multiply-accumulate is two of the floating-point operations that `torch.utils.flop_counter` counts.
    """
    torch = torch_()
    counter = need("torch.utils.flop_counter").FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs)
    weights = sum(parameter.numel() for parameter in module.parameters())
    return Cost(int(counter.get_total_flops()) // 2 // len(inputs[0]), weights)


def prunable(torch: Any) -> tuple[Any, ...]:
    """The kinds of layer that channels are taken from."""
    nn = torch.nn
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


def check_layers(module: Module) -> None:
    """Raises `ModelError` for a model whose layers are not modules: a `torch.export` program is one flat list of
    operations with its batch and its normalisation frozen, so it can be exported, but neither pruned nor taught.
    """
    if not any(isinstance(layer, prunable(torch_())) for layer in module.modules()):
        raise ModelError(
            "the model has no layers to take channels from or to teach",
            expected="convolutions and fully connected layers as modules (nn.Conv2d, nn.Linear …)",
            got=f"a {type(module).__name__}; a .pt2 program holds operations only",
            remedy="name the function that builds the model, `mymodel.py:build`",
        )


def layer_costs(module: Module, inputs: Sequence[TorchTensor]) -> dict[Module, LayerCost]:
    """Of every convolution and fully connected layer that ran."""
    torch = torch_()
    kinds = prunable(torch)
    positions: dict[Module, int] = {}

    def note(layer: Module, given: Any, answer: TorchTensor) -> None:
        transposed = isinstance(layer, kinds[3:5])
        counted = given[0] if transposed else answer
        places = counted[0].numel() // max(1, counted.shape[-1 if isinstance(layer, torch.nn.Linear) else 1])
        positions[layer] = positions.get(layer, 0) + places

    hooks = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, kinds)]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for layer, places in positions.items():
        wide, narrow = (
            (layer.in_features, layer.out_features)
            if isinstance(layer, torch.nn.Linear)
            else (layer.in_channels, layer.out_channels)
        )
        found[layer] = LayerCost(places * layer.weight.numel(), layer.weight.numel(), wide, narrow)
    return found


def latency_ms(models: Sequence[Path], threads: int = 1) -> list[float]:
    """Median time (ms) of one inference of each ONNX file in ONNX Runtime on this CPU, taking turns.

    Inputs are zeros of the file's own shapes. Taking turns lets whatever else the machine does fall on all alike.
    """
    numpy, runtime = need("numpy"), need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    runs = []
    for path in models:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        kinds = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool", "tensor(uint8)": "uint8"}
        feeds = {
            node.name: numpy.zeros([side if isinstance(side, int) else 1 for side in node.shape],
                                   kinds.get(node.type, "float32"))
            for node in session.get_inputs()
        }  # fmt: skip
        runs.append((session, feeds))
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(_WARMUP + _ROUNDS):
        for index, (session, feeds) in enumerate(runs):
            began, done = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < _SLICE_S or not done:
                session.run(None, feeds)
                done += 1
            if turn >= _WARMUP:
                times[index].append(1e3 * spent / done)
    return [median(taken) for taken in times]
