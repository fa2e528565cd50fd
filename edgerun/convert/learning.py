"""Pruning and distilling, which need the PyTorch model itself: between reading it and quantising it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgerun.convert.parts import Network, Progress, Samples


def slim(
    source: str,
    shapes: Mapping[str, tuple[int, ...]],
    calibration: Samples,
    workdir: Path,
    progress: Progress,
    *,
    share: float | None,
    distil: bool,
    seed: int,
) -> tuple[Network, str]:
    """The model with `share` of its MACs gone and what it lost learned again from the original, as ONNX; and in words.

    What is pruned is always distilled: without it a pruned network is of no use. Raises `MissingError` without the
    extra `convert-torch`, and what pruning raises.
    """
    from edgerun.convert.torch import distil as distilling
    from edgerun.convert.torch import importing, loading, prune

    options = loading.Options(shapes=tuple(shapes.values()), seed=seed)
    loaded = loading.load(source, options)
    student = loaded.module
    told = []
    if share is not None:
        student = prune.prune(loaded.module, loaded.inputs, share, calibration, progress, seed)
        told.append(f"{share:.0%} of the MACs were pruned, whole channels.")
    learned: list[distilling.Learned] = []
    student = distilling.distil(
        student, loaded.module, calibration, progress, seed, names=loaded.names, told=learned.append
    )
    told += [
        f"Distilled on {len(calibration)} samples without labels: {one.measure} {one.before:.4f} → {one.after:.4f} "
        f"in {one.epochs:.1f} epochs."
        for one in learned
    ]
    folder = workdir / "slim"
    folder.mkdir()
    network = importing.export(student, loaded.inputs, folder, name=loaded.name, names=loaded.names, options=options)
    return network, " ".join(told)
