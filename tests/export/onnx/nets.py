"""Networks for the tests of files of ONNX."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitdial as bd

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")


class Block(nn.Module):
    """A residual block with its batch norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def convolutional(**options: Any) -> nn.Module:
    """A small network with a residual block, quantized, with batch norms that have seen something."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Block(8), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    model = bd.quantize(net, **{"weights": 4, "activations": 8, **options})
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)  # gains below zero too
            nn.init.normal_(norm.bias)
    with torch.no_grad():
        for seed in range(3):
            model.train()(pictures(seed=seed))
    return model.eval()


def linear(depth: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(64, 64), nn.ReLU())]
    net = nn.Sequential(*hidden, nn.Linear(64, 7))
    return bd.quantize(net, skip=[], **options).eval()


def pictures(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
