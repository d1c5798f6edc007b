"""Small networks and the loop that everybody writes by hand, to compare with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class SmallNet(nn.Module):
    """Two convolutions with batch norm and dropout, and a classifier: what a forward pass can leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.drop(torch.relu(self.body(x))).flatten(1))


def small_net(seed: int = 0) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet()


def batches(count: int, size: int = 8, seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(count):
        x = torch.randn(size, 1, 8, 8, generator=generator)
        drawn.append((x, x.flatten(1)[:, :4].argmax(dim=1)))
    return drawn


def train_by_hand(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Iterable[Batch],
    dtype: torch.dtype,
    *,
    accumulation: int = 1,
    max_grad_norm: float | None = None,
    scheduler: Any = None,
    scaler_options: dict[str, Any] | None = None,
    device: str = "cpu",
) -> tuple[list[float], Any]:
    """The loop of PyTorch's documentation; return its losses and its scaler."""
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16, **(scaler_options or {}))
    criterion, losses = nn.CrossEntropyLoss(), []
    for index, (x, y) in enumerate(data):
        with torch.autocast(device, dtype=dtype):
            loss = criterion(model(x), y)
        losses.append(loss.item())
        scaler.scale(loss / accumulation).backward()
        if (index + 1) % accumulation:
            continue
        if max_grad_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if scheduler is not None and scaler.get_scale() >= before:
            scheduler.step()
    return losses, scaler


def same_state(mine: nn.Module, theirs: nn.Module) -> list[str]:
    """Names of what differs, bit for bit."""
    other = theirs.state_dict()
    return [name for name, value in mine.state_dict().items() if not torch.equal(value, other[name])]
