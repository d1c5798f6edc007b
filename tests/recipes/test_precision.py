"""What is wrong with a network on its devices is found before a run begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.models import build_model
from bitdial.recipes.devices import check_layers
from bitdial.training import MixedPrecisionConfig, OptimizerConfig, build_optimizer

FLOAT32 = MixedPrecisionConfig(enabled=False)


def devices(count: int, *, sharded: bool) -> Any:
    strategy = SimpleNamespace(shards_weights=sharded)
    return SimpleNamespace(world_size=count, strategy=strategy, device=torch.device("cpu"))


def test_ten_classes_on_sixteen_devices_with_muon() -> None:
    model = build_model("mlp", num_classes=10, in_channels=1, image_size=8)
    optimizer = build_optimizer(model, OptimizerConfig(optimizer="muon", learning_rate=0.01))
    check_layers(model, FLOAT32, devices(8, sharded=True), optimizer)
    check_layers(model, FLOAT32, devices(16, sharded=False), optimizer)
    with pytest.raises(BitdialError, match=r"muon with strategy fsdp needs a row of every matrix .* shape \[10, "):
        check_layers(model, FLOAT32, devices(16, sharded=True), optimizer)


def test_a_parameter_without_dimensions() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("scale", nn.Parameter(torch.ones(())))
    check_layers(model, FLOAT32, devices(1, sharded=True))
    with pytest.raises(BitdialError, match="got 'scale' without dimensions"):
        check_layers(model, FLOAT32, devices(2, sharded=True))
