"""Small PyTorch models, as a user's own file has them: functions that build one."""

from __future__ import annotations

import torch
from torch import nn


def _block(given: int, made: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, made, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(made), nn.ReLU()
    )


class Residual(nn.Module):
    """What it is given, plus what two convolutions make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _block(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


class Fashion(nn.Module):
    """N×1×28×28 of 0..1 → N×10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(1, 16, 2), _block(16, 32), Residual(32), _block(32, 64, 2), Residual(64), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.body(picture - 0.3), 1))


class Joined(nn.Module):
    """What ties layers together: a depthwise layer, a sum, a flattened map; two outputs, one of them a map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 16, 2)
        self.depth = _block(16, 16, groups=16)
        self.point = _block(16, 16)
        self.side = _block(16, 24)
        self.map = nn.Conv2d(16, 6, 1)
        self.values = nn.Linear(24 * 16, 4)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        stem = self.stem(image)
        both = stem + self.point(self.depth(stem))
        pooled = nn.functional.max_pool2d(self.side(both), 2)
        return {"map": self.map(both), "values": self.values(torch.flatten(pooled, 1))}


def fashion() -> nn.Module:
    return Fashion()


def joined() -> tuple[nn.Module, torch.Tensor]:
    return Joined(), torch.zeros(1, 3, 16, 16)


def broken() -> nn.Module:
    raise RuntimeError("the weights are elsewhere")


def number() -> int:
    return 7


def hard_wired() -> tuple[nn.Module, torch.Tensor]:
    """A number of channels is written into forward()."""

    class Wired(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 3)
            self.second = nn.Conv2d(16, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x) * torch.ones(1, 16, 1, 1)).mean((2, 3))

    return Wired(), torch.zeros(1, 3, 8, 8)
