"""Optimizers, learning-rate schedules and weight averages against plain computations."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from bitdial.training import (
    LearningRateConfig,
    OptimizerConfig,
    WeightAverage,
    build_optimizer,
    learning_rate_factor,
    scaled_learning_rate,
)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.arange(6)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_norms_and_biases_can_be_spared_decay() -> None:
    model = small()
    optimizer = build_optimizer(model, OptimizerConfig(decay_norm_and_bias=False, weight_decay=0.1))
    spared = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert spared == {id(p) for p in model.parameters() if p.ndim < 2}
    everything = build_optimizer(model, OptimizerConfig(weight_decay=0.1))
    assert [group["weight_decay"] for group in everything.param_groups] == [0.1]


def test_frozen_parameters_are_left_out() -> None:
    model = small()
    model[0].weight.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig(optimizer="adamw"))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters())) - 1


def test_muon_moves_matrices_and_adamw_the_rest() -> None:
    config = OptimizerConfig(optimizer="muon", learning_rate=0.02, weight_decay=0.01)
    model, by_hand = small(), small()
    combined = build_optimizer(model, config)
    matrices = [by_hand[1].weight, by_hand[3].weight]
    rest = [p for p in by_hand.parameters() if all(p is not m for m in matrices)]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.02, weight_decay=0.01)
    for _ in range(3):
        step(model, combined)
        by_hand(torch.arange(6)).square().sum().backward()
        for optimizer in (muon, adamw):
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))


def test_a_scheduler_moves_both_halves_of_muon_also_after_loading() -> None:
    model = small()
    optimizer = build_optimizer(model, OptimizerConfig(optimizer="muon"))
    step(model, optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_scale_is_taken_back_even_after_an_error() -> None:
    optimizer = build_optimizer(small(), OptimizerConfig(learning_rate=0.3))
    seen = []

    def fail() -> None:
        with scaled_learning_rate(optimizer, 0.5):
            seen.append(optimizer.param_groups[0]["lr"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [0.15]
    assert optimizer.param_groups[0]["lr"] == 0.3


def torch_schedule(scheduler_class: type, total: int, **options: object) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = scheduler_class(optimizer, **options), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch complains of a schedule without steps
        for _ in range(total):
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return rates


def test_cosine_is_torchs() -> None:
    factor = learning_rate_factor(LearningRateConfig(final_factor=0.1), 30)
    expected = torch_schedule(torch.optim.lr_scheduler.CosineAnnealingLR, 30, T_max=30, eta_min=0.1)
    assert [factor(t) for t in range(30)] == pytest.approx(expected, rel=1e-9)
    assert factor(30) == factor(1000) == pytest.approx(0.1)


def test_onecycle_is_torchs() -> None:
    factor = learning_rate_factor(LearningRateConfig(scheduler="onecycle"), 40)
    expected = torch_schedule(torch.optim.lr_scheduler.OneCycleLR, 39, max_lr=1.0, total_steps=40)
    assert [factor(t) for t in range(39)] == pytest.approx(expected, rel=1e-9)
    assert factor(39) == pytest.approx(1 / 250_000)


def test_onecycle_rises_over_the_warmup() -> None:
    factor = learning_rate_factor(LearningRateConfig(scheduler="onecycle", warmup_steps=4), 40)
    assert factor(4) == 1.0
    assert factor(3) < 1.0 > factor(5)


def test_steps_at_shares_of_the_run_or_at_steps() -> None:
    shares = learning_rate_factor(LearningRateConfig(scheduler="step"), 64)
    steps = learning_rate_factor(LearningRateConfig(scheduler="step", milestones=(32, 48)), 64)
    assert [shares(t) for t in (0, 31, 32, 47, 48, 63)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [shares(t) for t in range(64)] == [steps(t) for t in range(64)]
    warm = learning_rate_factor(LearningRateConfig(scheduler="step", warmup_steps=8), 64)
    assert [warm(t) for t in (0, 7, 8, 31, 32, 48)] == pytest.approx([1 / 8, 1, 1, 1, 0.1, 0.01])


@pytest.mark.parametrize("scheduler", ["cosine", "step", "none"])
def test_warmup_rises_evenly_to_the_full_rate(scheduler: str) -> None:
    factor = learning_rate_factor(LearningRateConfig(scheduler=scheduler, warmup_steps=5), 50)
    assert [factor(t) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_an_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, decay=0.9, warmup=False)
    expected = 0.0
    for value in (1.0, 2.0, -1.0):
        model.weight.data.fill_(value)
        average.update(model)
        expected = 0.9 * expected + 0.1 * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert not average.module.weight.requires_grad


def test_an_average_warms_up() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(5.0)
    average = WeightAverage(model, decay=0.999)
    model.weight.data.fill_(1.0)
    average.update(model)  # the first decay is 1/10
    assert average.module.weight.item() == pytest.approx(0.1 * 5.0 + 0.9 * 1.0)


def test_running_statistics_are_averaged_and_counters_copied() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("weight_bits", torch.tensor(8.0))
    average = WeightAverage(model, decay=0.5, warmup=False)
    assert model.running_mean is not None
    model.running_mean.fill_(4.0)
    model.get_buffer("weight_bits").fill_(2.0)
    assert model.num_batches_tracked is not None
    model.num_batches_tracked.fill_(7)
    average.update(model)
    assert average.module.get_buffer("running_mean").tolist() == [2.0, 2.0]
    assert average.module.get_buffer("weight_bits").item() == 2.0  # an average of widths means nothing
    assert average.module.get_buffer("num_batches_tracked").item() == 7


def test_an_average_comes_back() -> None:
    model = small()
    average = WeightAverage(model, decay=0.9)
    model[1].weight.data.add_(1.0)
    average.update(model)
    other = WeightAverage(small(), decay=0.9)
    other.load_state_dict(average.state_dict())
    assert other.updates == 1
    pairs = zip(other.module.state_dict().values(), average.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert math.isfinite(float(other.module[1].weight.sum()))
