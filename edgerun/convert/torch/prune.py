"""Structured pruning: whole channels go until a model costs what it may, the least missed for their price first.

Which layers must lose channels together follows from the dependency graph of torch-pruning (G. Fang et al., "DepGraph:
Towards Any Structural Pruning", 2023); what a channel is worth from `importance`; which go is decided here, greedily by
worth per cost saved.
"""

from __future__ import annotations

import copy
import heapq
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgerun.convert.parts import Progress
from edgerun.convert.torch.cost import LayerCost, check_layers, cost, latency_ms, layer_costs, prunable
from edgerun.convert.torch.data import Inputs
from edgerun.convert.torch.extra import Module, TorchTensor, need, repeatable, torch_
from edgerun.convert.torch.importance import Kind, measure, score
from edgerun.convert.torch.importing import export, flatten
from edgerun.convert.torch.loading import Options
from edgerun.errors import ConfigError, ModelError

_PROBES = 4
_BATCHES, _BATCH = 12, 16
_MOST_ROUNDS = 40


class Goal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far to prune: `share` (0..1) of the `macs`, the `size` (weights) or the measured `latency` is to go.

    In `rounds` rounds, importance measured anew in each. Layers keep a multiple of `multiple_of` channels, as vector
    units work in such blocks, and at least the share `keep` of them. `importance`: `taylor` needs inputs, `magnitude`
    none. `ignore`: names of submodules to leave alone.
    """

    share: float = 0.5
    of: Literal["macs", "size", "latency"] = "macs"
    rounds: int = 8
    multiple_of: int = 4
    keep: float = 0.1
    importance: Kind = "taylor"
    ignore: tuple[str, ...] = ()


class _Block(msgspec.Struct, frozen=True):
    """Channels of one group that would go next, what they save, and what is missed."""

    group: int
    channels: tuple[int, ...]
    saves: float
    missed: float


def prune(
    module: Module,
    example_inputs: TorchTensor | Sequence[TorchTensor],
    target: Goal | float,
    calibration: Any,
    progress: Progress,
    seed: int = 0,
) -> Module:
    """A pruned copy of `module`, on the CPU, in evaluation mode, with the same inputs and outputs.

    `target` as a number is the share of multiply-accumulates to go. `calibration`: see `data.Inputs`; no labels. With
    `latency` the share of multiply-accumulates is searched at which ONNX Runtime, one thread, on this machine needs
    that much less time. Raises `ModelError` for a model that cannot be traced or pruned so far, `ConfigError` for a
    goal outside 0..1, `MissingError` without the extra, and whatever `progress` raises.
    """
    torch = torch_()
    goal = target if isinstance(target, Goal) else Goal(float(target))
    if not 0 < goal.share < 1 or goal.multiple_of < 1 or goal.rounds < 1 or not 0 <= goal.keep < 1:
        raise ConfigError("this goal of pruning makes no sense", expected="a share between 0 and 1", got=goal)
    check_layers(module)
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    data = calibration if isinstance(calibration, Inputs) else Inputs(calibration, [""] * len(inputs))
    with repeatable(seed):
        if goal.of == "latency":
            return _to_latency(module, inputs, goal, data, progress, seed)
        return _to_cost(module, inputs, goal, data, progress, seed)


def _to_cost(
    module: Module, inputs: tuple[TorchTensor, ...], goal: Goal, data: Inputs, progress: Progress, seed: int
) -> Module:
    torch = torch_()
    pruned = copy.deepcopy(module).to("cpu").eval()
    for parameter in pruned.parameters():
        parameter.requires_grad_(True)
    what = f"pruning {goal.share:.0%} of the {goal.of}"
    with torch.no_grad():
        shapes = [tensor.shape for tensor in flatten(pruned(*inputs))]
    start = _spent(pruned, inputs, goal)
    least = {name: max(goal.multiple_of, int(goal.keep * width)) for name, width in _widths(pruned).items()}
    final = start * (1 - goal.share)
    for turn in range(_MOST_ROUNDS):
        now = _spent(pruned, inputs, goal)
        if now <= final:
            break
        progress(what, min(turn, goal.rounds - 1), goal.rounds)
        aim = max(final, start * (1 - goal.share * (turn + 1) / goal.rounds))
        if now <= aim:  # the last block of the round before took more than was due
            continue
        if not _round(pruned, inputs, goal, data, now - aim, least, seed + turn):
            break
        _check(pruned, inputs, shapes)
    if (left := _spent(pruned, inputs, goal)) > final:
        raise ModelError(
            f"the model cannot be pruned that far: its outputs, the layers to be left alone, and at least "
            f"{goal.keep:.0%} of the channels of each layer stay",
            expected=f"{goal.share:.0%} of its {goal.of} gone",
            got=f"{1 - left / start:.0%}",
            remedy="ask for less, or keep a smaller share of each layer",
        )
    progress(what, goal.rounds, goal.rounds)
    return pruned


def _spent(module: Module, inputs: Sequence[TorchTensor], goal: Goal) -> float:
    spent = cost(module, inputs)
    return float(spent.weights if goal.of == "size" else spent.macs)


def _widths(module: Module) -> dict[str, int]:
    """Output channels of each prunable layer by name."""
    kinds = prunable(torch_())
    return {name: _outputs(layer) for name, layer in module.named_modules() if isinstance(layer, kinds)}


def _outputs(layer: Module) -> int:
    return int(layer.out_features if hasattr(layer, "out_features") else layer.out_channels)


def _check(module: Module, inputs: Sequence[TorchTensor], shapes: list[Any]) -> None:
    torch = torch_()
    try:
        with torch.no_grad():
            now = [tensor.shape for tensor in flatten(module(*inputs))]
    except (RuntimeError, ValueError, IndexError) as error:
        raise ModelError(
            "the model does not run any longer once channels are gone: somewhere a number of channels is written "
            "into its forward()",
            got=str(error).splitlines()[0],
            remedy="take the number from the tensor's shape, or leave the layers before that place alone (ignore)",
        ) from error
    if now != shapes:
        raise ModelError("pruning would change the model's outputs", expected=shapes, got=now,
                         remedy="leave the layers that make them alone (ignore)")  # fmt: skip


def _round(
    module: Module,
    inputs: tuple[TorchTensor, ...],
    goal: Goal,
    data: Inputs,
    to_save: float,
    least: dict[str, int],
    seed: int,
) -> bool:
    """Take out channels worth about `to_save`; False when there are none left to take."""
    torch = torch_()
    graph, groups = _groups(module, inputs, goal)
    batches = _batches(data, seed) if goal.importance == "taylor" else ()
    sides = measure(module, batches, _probe(module, torch.Generator().manual_seed(seed)), goal.importance)
    layers = layer_costs(module, inputs)
    names = {layer: name for name, layer in module.named_modules()}
    queues: list[list[_Block]] = []
    for index, group in enumerate(groups):
        root = group[0].dep.target.module
        width = _outputs(root)
        worth = score(graph, group, width, sides)
        together = _together(module, group)
        price = _price(graph, group, layers, goal) / width
        fewest = least.get(names.get(root, ""), goal.multiple_of)
        queues.append([] if worth is None else _blocks(index, worth, together, price, fewest, goal.multiple_of))
    chosen = _choose(queues, to_save)
    for index, channels in chosen.items():
        root = groups[index][0].dep.target.module
        handler = groups[index][0].dep.handler
        graph.get_pruning_group(root, handler, sorted(channels)).prune(record_history=False)
    return bool(chosen)


def _groups(module: Module, inputs: tuple[TorchTensor, ...], goal: Goal) -> tuple[Any, list[Any]]:
    """The dependency graph, and the groups of layers that may lose channels: none that makes an output."""
    torch, pruning = torch_(), need("torch_pruning")
    finals: list[Any] = []

    def forward(model: Module, given: Any) -> list[TorchTensor]:
        answer = [tensor for tensor in flatten(model(*given)) if tensor.grad_fn is not None]
        finals.extend(tensor.grad_fn for tensor in answer)
        return answer

    kinds = prunable(torch)
    named = dict(module.named_modules())
    if unknown := [name for name in goal.ignore if name not in named]:
        raise ConfigError("no such part of the model", got=", ".join(unknown), expected=f"one of {', '.join(named)}")
    ignored = [part for name in goal.ignore for part in named[name].modules()]
    ignored += [part for layer in module.modules() if isinstance(layer, torch.nn.MultiheadAttention)
                for part in layer.modules()]  # fmt: skip
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = pruning.DependencyGraph().build_dependency(module, inputs, forward_fn=forward, verbose=False)
            found = list(graph.get_all_groups(ignored_layers=ignored, root_module_types=kinds))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        raise ModelError(
            "which layers of the model depend on each other cannot be found out",
            got=f"{type(error).__name__}: {error}",
            remedy="channels can be pruned where layers are modules (nn.Conv2d …) and the rest is ordinary arithmetic",
        ) from error
    answering = {id(node.module) for node in graph.module2node.values() if node.grad_fn in finals or not node.outputs}
    free = [group for group in found if not _answers(graph, group, answering, kinds)]
    return graph, [group for group in free if _mapped(graph, group, kinds)]


def _answers(graph: Any, group: Any, answering: set[int], kinds: tuple[Any, ...]) -> bool:
    """Whether the group's channels are those of one of the model's outputs."""
    for dependency, _ in group:
        layer = dependency.target.module
        reads = isinstance(layer, kinds) and graph.is_in_channel_pruning_fn(dependency.handler)
        if id(layer) in answering and not (reads and getattr(layer, "groups", 1) == 1):
            return True
    return False


def _mapped(graph: Any, group: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether the graph knows which channels belong together; some concatenations mislead it beyond a layer's width."""
    for item in group:
        layer = item.dep.target.module
        if isinstance(layer, kinds):
            reads = graph.is_in_channel_pruning_fn(item.dep.handler)
            if item.idxs and max(item.idxs) >= (graph.get_in_channels(layer) if reads else _outputs(layer)):
                return False
    return True


