"""What a user can get wrong, and the sentence that says so."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bitdial.errors import BitdialError
from bitdial.layers.cycling import CyclicPrecisionConfig
from bitdial.training import (
    BatchStream,
    Classification,
    Distillation,
    EarlyStopping,
    Hook,
    LearningRateConfig,
    LoopConfig,
    OptimizerConfig,
    WeightAverage,
    build_optimizer,
    fit,
    learning_rate_factor,
    make_fabric,
    restore_random_state,
    seed_everything,
)
from bitdial.training.optimizers import check_step
from tests.training.running import CyclingBits, task_data


def run(loader: Any, **options: Any) -> None:
    model = options.pop("model", nn.Linear(12, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = options.pop("config", LoopConfig(epochs=2))
    fit(make_fabric(accelerator="cpu"), model, optimizer, Classification(), loader, config, **options)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return task_data()


def asking_again() -> None:
    """A learning-rate schedule wraps the optimizer's step."""
    sgd, lbfgs = (kind(nn.Linear(12, 4).parameters(), lr=0.1) for kind in (torch.optim.SGD, torch.optim.LBFGS))
    for optimizer in (sgd, lbfgs):
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        check_step(optimizer)


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "an empty loader": (lambda: run([]), "the loader gave no batch in epoch 0"),
    "a loader that can be used once": (lambda: run(iter([batch()])), "the loader gave no batch in epoch 1"),
    "no loader": (lambda: run(None), "expected a loader, an iterable of batches, got NoneType"),
    "a batch without labels": (lambda: run([torch.zeros(2, 12)]), "must be a pair (inputs, labels), got Tensor"),
    "a batch of three": (lambda: run([(*batch(), 1)]), "must be a pair (inputs, labels), got 3 parts"),
    "labels beyond the classes": (
        lambda: run([(batch()[0], batch()[1] + 4)]),
        "labels must be 0 or more and below the model's 4 classes (-100 leaves an example out), got a label of",
    ),
    "labels of the wrong shape": (
        lambda: run([(batch()[0], torch.zeros(52, 3))]),
        "or probabilities of shape [52, 4], got torch.float32 of shape [52, 3]",
    ),
    "a model without logits": (
        lambda: run([(batch()[0].view(52, 1, 12), batch()[1])]),
        "logits of shape [batch, classes], got shape (52, 1, 4)",
    ),
    "a monitor that nobody measures": (
        lambda: run([batch()], evaluate=lambda _: {"accuracy": 1.0}, config=LoopConfig(epochs=1, monitor="acuracy")),
        "(accuracy), got 'acuracy'; did you mean 'accuracy'?",
    ),
    "hooks with one name": (lambda: run([batch()], hooks=[CyclingBits(), CyclingBits()]), "state_key 'CyclingBits'"),
    "no parameters": (lambda: build_optimizer(nn.ReLU(), OptimizerConfig()), "no trainable parameters"),
    "nesterov alone": (
        lambda: build_optimizer(nn.Linear(1, 1), OptimizerConfig(momentum=0.0, nesterov=True)),
        "nesterov needs a momentum above 0",
    ),
    "another optimizer's state": (
        lambda: build_optimizer(
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), OptimizerConfig(optimizer="muon")
        ).load_state_dict({"state": {}, "param_groups": []}),
        "expected the state of 2 combined optimizers",
    ),
    "a warm-up without a run": (
        lambda: learning_rate_factor(LearningRateConfig(warmup_steps=10), 10),
        "warmup_steps must be below the run's 10 steps, got 10",
    ),
    "a rate that is no number": (
        lambda: run([batch()], learning_rate=lambda step: float("nan")),
        "the learning rate of step 1 must be a finite number, got nan",
    ),
    "a rate without end": (
        lambda: run([batch()] * 3, learning_rate=lambda step: 1.0 if step < 2 else float("inf")),
        "the learning rate of step 3 must be a finite number, got inf",
    ),
    "an optimizer that asks for the loss itself": (
        lambda: fit(
            make_fabric(accelerator="cpu"),
            nn.Linear(12, 4),
            torch.optim.LBFGS(nn.Linear(12, 4).parameters()),
            Classification(),
            [batch()],
            LoopConfig(epochs=1),
        ),
        "optimizer must step on one gradient, got LBFGS",
    ),
    "one that went through a run": (lambda: asking_again(), "optimizer must step on one gradient, got LBFGS"),
    "labels in a list": (lambda: run([(batch()[0], batch()[1].tolist())]), "must be a tensor, got list"),
    "a milestone before the run": (
        lambda: learning_rate_factor(LearningRateConfig(scheduler="step", milestones=(-1,)), 10),
        "milestones must be 0 or more, got [-1.0]",
    ),
    "a run of no steps": (lambda: learning_rate_factor(LearningRateConfig(), 0), "at least 1 step, got 0"),
    "too much smoothing": (lambda: Classification(label_smoothing=1.0), "label_smoothing must be in [0, 1), got 1.0"),
    "no temperature": (lambda: Distillation(Classification(), nn.ReLU(), temperature=0.0), "above 0, got 0.0"),
    "alpha in percent": (
        lambda: Distillation(Classification(), nn.ReLU(), alpha=50),
        "alpha must be in [0, 1], got 50",
    ),
    "a teacher of other classes": (
        lambda: Distillation(Classification(), nn.Linear(12, 9)).loss(nn.Linear(12, 4), batch()),
        "logits of shape [52, 9] and [52, 4]",
    ),
    "no patience": (lambda: EarlyStopping(patience=0), "whole number of at least 1, got 0"),
    "a mode that is none": (lambda: EarlyStopping(mode="most"), "'max' or 'min', got 'most'"),
    "an endless average": (lambda: WeightAverage(nn.Linear(1, 1), 1.0), "must be in [0, 1), got 1.0"),
    "a seed with a point": (lambda: seed_everything(1.5), "whole number in [0, 2**32), got 1.5"),
    "a random state of another kind": (lambda: restore_random_state({}), "made by random_state(), got one that lacks"),
    "no devices": (lambda: make_fabric(devices=0), "devices must be at least 1, got 0"),
    "too many devices": (lambda: make_fabric(devices=4096, accelerator="cpu"), "4096 devices were asked for, but this"),
    "devices in words": (lambda: make_fabric(devices="two"), "a list of indices or 'auto', got 'two'"),
    "cores by index": (lambda: make_fabric(devices=[0, 1], accelerator="cpu"), "torch finds no GPU here"),
    "no nodes": (lambda: make_fabric(num_nodes=0), "num_nodes must be a whole number of at least 1, got 0"),
    "a strategy misspelt": (lambda: make_fabric(strategy="dpp"), "did you mean 'ddp'?"),
    "another strategy misspelt": (lambda: make_fabric(strategy="fsdp2"), "did you mean 'fsdp'?"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence(name: str) -> None:
    act, sentence = MISTAKES[name]
    with pytest.raises(BitdialError, match=re.escape(sentence)) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 0},
        {"epochs": 1, "gradient_accumulation_steps": 0},
        {"epochs": 1, "max_grad_norm": 0.0},
        {"epochs": 1, "log_intervall": 5},
        {"epochs": 1, "monitor_mode": "best"},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoopConfig(**settings)


