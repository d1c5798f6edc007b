"""Losses and weights are those of a loop written by hand around torch.amp, bit for bit, over 200 steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.training.mixed_precision import AdaptiveMixedPrecisionTrainer, MixedPrecisionConfig, MixedPrecisionTrainer
from tests.training.mixed_precision.by_hand import batches, same_state, small_net, train_by_hand

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adam, fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "sgd, fused": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, fused=True),
    "adamw, one by one": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=False),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("optimizer", "accumulation", "max_grad_norm", "kind"),
    [
        *(
            pytest.param(name, 1, None, MixedPrecisionTrainer, marks=pytest.mark.slow if "," in name else ())
            for name in OPTIMIZERS
        ),
        ("sgd", 1, 0.5, MixedPrecisionTrainer),
        ("adam", 4, None, MixedPrecisionTrainer),
        pytest.param("sgd", 3, 0.5, MixedPrecisionTrainer, marks=pytest.mark.slow),
        ("sgd", 1, None, AdaptiveMixedPrecisionTrainer),  # steps by the same code: one tells
    ],
)
def test_two_hundred_steps(
    kind: type[MixedPrecisionTrainer],
    optimizer: str,
    accumulation: int,
    max_grad_norm: float | None,
    dtype: torch.dtype,
) -> None:
    model = small_net()
    other = copy.deepcopy(model)
    mine, theirs = OPTIMIZERS[optimizer](model.parameters()), OPTIMIZERS[optimizer](other.parameters())
    data = batches(200 * accumulation)
    # Starts so high that the first steps overflow, and grows within the run. PyTorch's own fused SGD reads a momentum
    # that it never wrote when a scaler skips its first step, so that has nothing to compare with.
    overflows = optimizer != "sgd, fused"
    options = {"init_scale": 2.0**24 if overflows else 2.0**10, "growth_interval": 50}

    schedules = [torch.optim.lr_scheduler.StepLR(each, step_size=40, gamma=0.5) for each in (mine, theirs)]
    torch.manual_seed(5)
    losses, scaler = train_by_hand(
        other, theirs, data, dtype, accumulation=accumulation, max_grad_norm=max_grad_norm,
        scheduler=schedules[1], scaler_options=options,
    )  # fmt: skip

    trainer = kind(
        MixedPrecisionConfig(dtype=dtype, accumulation_steps=accumulation, max_grad_norm=max_grad_norm, **options)
    )
    trainer.prepare_model(model)
    torch.manual_seed(5)
    criterion = nn.CrossEntropyLoss()
    outcomes = [trainer.train_step(model, mine, criterion, x, y, scheduler=schedules[0]) for x, y in data]

    assert [outcome.loss for outcome in outcomes] == losses
    assert same_state(model, other) == []
    assert mine.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    summary = trainer.get_performance_summary()
    assert summary["performance"]["training_steps"] == 200
    if dtype == torch.float16:
        assert trainer.control.scaler.scale == scaler.get_scale()
        assert trainer.control.scaler.growth_tracker == scaler._get_growth_tracker()
        assert (summary["scaler_info"]["overflows"] > 0) is overflows
        assert sum(outcome.skipped for outcome in outcomes) == summary["scaler_info"]["overflows"]
        assert schedules[0].last_epoch == summary["performance"]["applied_steps"] <= 200
    else:
        assert summary["performance"]["skipped_steps"] == 0
        assert schedules[0].last_epoch == 200


def test_other_factors_round_as_torch_does() -> None:
    """A growth of 1.5 gives scales that are no powers of two."""
    model, data = small_net(), batches(60)
    other = copy.deepcopy(model)
    options = {"init_scale": 1000.1, "growth_interval": 7, "growth_factor": 1.5, "backoff_factor": 0.3}
    mine, theirs = OPTIMIZERS["sgd"](model.parameters()), OPTIMIZERS["sgd"](other.parameters())
    torch.manual_seed(5)
    _, scaler = train_by_hand(other, theirs, data, torch.float16, scaler_options=options)
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(**options))
    torch.manual_seed(5)
    for x, y in data:
        trainer.train_step(model, mine, nn.CrossEntropyLoss(), x, y)
    assert trainer.control.scaler.scale == scaler.get_scale()
    assert same_state(model, other) == []


def test_disabled_is_the_plain_float32_loop() -> None:
    model, data = small_net(), batches(30)
    other = copy.deepcopy(model)
    mine, theirs = OPTIMIZERS["adam"](model.parameters()), OPTIMIZERS["adam"](other.parameters())
    torch.manual_seed(5)
    losses = []
    for x, y in data:
        loss = nn.functional.cross_entropy(other(x), y)
        losses.append(loss.item())
        loss.backward()
        theirs.step()
        theirs.zero_grad()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
    torch.manual_seed(5)
    assert [trainer.train_step(model, mine, nn.CrossEntropyLoss(), x, y).loss for x, y in data] == losses
    assert same_state(model, other) == []
    assert trainer.get_performance_summary()["estimated_memory_savings"] == 0


@pytest.mark.parametrize("track", [True, False])
def test_times_are_measured_where_they_are_wanted(track: bool) -> None:
    model = small_net()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16", track_performance=track))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    outcomes = [trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y) for x, y in batches(3)]
    measured = trainer.get_performance_summary()["performance"]
    assert all((outcome.seconds > 0) is track for outcome in outcomes)
    assert measured["total_time"] == sum(outcome.seconds for outcome in outcomes)
    assert measured["average_step_time"] == measured["total_time"] / 3
    assert measured["median_step_time"] == sorted(outcome.seconds for outcome in outcomes)[1]
    assert measured["peak_memory_bytes"] is None, "a CPU cannot tell"
    assert trainer.get_performance_summary()["estimated_memory_savings"] == 50


@pytest.mark.parametrize("memory_efficient", [True, False])
def test_gradients_are_freed_or_kept(memory_efficient: bool) -> None:
    model = small_net()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(memory_efficient=memory_efficient))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), *batches(1)[0])
    assert all((p.grad is None) is memory_efficient for p in model.parameters())


def test_what_is_left_of_an_epoch_is_a_mean_too() -> None:
    """Two of four batches: the step of a run that accumulates two."""
    (a, b), data = (small_net(), small_net()), batches(2)
    for model, steps in ((a, 2), (b, 4)):
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=torch.bfloat16, accumulation_steps=steps))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(5)
        outcomes = [trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y) for x, y in data]
        assert not any(outcome.skipped for outcome in outcomes)
        assert trainer.finish_step() is (steps == 4)
        assert trainer.finish_step() is False
    assert same_state(a, b) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_sparse_gradients(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3))
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype))
    outcome = trainer.train_step(
        model, optimizer, nn.CrossEntropyLoss(), torch.tensor([[1, 2, 3], [3, 4, 5]]), torch.tensor([0, 2])
    )
    assert outcome.stepped
    changed = (model[0].weight != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [1, 2, 3, 4, 5]
