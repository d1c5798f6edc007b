"""Small problems with several losses, for the tests of what balances them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.compression import BalancedOptimizer


def bowls(start: tuple[float, float] = (1.0, -0.5)) -> tuple[Tensor, Callable[[], Tensor]]:
    """Return two weights and two quadratic losses of them, in float64."""
    weights = torch.tensor(start, dtype=torch.float64, requires_grad=True)

    def losses() -> Tensor:
        a, b = weights
        return torch.stack([0.5 * ((a - 2) ** 2 + 4 * b**2), 0.5 * (4 * a**2 + (b + 1) ** 2)])

    return weights, losses


def noisy_network() -> nn.Module:
    """Return a network whose forward pass draws random numbers and moves running statistics."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3))


def noisy_losses(model: nn.Module, step: int) -> Callable[[], Tensor]:
    """Return the losses of one batch: of a fixed input, with noise of its own on top of dropout."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))

    def losses() -> Tensor:
        y = model(x)
        return torch.stack([(y + torch.rand_like(y) - x[:, :3]).square().mean(), y.abs().mean(), y.square().mean()])

    return losses


def balanced(network: nn.Module, **options: Any) -> BalancedOptimizer:
    inner = torch.optim.AdamW(network.parameters(), lr=0.01)
    return BalancedOptimizer(inner, **{"num_tasks": 3, **options})


def written_and_read(state: Any) -> Any:
    """Return a state as it comes back from a file, with nothing that needs pickle."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
