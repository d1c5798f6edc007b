"""A step's gradients are those of its own batches: not what another backward pass left in the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.training import Classification, Hook, LoopConfig, StepResult, TrainingState, fit, make_fabric
from bitdial.training.mixed_precision import (
    AdaptiveMixedPrecisionTrainer,
    MixedPrecisionConfig,
    MixedPrecisionTrainer,
    train_with_mixed_precision,
)
from tests.training.mixed_precision.by_hand import batches, same_state
from tests.training.mixed_precision.faults import Fault, FaultyForward, NotFiniteIn, Scaled

CRITERION = nn.CrossEntropyLoss()
KEPT = [True, False]


def net(fault: Fault | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    bad = nn.Identity() if fault is None else FaultyForward(fault)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), bad, nn.Linear(8, 4))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def stray(model: nn.Module) -> None:
    """A backward pass of somebody else's."""
    x, y = batches(1, seed=9)[0]
    (10.0 * CRITERION(model(x), y)).backward()  # type: ignore[no-untyped-call]


def trained(between: Callable[[nn.Module, torch.optim.Optimizer], object], **config: Any) -> nn.Module:
    """Weights after four calls of `train_step`, and what was left of a step, with something before each."""
    fault = Fault(config.pop("faults", ()))
    model = net(fault)
    optimizer, trainer = sgd(model), MixedPrecisionTrainer(MixedPrecisionConfig(init_scale=64.0, **config))
    for x, y in batches(4):
        between(model, optimizer)
        trainer.train_step(model, optimizer, CRITERION, x, y)
    between(model, optimizer)
    trainer.finish_step()
    return model


@pytest.mark.parametrize("memory_efficient", KEPT)
@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_backward_passes_of_others_do_not_enter(dtype: str, accumulation: int, memory_efficient: bool) -> None:
    config = {"dtype": dtype, "accumulation_steps": accumulation, "memory_efficient": memory_efficient}
    expected = trained(lambda *_: None, **config)
    assert same_state(trained(lambda model, _: stray(model), **config), expected) == []
    assert same_state(trained(lambda _, optimizer: optimizer.zero_grad(), **config), expected) == []


def test_nor_into_a_step_that_is_done_again_for_want_of_memory() -> None:
    def quiet(model: Any, _: Any) -> None:
        at, model[3].fault.at = model[3].fault.at, set()
        calls = model[3].fault.calls
        stray(model)
        model[3].fault.at, model[3].fault.calls = at, calls

    config = {"dtype": "float32", "accumulation_steps": 2, "faults": {2}}
    assert same_state(trained(quiet, **config), trained(lambda *_: None, **config)) == []


def test_two_optimizers_on_one_model() -> None:
    """A GAN: the generator's step goes backward through the discriminator."""

    def train(*, clears: bool) -> nn.Module:
        model = net()
        first, second = (torch.optim.SGD(model[part].parameters(), lr=0.1) for part in (1, 4))
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
        for x, y in batches(3):
            for optimizer in (first, second):
                trainer.train_step(model, optimizer, CRITERION, x, y)
                if clears:
                    model.zero_grad()
        return model

    assert same_state(train(clears=False), train(clears=True)) == []


@pytest.mark.parametrize("memory_efficient", KEPT)
def test_a_layer_that_joins_the_optimizer_later(memory_efficient: bool) -> None:
    """It has collected gradients for as long as nobody cleared them."""
    model = net()
    optimizer = torch.optim.SGD(model[4].parameters(), lr=0.1)
    config = MixedPrecisionConfig(enabled=False, memory_efficient=memory_efficient)
    trainer = MixedPrecisionTrainer(config)
    for x, y in batches(10):
        trainer.train_step(model, optimizer, CRITERION, x, y)
    optimizer.add_param_group({"params": model[1].parameters()})
    before, (x, y) = model[1].weight.detach().clone(), batches(1, seed=5)[0]
    gradient = torch.autograd.grad(CRITERION(model(x), y), model[1].weight)[0]
    trainer.train_step(model, optimizer, CRITERION, x, y)
    torch.testing.assert_close(model[1].weight.detach(), before - 0.1 * gradient)


def test_a_lost_step_leaves_others_gradients_alone_and_is_not_explained_by_them() -> None:
    """A part that another optimizer moves has a bad gradient: a wider format helps none the less."""
    model = net()
    model.insert(4, NotFiniteIn(torch.bfloat16))
    foreign = model[1].weight.grad = torch.full_like(model[1].weight, torch.nan)
    trainer = AdaptiveMixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16", overflow_patience=1))
    optimizer = torch.optim.SGD(model[5].parameters(), lr=0.1)
    assert trainer.train_step(model, optimizer, CRITERION, *batches(1)[0]).skipped
    assert trainer.control.format == torch.float32
    assert model[1].weight.grad is foreign


def test_a_training_in_one_call() -> None:
    models = []
    for before in (lambda _: None, stray):
        model = net()
        before(model)
        config = MixedPrecisionConfig(enabled=False)
        train_with_mixed_precision(model, batches(3), sgd(model), Scaled(1.0), 1, config)
        models.append(model)
    assert same_state(*models) == []


class Meddling(Hook):
    """Goes backward before and after every step, as who measures gradients does."""

    def before_step(self, state: TrainingState) -> None:
        stray(state.model)

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        stray(state.model)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loop(accumulation: int) -> None:
    def train(hooks: list[Hook]) -> dict[str, Tensor]:
        model = net()
        if hooks:
            stray(model)
        config = LoopConfig(steps=3, gradient_accumulation_steps=accumulation)
        fit(make_fabric(), model, sgd(model), Classification(), batches(6), config, hooks=hooks)
        return model.state_dict()

    meddled, expected = train([Meddling()]), train([])
    assert all(torch.equal(value, expected[name]) for name, value in meddled.items())
