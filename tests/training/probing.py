"""Networks that note what they compute in, for the tests of precision policies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Probe(nn.Linear):
    """A linear layer that notes the dtype of its product."""

    def __init__(self, *shape: Any) -> None:
        super().__init__(*shape)
        self.seen: torch.dtype | None = None

    def forward(self, input: Tensor) -> Tensor:
        output = functional.linear(input, self.weight, self.bias)
        self.seen = output.dtype
        return output


class Attention(nn.Module):
    """Attention as a function between two projections: the product in between belongs to no layer but this one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = Probe(8, 24)
        self.out = Probe(8, 8)
        self.seen: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        y = functional.scaled_dot_product_attention(query, key, value)
        self.seen = y.dtype
        return self.out(y)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = Attention()
        self.mlp = nn.Sequential(Probe(8, 16), nn.ReLU(), Probe(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class Net(nn.Module):
    """stem, blocks.0, blocks.1 (each norm, attention, mlp), head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Probe(6, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = Probe(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def tokens(seed: int = 0) -> Tensor:
    """Input ``(4, 5, 6)``."""
    return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(seed))


def seen(model: nn.Module) -> dict[str, torch.dtype | None]:
    """What each noting part of a model computed in last."""
    return {name: module.seen for name, module in model.named_modules() if isinstance(module, Probe | Attention)}
