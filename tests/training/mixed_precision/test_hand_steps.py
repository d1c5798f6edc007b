"""Loops that call `optimizer.step()` themselves: what they mean is what is done, and they are told once."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer
from tests.training.mixed_precision.by_hand import batches, same_state

CRITERION = nn.CrossEntropyLoss()
TOLD = r"train_step steps by itself, got a call of optimizer.step\(\); "


class Trial:
    def __init__(self, **config: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)
        self.trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="float32", **config))

    def train(self, data: Sequence[Any], every: int | None = None, *, zero: bool = False) -> Trial:
        """A step by hand after every so many batches, and after the last."""
        for index, (x, y) in enumerate(data, 1):
            self.trainer.train_step(self.model, self.optimizer, CRITERION, x, y, scheduler=self.scheduler)
            if every is not None and (index % every == 0 or index == len(data)):
                self.optimizer.step()
                if zero:
                    self.optimizer.zero_grad()
        return self

    @property
    def steps(self) -> int:
        return self.trainer.control.applied_steps


def in_steps(*sizes: int) -> Trial:
    """A step for each group of the batches, its losses averaged."""
    trial, data = Trial(), iter(batches(sum(sizes)))
    for size in sizes:
        trial.trainer.config = trial.trainer.config.model_copy(update={"accumulation_steps": size})
        trial.train([next(data) for _ in range(size)])
    return trial


@pytest.mark.parametrize("memory_efficient", [True, False])
@pytest.mark.parametrize("zero", [True, False])
def test_every_fourth_batch(zero: bool, memory_efficient: bool) -> None:
    trial = Trial(memory_efficient=memory_efficient)
    with pytest.warns(UserWarning, match=f"{TOLD}each of the 4 batches before it was a step") as caught:
        trial.train(batches(14), every=4, zero=zero)
    assert len(caught) == 1
    assert "accumulation_steps=4" in str(caught[0].message)
    wanted = in_steps(1, 1, 1, 1, 4, 4, 2)
    assert trial.steps == wanted.steps == 7
    assert same_state(trial.model, wanted.model) == []
    assert trial.scheduler.last_epoch == wanted.scheduler.last_epoch == 7


@pytest.mark.parametrize("memory_efficient", [True, False])
def test_after_each_batch_it_moves_nothing(memory_efficient: bool) -> None:
    trial = Trial(memory_efficient=memory_efficient)
    with pytest.warns(UserWarning, match=f"{TOLD}this call moved nothing: leave it out") as caught:
        trial.train(batches(3), every=1)
    assert len(caught) == 1
    assert same_state(trial.model, Trial().train(batches(3)).model) == []


def test_one_that_agrees_with_the_configuration_is_silent() -> None:
    trial = Trial(accumulation_steps=2).train(batches(5), every=2)
    assert same_state(trial.model, in_steps(2, 2, 1).model) == []


def test_a_step_on_gradients_of_ones_own_is_ones_own_affair() -> None:
    trial, plain = Trial(), Trial()
    x, y = batches(1, seed=9)[0]
    for each in (trial, plain):
        each.train(batches(2))
        CRITERION(each.model(x), y).backward()
        if each is plain:
            each.trainer._hand._handle.remove()  # type: ignore[union-attr]
        each.optimizer.step()
    assert same_state(trial.model, plain.model) == []


def test_other_trainers_and_copies_of_one_optimizer_are_no_callers() -> None:
    trial = Trial().train(batches(2))
    trial.trainer = pickle.loads(pickle.dumps(copy.deepcopy(trial.trainer)))
    trial.train(batches(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trial.trainer = MixedPrecisionTrainer(trial.trainer.config)
        trial.train(batches(4))
    assert not caught
