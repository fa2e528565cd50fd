"""From a PyTorch model to a smaller one that answers alike: prune, distil, export, with what each step did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgerun.convert.parts import Network, Progress, Step
from edgerun.convert.torch.cost import cost, latency_ms
from edgerun.convert.torch.data import Inputs
from edgerun.convert.torch.distil import Learned, Lesson, distil
from edgerun.convert.torch.extra import Module, versions
from edgerun.convert.torch.importing import export_loaded
from edgerun.convert.torch.loading import Loaded, Options, load
from edgerun.convert.torch.prune import Goal, prune
from edgerun.errors import ModelError


def prune_and_distil(
    source: str | Path | Loaded,
    calibration: Any,
    workdir: Path,
    progress: Progress,
    *,
    goal: Goal | None = None,
    lesson: Lesson | None = None,
    options: Options | None = None,
    device: str = "cpu",
    original: Network | None = None,
) -> tuple[Network, tuple[Step, ...]]:
    """`source` (see `loading.load`) pruned to `goal` (None: not at all), distilled from itself, as float ONNX.

    `calibration`: see `data.Inputs`; without labels. `device`: where to learn, `cuda` say. `original`: its export,
    where there is one already. The seed of every step is that of `options`. Raises what `load`, `prune`, `distil` and
    `export` raise: `ModelError` for a `.pt2`, which holds no layers to prune or teach.
    """
    options = options or Options()
    loaded = source if isinstance(source, Loaded) else load(source, options)
    if loaded.program is not None:
        raise ModelError(
            "a .pt2 program can be exported, but neither pruned nor distilled",
            where=loaded.source,
            got="a flat list of operations, with its shapes and its normalisation frozen",
            remedy="name the function that builds the model, `mymodel.py:build`",
        )
    data = Inputs(calibration, loaded.names)
    original = original or export_loaded(loaded, workdir / "original", options)
    steps = [Step("original", _costs(loaded.module, loaded.inputs), 0.0)]
    student: Module = loaded.module
    if goal is not None:
        began = time.perf_counter()
        student = prune(loaded.module, loaded.inputs, goal, data, progress, options.seed)
        steps.append(Step("prune", _costs(student, loaded.inputs), time.perf_counter() - began))
    told: list[Learned] = []
    teacher = loaded.module.to(device)
    student = distil(student, teacher, data, progress, options.seed, lesson, loaded.names, told.append)
    teacher.to("cpu")
    steps.append(Step("distil", _learned(told[0]), told[0].seconds))
    made = Loaded(student, loaded.inputs, loaded.names, loaded.source, loaded.name)
    network = export_loaded(made, workdir, options)
    before, after = latency_ms([original.path, network.path])
    sizes = [path.stat().st_size / 1e3 for path in (original.path, network.path)]
    text = f"{before:.3g} ms → {after:.3g} ms ({before / after:.2f}×), {sizes[0]:.0f} kB → {sizes[1]:.0f} kB as float."
    steps.append(Step("smaller", text, 0.0))
    notes = tuple(f"{step.name}: {step.text}" for step in steps)
    tools = {**network.tools, **versions("torch-pruning")}
    return Network(network.path, "onnx", (*network.notes, *notes), tools), tuple(steps)


def _costs(module: Module, inputs: Sequence[Any]) -> str:
    spent = cost(module, inputs)
    return f"{spent.macs / 1e6:.3g} M multiply-accumulates, {spent.weights / 1e3:.4g} k weights."


def _learned(one: Learned) -> str:
    text = f"{one.measure}: {one.before:.4f} → {one.after:.4f} on {one.held_out} held-out inputs"
    text += f" after {one.epochs:.3g} epochs"
    return f"{text}; the time was over first, so another run may end elsewhere." if one.cut else f"{text}."
