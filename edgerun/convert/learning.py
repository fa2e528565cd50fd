"""Pruning and distilling, which need the PyTorch model itself: between reading it and quantising it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgerun.convert.parts import Network, Progress, Samples, Step


def slim(
    source: str,
    shapes: Mapping[str, tuple[int, ...]],
    calibration: Samples,
    workdir: Path,
    progress: Progress,
    *,
    share: float | None,
    minutes: float,
    original: Network,
    seed: int,
) -> tuple[Network, Sequence[Step]]:
    """The model with `share` of its MACs gone (None: all are left) and what it lost learned again from the original, as
    ONNX; and what each step did.

    What is pruned is always distilled: without it a pruned network is of no use. Learning ends after `minutes` at the
    latest. Raises `MissingError` without the extra `convert-torch`, and what pruning raises.
    """
    from edgerun.convert.torch.distil import Lesson
    from edgerun.convert.torch.loading import Options
    from edgerun.convert.torch.prune import Goal
    from edgerun.convert.torch.recipe import prune_and_distil

    folder = workdir / "slim"
    folder.mkdir()
    return prune_and_distil(
        source,
        calibration,
        folder,
        progress,
        goal=Goal(share) if share is not None else None,
        lesson=Lesson(minutes=minutes),
        options=Options(shapes=tuple(shapes.values()), seed=seed),
        original=original,
    )
