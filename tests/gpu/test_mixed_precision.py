"""Steps in float16 and bfloat16 on a GPU are those of a loop by hand around torch.amp and its scaler, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.layers import quantize
from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer
from tests.gpu.conftest import Device
from tests.training.mixed_precision.by_hand import batches, same_state, small_net, train_by_hand

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
}


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("quantizer", [None, "uniform", "ttq"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_forty_steps(
    dtype: str, quantizer: str | None, optimizer: str, max_grad_norm: float | None, device: Device
) -> None:
    model = small_net()
    if quantizer is not None:
        quantize(model, 8, 8, quantizer=quantizer)
    model.to(device)
    other = copy.deepcopy(model)
    mine, theirs = OPTIMIZERS[optimizer](model.parameters()), OPTIMIZERS[optimizer](other.parameters())
    data = [(x.to(device), y.to(device)) for x, y in batches(40)]
    options = {"init_scale": 2.0**24, "growth_interval": 10}  # the first steps overflow; grows within the run
    torch.manual_seed(5)
    losses, scaler = train_by_hand(
        other, theirs, data, getattr(torch, dtype), max_grad_norm=max_grad_norm, scaler_options=options, device=device
    )
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, max_grad_norm=max_grad_norm, **options))
    trainer.prepare_model(model)
    torch.manual_seed(5)
    outcomes = [trainer.train_step(model, mine, nn.CrossEntropyLoss(), x, y) for x, y in data]
    assert [outcome.loss for outcome in outcomes] == losses
    assert same_state(model, other) == []
    if dtype == "float16":
        assert trainer.control.scaler.scale == scaler.get_scale()
        assert sum(outcome.skipped for outcome in outcomes) > 0