def test_one_loader_for_two_processes() -> None:
    loader = DataLoader(TensorDataset(*task_data()), batch_size=4)
    with pytest.raises(BitdialError, match="2 processes would all see the same batches"):
        BatchStream(loader, 1, world_size=2)


def test_a_gpu_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BitdialError, match="accelerator cuda was asked for, but torch finds none"):
        make_fabric(accelerator="cuda")


def test_a_saver_that_fails_is_heard(tmp_path: Path) -> None:
    class Full:
        def save_checkpoint(self, *parts: Any, **more: Any) -> Path:
            raise BitdialError("the disk is full")

    with pytest.raises(BitdialError, match="the disk is full"):
        run([task_data()], checkpoints=Full())


def test_a_hook_without_state_may_come_twice() -> None:
    run([task_data()], hooks=[Hook(), Hook()])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    "settings",
    [
        lambda value: LearningRateConfig(milestones=[0.5, value]),
        lambda value: LearningRateConfig(final_factor=value),
        lambda value: LearningRateConfig(decay=value),
        lambda value: OptimizerConfig(learning_rate=value),
        lambda value: OptimizerConfig(weight_decay=value),
        lambda value: OptimizerConfig(betas=(0.9, value)),
        lambda value: CyclicPrecisionConfig(lr_scale_factors={2: value}),
    ],
)
def test_numbers_that_are_not_finite(settings: Callable[[float], Any], value: float) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(value)
    assert caught.value.error_count() == 1


def test_a_norm_without_end_is_one_that_is_only_measured() -> None:
    assert LoopConfig(epochs=1, max_grad_norm=math.inf).max_grad_norm == math.inf
    with pytest.raises(ValidationError):
        LoopConfig(epochs=1, max_grad_norm=math.nan)