def _together(module: Module, group: Any) -> int:
    """How many equal parts the channels fall into, all of which must stay equally wide (grouped layers)."""
    parts = 1
    for dependency, _ in group:
        layer = dependency.target.module
        groups = getattr(layer, "groups", getattr(layer, "num_groups", 1))
        if isinstance(groups, int) and groups not in (1, getattr(layer, "out_channels", None)):
            parts = max(parts, groups)
    return parts


def _price(graph: Any, group: Any, layers: dict[Module, LayerCost], goal: Goal) -> float:
    """What all channels of the group cost together, in the goal's unit."""
    total = 0.0
    for dependency, indices in group:
        if (spent := layers.get(dependency.target.module)) is not None:
            reads = graph.is_in_channel_pruning_fn(dependency.handler)
            whole = spent.weights if goal.of == "size" else spent.macs
            total += whole * len(indices) / max(1, spent.inputs if reads else spent.outputs)
    return total


def _blocks(group: int, worth: TorchTensor, parts: int, price: float, fewest: int, multiple: int) -> list[_Block]:
    """The group's channels in the order in which they would go, cut so that a multiple of `multiple` stays."""
    width = len(worth) // parts
    each = worth.reshape(parts, width).mean(0)
    order = sorted(range(width), key=lambda channel: (float(each[channel]), channel))
    step = max(1, -(-multiple // parts))
    blocks, at = [], 0
    while at < width:
        take = (width - at) % step or step
        if (width - at - take) * parts < max(fewest, step * parts):
            break
        some = order[at : at + take]
        channels = tuple(channel + part * width for part in range(parts) for channel in some)
        missed = float(sum(each[channel] for channel in some)) * parts
        blocks.append(_Block(group, channels, price * len(channels), missed))
        at += take
    return blocks


def _choose(queues: list[list[_Block]], to_save: float) -> dict[int, list[int]]:
    """Greedily the blocks that are missed least for what they save, until enough is saved: group → channels."""
    heap = [(queue[0].missed / max(queue[0].saves, 1e-12), i, 0) for i, queue in enumerate(queues) if queue]
    heapq.heapify(heap)
    chosen: dict[int, list[int]] = {}
    saved = 0.0
    while heap and saved < to_save:
        _, index, place = heapq.heappop(heap)
        block = queues[index][place]
        chosen.setdefault(index, []).extend(block.channels)
        saved += block.saves
        if place + 1 < len(queues[index]):
            after = queues[index][place + 1]
            heapq.heappush(heap, (after.missed / max(after.saves, 1e-12), index, place + 1))
    return chosen


def _batches(data: Inputs, seed: int) -> list[tuple[TorchTensor, ...]]:
    torch = torch_()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    size = max(1, min(_BATCH, len(data) // 4))
    return [data.take(order[at : at + size]) for at in range(0, min(len(data), _BATCHES * size), size)]


def _probe(module: Module, generator: Any) -> Callable[[Sequence[TorchTensor]], TorchTensor]:
    """See `importance`: v·f for answers in general, the log-probability of a drawn class for scores of classes."""
    torch = torch_()

    def probe(inputs: Sequence[TorchTensor]) -> TorchTensor:
        answers = [tensor for tensor in flatten(module(*inputs)) if tensor.is_floating_point()]
        if len(answers) == 1 and answers[0].dim() == 2 and answers[0].shape[1] > 1:
            chances = log_chances(answers[0])
            drawn = torch.multinomial(chances.detach().exp(), 1, generator=generator)
            return chances.gather(1, drawn).sum()
        total = 0.0
        for answer in answers:
            spread = answer.detach().std().clamp_min(1e-6) * answer[0].numel() ** 0.5
            signs = torch.randint(0, 2, answer.shape, generator=generator) * 2 - 1
            total = total + (answer * signs).sum() / spread
        return total

    return probe


def log_chances(scores: TorchTensor, temperature: float = 1.0) -> TorchTensor:
    """Logarithms of class probabilities (N×C) from logits, or from what already are probabilities."""
    torch = torch_()
    with torch.no_grad():
        already = bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < 1e-3).all())
    logits = scores.clamp_min(1e-7).log() if already else scores
    return torch.nn.functional.log_softmax(logits / temperature, dim=1)


def _to_latency(
    module: Module, inputs: tuple[TorchTensor, ...], goal: Goal, data: Inputs, progress: Progress, seed: int
) -> Module:
    """Search the share of multiply-accumulates at which the time is short enough, by bisection with measured times."""
    low, high, best = 0.0, 1.0 - goal.keep / 2, None
    share = goal.share
    with tempfile.TemporaryDirectory(prefix="edgerun-prune-") as folder:
        options = Options(seed=seed)
        before = export(copy.deepcopy(module), inputs, Path(folder), name="original", options=options).path
        for probe in range(_PROBES):
            progress(f"pruning to {1 - goal.share:.0%} of the latency", probe, _PROBES)
            aim = msgspec.structs.replace(goal, of="macs", share=share)
            try:
                candidate = _to_cost(module, inputs, aim, data, lambda what, done, total: None, seed)
            except ModelError:
                high, share = share, (low + share) / 2
                continue
            after = export(copy.deepcopy(candidate), inputs, Path(folder), name=f"probe-{probe}", options=options).path
            first, second = latency_ms([before, after])
            if second <= first * (1 - goal.share):
                best, high = candidate, share
            else:
                low = share
            share = (low + high) / 2
    if best is None:
        raise ModelError("no share of pruned channels makes the model that much faster here",
                         expected=f"{goal.share:.0%} less time", remedy="ask for less")  # fmt: skip
    progress(f"pruning to {1 - goal.share:.0%} of the latency", _PROBES, _PROBES)
    return best
