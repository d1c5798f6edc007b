"""What a forward pass leaves in a model is put back, however its buffers are kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer
from bitdial.training.step.memory import Snapshot
from tests.training.mixed_precision.by_hand import batches, same_state, small_net
from tests.training.mixed_precision.faults import BadGradient

CPU = torch.device("cpu")


class Keeps(nn.Module):
    """Averages its input, in one of the ways that people write that."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.average: Tensor | None
        self.register_buffer("average", None if way == "made then" else torch.zeros(64))
        self.register_buffer("mask", torch.ones(1).expand(64))  # shows one number 64 times; nobody can write into it
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        new = x.detach().mean(dim=0)
        if self.average is None or self.way == "replaced":
            self.average = new
        elif self.way == "data":
            self.average.data.copy_(new)
        else:
            self.average.lerp_(new, 0.1)
        if self.way == "a new name" and not hasattr(self, "count"):
            self.register_buffer("count", torch.ones(()))
        return self.head(x * self.mask)


WAYS = ["in place", "data", "replaced", "made then", "a new name"]


@pytest.mark.parametrize("way", WAYS)
def test_after_a_step_that_was_not_finite(way: str) -> None:
    model = Keeps(way)
    before, average = copy.deepcopy(model), model.average
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = batches(1)[0]
    assert trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x * float("nan"), y).skipped
    assert model.state_dict().keys() == before.state_dict().keys()
    assert same_state(model, before) == []
    assert model.average is average
    assert trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y).stepped
    assert bool(torch.isfinite(model.average).all())


@pytest.mark.parametrize("way", WAYS)
def test_taken_again_it_is_the_newer_one(way: str) -> None:
    model, x = Keeps(way), batches(1)[0][0]
    snapshot = Snapshot(model, CPU)
    snapshot.take()
    model(x)
    snapshot.take()
    expected = copy.deepcopy(model)
    model(x + 1.0)
    snapshot.restore()
    assert same_state(model, expected) == []


def test_layers_that_were_exchanged_in_between() -> None:
    """Somebody quantizes a model in the middle of training."""
    model = small_net()
    snapshot = Snapshot(model, CPU)
    snapshot.take()
    model.norm = nn.BatchNorm2d(8)
    snapshot.take()
    expected = copy.deepcopy(model)
    model(batches(1)[0][0])
    assert same_state(model, expected) != []
    snapshot.restore()
    assert same_state(model, expected) == []


def shared() -> nn.Module:
    norm = nn.BatchNorm1d(64)
    return nn.Sequential(nn.Flatten(), norm, norm, nn.Linear(64, 4))


def sparse() -> nn.Module:
    model = small_net()
    model.register_buffer("graph", torch.eye(4).to_sparse())
    return model


def made_in_inference() -> nn.Module:
    model = small_net()
    with torch.inference_mode():
        model.register_buffer("constant", torch.ones(3))
    return model


@pytest.mark.parametrize("make", [shared, sparse, made_in_inference, lambda: nn.Sequential(nn.Flatten())])
def test_other_models(make: Any) -> None:
    model, x = make(), batches(1)[0][0]
    snapshot = Snapshot(model, CPU)
    for _ in range(2):
        snapshot.take()
        expected = {name: value.clone() for name, value in model.named_buffers()}
        model(x)
        snapshot.restore()
        for name, value in model.named_buffers():
            assert torch.equal(value.to_dense(), expected[name].to_dense()), name


def test_a_gradient_whose_scale_is_not_at_fault_leaves_no_statistics() -> None:
    model = small_net()
    model.drop = BadGradient()
    before = copy.deepcopy(model)
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), *batches(1)[0]).skipped
    assert same_state(model, before) == []
