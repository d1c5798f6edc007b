"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError


class WeightAverage:
    """A copy of a model whose weights trail the trained ones: ``average += (1 - d) * (weights - average)``.

    Args:
        model: the trained model, on its device; copied once.
        decay: d in [0, 1); .999 averages over about the last thousand steps.
        warmup: start with a shorter memory, ``min(decay, (1 + n) / (10 + n))`` after n updates, so that the random
            first weights are forgotten soon.

    Parameters and running statistics of batch norm are averaged. Every other buffer is copied: an average of counters
    or of bits means nothing.

    Raises:
        BitdialError: decay out of range.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise BitdialError(f"the decay of the weight average must be in [0, 1), got {decay}; .999 is usual")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.module = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`: one call per applied optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        weights = list(zip(self.module.parameters(), model.parameters(), strict=True))
        statistics: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for (name, mine), theirs in zip(self.module.named_buffers(), model.buffers(), strict=True):
            (statistics if name.endswith(("running_mean", "running_var")) else copied).append((mine, theirs))
        for averaged in (weights, statistics):  # apart: weights may be in shards
            if averaged:
                torch._foreach_lerp_([mine for mine, _ in averaged], [theirs for _, theirs in averaged], 1.0 - decay)
        if copied:
            torch._foreach_copy_([mine for mine, _ in copied], [theirs for _, theirs in copied])
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return ``{model_state_dict, updates}``; the tensors are the live ones."""
        return {"model_state_dict": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.module.load_state_dict(state["model_state_dict"])
        self.updates = int(state["updates"])
