"""How much a model's answer changes when a channel goes, estimated from unlabelled inputs.

Let f be the model and a the activations of a channel. Taking the channel out changes the answer, to first order, by J·a
with J = ∂f/∂a (P. Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017).
With a random vector v of zero mean and unit covariance, E[(v·J·a)²] = |J·a|² (M. F. Hutchinson, 1989), and v·J·a is one
backward pass: Σ w·∂(v·f)/∂w over the weights that read the channel. For class scores the distance of two answers is the
Kullback–Leibler divergence, whose curvature is the Fisher information: v·f is then the log-probability of a class that
is drawn from the model's own prediction (L. Theis et al., "Faster gaze prediction with dense networks and Fisher
pruning", 2018). No labels are needed, and the gradients of a whole batch may be summed: different samples' v are
independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from edgerun.convert.torch.cost import prunable
from edgerun.convert.torch.extra import Module, TorchTensor, torch_

Kind = Literal["taylor", "magnitude"]

Sides = dict[Any, tuple[TorchTensor, TorchTensor]]
"""Layer → (batches × input channels, batches × output channels): what each batch says of each channel."""


def measure(
    module: Module,
    batches: Iterable[Sequence[TorchTensor]],
    probe: Callable[[Sequence[TorchTensor]], TorchTensor],
    kind: Kind,
) -> Sides:
    """The change of answer that each channel's removal makes, for each batch, unsquared.

    `probe` reduces the model's answer to the scalar v·f. With `magnitude` no data is used: the L2 norm of the weights.
    """
    torch = torch_()
    layers = [layer for layer in module.modules() if isinstance(layer, prunable(torch))]
    if kind == "magnitude":
        return {layer: tuple(side.sqrt()[None] for side in _sides(torch, layer, layer.weight.detach() ** 2))
                for layer in layers}  # fmt: skip
    rows: dict[Any, list[tuple[TorchTensor, TorchTensor]]] = {layer: [] for layer in layers}
    for inputs in batches:
        module.zero_grad(set_to_none=True)
        with torch.enable_grad():
            probe(inputs).backward()
        for layer in layers:
            if layer.weight.grad is not None:
                rows[layer].append(_sides(torch, layer, layer.weight.detach() * layer.weight.grad))
    module.zero_grad(set_to_none=True)
    return {
        layer: (torch.stack([given for given, _ in row]), torch.stack([answer for _, answer in row]))
        for layer, row in rows.items()
        if row
    }


def _sides(torch: Any, layer: Module, products: TorchTensor) -> tuple[TorchTensor, TorchTensor]:
    """`products` (of the shape of the weights) summed for each input and each output channel of the layer."""
    if isinstance(layer, torch.nn.Linear):
        return products.sum(0), products.sum(1)
    flat = products.flatten(2).sum(2)
    groups = layer.groups
    if isinstance(layer, prunable(torch)[3:5]):  # transposed: input × output / groups
        parts = flat.reshape(groups, layer.in_channels // groups, -1)
        return parts.sum(2).flatten(), parts.sum(1).flatten()
    parts = flat.reshape(groups, layer.out_channels // groups, -1)
    return parts.sum(1).flatten(), parts.sum(2).flatten()


def score(graph: Any, group: Any, channels: int, sides: Sides) -> TorchTensor | None:
    """Importance of each of the `channels` of a group of layers that lose channels together; None where unknown.

    The layers that read the channels count; only where none does (a depthwise one last), those that write them.
    """
    torch = torch_()
    for reading in (True, False):
        total = None
        for item in group:
            dependency = item.dep
            layer, handler = dependency.target.module, dependency.handler
            if layer not in sides or graph.is_in_channel_pruning_fn(handler) != reading or _depthwise(torch, layer):
                continue
            side = sides[layer][0 if reading else 1]
            if total is None:
                total = torch.zeros(len(side), channels, dtype=side.dtype)
            places = torch.tensor(item.root_idxs)
            total.index_add_(1, places, side[:, item.idxs].cpu())
        if total is not None:
            return (total.double() ** 2).mean(0)
    return None


def _depthwise(torch: Any, layer: Module) -> bool:
    return not isinstance(layer, torch.nn.Linear) and layer.groups > 1 and layer.groups == layer.out_channels
