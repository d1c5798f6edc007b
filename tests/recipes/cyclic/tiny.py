"""A problem that trains in a tenth of a second: a perceptron of five layers, three of them quantized."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitdial.recipes.cyclic import CyclicPrecisionConfig, CyclicTrainingConfig, Loaders, ModelConfig

CLASSES, BATCH, BATCHES = 4, 16, 10
LAYERS = 3  # quantized ones

Batches = list[tuple[Tensor, Tensor]]


def network() -> nn.Module:
    hidden: list[nn.Module] = [nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU()]
    for _ in range(LAYERS):
        hidden += [nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(24, CLASSES))


def batches(seed: int, count: int = BATCHES) -> Batches:
    """A learnable problem: the class is the largest of four random projections."""
    projection = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, BATCH, 8, generator=generator)
    return [(x, (x @ projection).argmax(dim=1)) for x in inputs]


def loaders(seed: int = 0) -> Loaders:
    return Loaders(train=batches(seed), test=batches(1000, 6), recalibration=batches(seed))


def model_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"bit_widths": [2, 4, 8], **changes})


def training(**changes: Any) -> CyclicTrainingConfig:
    settings: dict[str, Any] = {
        "num_cpt_iterations": 20,
        "num_static_iterations": 8,
        "warmup_steps": 2,
        "batch_size": BATCH,
        "log_interval": 5,
    }
    return CyclicTrainingConfig(**{**settings, **changes})


def precision(**changes: Any) -> CyclicPrecisionConfig:
    return CyclicPrecisionConfig(**{"cycle_length": 5, **changes})


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
