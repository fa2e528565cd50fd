"""Unlabelled inputs for pruning and distilling: `Samples`, a PyTorch loader or tensors, as batches of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from edgerun.convert.torch.extra import TorchTensor, torch_
from edgerun.errors import ConfigError

_MOST_KEPT = 1 << 30
"""Bytes of `Samples` kept in memory after their first reading; more is read again each time."""
FEWEST = 16


class Inputs:
    """Any number of samples, by index. `names`: the model's inputs in the order of its `forward`.

    `calibration` is `parts.Samples`; or a tensor or tuple of tensors with the samples along the first dimension; or
    anything that yields these batch by batch, such as a `torch.utils.data.DataLoader` (of what it yields the first
    tensors are taken, one per input: labels behind them are left alone). Raises `ConfigError` for fewer than 16.
    """

    def __init__(self, calibration: Any, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._samples: Any = None
        self._kept: dict[int, tuple[TorchTensor, ...]] = {}
        self._bytes = 0
        self._whole: tuple[TorchTensor, ...] = ()
        if hasattr(calibration, "source") and hasattr(calibration, "__getitem__"):
            self._samples = calibration
        else:
            self._whole = self._joined(calibration)
        if len(self) < FEWEST:
            raise ConfigError(
                "too few inputs to prune or distil with", where=getattr(calibration, "source", None),
                expected=f"at least {FEWEST}, better some hundreds", got=len(self),
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._samples) if self._samples is not None else len(self._whole[0])

    def take(self, indices: Sequence[int]) -> tuple[TorchTensor, ...]:
        """The samples at `indices` as one batch for each input."""
        torch = torch_()
        if self._samples is None:
            chosen = torch.tensor(list(indices), dtype=torch.int64)
            return tuple(tensor[chosen] for tensor in self._whole)
        rows = [self._one(index) for index in indices]
        return tuple(torch.cat(column) for column in zip(*rows, strict=True))

    def _one(self, index: int) -> tuple[TorchTensor, ...]:
        if index in self._kept:
            return self._kept[index]
        torch = torch_()
        given = self._samples[index].inputs
        ordered = [given[name] for name in self._names] if set(self._names) <= set(given) else list(given.values())
        row = tuple(torch.from_numpy(np.ascontiguousarray(tensor)) for tensor in ordered[: len(self._names)])
        size = sum(tensor.numel() * tensor.element_size() for tensor in row)
        if self._bytes + size <= _MOST_KEPT:
            self._kept[index] = row
            self._bytes += size
        return row

    def _joined(self, calibration: Any) -> tuple[TorchTensor, ...]:
        torch = torch_()
        whole = isinstance(calibration, torch.Tensor) or (
            isinstance(calibration, tuple) and all(isinstance(part, torch.Tensor) for part in calibration)
        )
        batches: Iterable[Any] = [calibration] if whole else calibration
        columns: list[list[TorchTensor]] = [[] for _ in self._names]
        for batch in batches:
            tensors = (batch,) if isinstance(batch, torch.Tensor) else tuple(batch)
            if len(tensors) < len(self._names):
                raise ConfigError("a batch has fewer tensors than the model has inputs", expected=len(self._names),
                                  got=len(tensors))  # fmt: skip
            for column, tensor in zip(columns, tensors, strict=False):
                column.append(tensor.detach())
        if not all(columns):
            raise ConfigError("there are no inputs to work with", expected=f"at least {FEWEST}", got=0)
        return tuple(torch.cat(column) for column in columns)


def augment(batch: Sequence[TorchTensor], generator: Any) -> tuple[TorchTensor, ...]:
    """Other views of the same pictures: mirrored, shifted by up to an eighth of their size, two mixed into one.

    The original sees the same view as the model that learns from it, so a view need not look natural (L. Beyer et al.,
    "Knowledge distillation: A good teacher is patient and consistent", 2022). Only a single N×C×H×W float input is
    changed; anything else is returned as it is.
    """
    torch = torch_()
    pictures = batch[0]
    if len(batch) != 1 or pictures.dim() != 4 or not pictures.is_floating_point():
        return tuple(batch)
    count, _, height, width = pictures.shape
    seen = pictures.clone()
    mirrored = torch.rand(count, generator=generator) < 0.5
    seen[mirrored] = seen[mirrored].flip(3)
    shifts = torch.rand(2, generator=generator) * 2 - 1
    rows, columns = round(float(shifts[0]) * height / 8), round(float(shifts[1]) * width / 8)
    pad = torch.nn.functional.pad(seen, (abs(columns),) * 2 + (abs(rows),) * 2, mode="replicate")
    seen = pad[:, :, abs(rows) + rows :, abs(columns) + columns :][:, :, :height, :width]
    share = torch.rand(count, 1, 1, 1, generator=generator)
    share = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, torch.ones_like(share), share)
    other = seen[torch.randperm(count, generator=generator)]
    share = share.to(seen.dtype)
    return (share * seen + (1 - share) * other,)
