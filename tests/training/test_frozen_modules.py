"""A module that is in evaluation mode in a model that trains was frozen by somebody, and stays so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitdial
from bitdial.evaluation import sweep
from bitdial.evaluation.range_test import PrecisionRangeTest
from bitdial.layers import reestimate_batch_norm
from bitdial.training import Classification, Distillation, Hook, LoopConfig, StepResult, TrainingState, fit, make_fabric
from bitdial.training.mixed_precision import MixedPrecisionConfig, train_with_mixed_precision
from tests.training.running import Jumping, task_data


class Keeps(nn.BatchNorm1d):
    """Stays in evaluation mode, as its own `train` has it."""

    def train(self, mode: bool = True) -> Keeps:
        return super().train(False)


def net(norm: type[nn.BatchNorm1d] = nn.BatchNorm1d) -> nn.Sequential:
    """Backbone and head, a norm in each; the backbone is frozen."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).eval()
    return nn.Sequential(backbone, nn.ReLU(), nn.Linear(8, 8), norm(8), nn.Linear(8, 4))


def statistics(norm: Any) -> Tensor:
    return norm.running_mean.clone()


class Modes(Hook):
    """Which modules were in training mode after each step."""

    def __init__(self) -> None:
        self.seen: set[tuple[bool, ...]] = set()

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        self.seen.add(tuple(module.training for module in state.model.modules()))


def by_loop(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(make_fabric(), model, optimizer, Classification(), Jumping(), LoopConfig(epochs=2))


def by_hand(model: nn.Module) -> None:
    config = MixedPrecisionConfig(enabled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_with_mixed_precision(model, list(Jumping()), optimizer, nn.CrossEntropyLoss(), 2, config)


def by_hand_wrapped(model: nn.Module) -> None:
    by_hand(nn.DataParallel(model))


@pytest.mark.parametrize("train", [by_loop, by_hand, by_hand_wrapped])
def test_training_leaves_them(train: Callable[[nn.Module], None]) -> None:
    model = net()
    modes = [module.training for module in model.modules()]
    frozen, free = statistics(model[0][1]), statistics(model[3])
    train(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(statistics(model[0][1]), frozen)
    assert not torch.equal(statistics(model[3]), free)


@pytest.mark.parametrize("train", [by_loop, by_hand, by_hand_wrapped])
def test_a_model_that_was_merely_evaluated_is_trained_as_a_whole(train: Callable[[nn.Module], None]) -> None:
    model = net().eval()
    before = statistics(model[0][1])
    train(model)
    assert all(module.training for module in model.modules())
    assert not torch.equal(statistics(model[0][1]), before)


def test_a_model_that_freezes_parts_by_itself() -> None:
    model = net(Keeps)
    before = statistics(model[3])
    by_loop(model)
    assert torch.equal(statistics(model[3]), before)


def test_after_evaluation_rounds_and_in_the_weight_average(caplog: pytest.LogCaptureFixture) -> None:
    inputs, labels = task_data()

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not any(module.training for module in model.modules())
        found = model(inputs).argmax(dim=1)
        model.train()  # as people do at the end of a function of theirs
        return {"accuracy": float((found == labels).float().mean())}

    model, modes = net(), Modes()
    frozen = statistics(model[0][1])
    config = LoopConfig(epochs=2, eval_interval=1, ema_decay=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = fit(make_fabric(), model, optimizer, Classification(), Jumping(), config, evaluate=evaluate, hooks=[modes])
    assert modes.seen == {tuple(module.training for module in net().modules())}
    average: Any = state.evaluated_model
    assert torch.equal(statistics(average[0][1]), frozen)
    assert [record.message for record in caplog.records] == [
        "in evaluation mode before training, and so left in it: '0', '0.0', '0.1', ..."
    ]


def quantized() -> nn.Sequential:
    model = net()
    bitdial.quantize(model, weights=4, activations=4)
    return model


def test_reestimated_statistics_are_not_theirs() -> None:
    model = quantized()
    frozen, free = statistics(model[0][1]), statistics(model[3])
    reestimate_batch_norm(model, Jumping(), limit=3)
    assert torch.equal(statistics(model[0][1]), frozen)
    assert not torch.equal(statistics(model[3]), free)
    reestimate_batch_norm(model.eval(), Jumping(), limit=3)
    assert not torch.equal(statistics(model[0][1]), frozen)


@pytest.mark.parametrize("measure", [lambda m: sweep(m, Jumping(), bits=(2, 4)), lambda m: ranged(m)])
def test_nor_are_they_touched_while_something_is_measured(measure: Callable[[nn.Module], Any]) -> None:
    """Seen from within: everything is put back afterwards in any case."""
    model, seen = quantized(), []
    frozen = statistics(model[0][1])
    model[1].register_forward_hook(lambda *_: seen.append(statistics(model[0][1])))
    measure(model)
    assert seen
    assert all(torch.equal(each, frozen) for each in seen)


def ranged(model: nn.Module) -> None:
    PrecisionRangeTest(model, Jumping(), bits=(2, 4), iterations=3).run()


def test_a_teacher_that_shares_modules_with_the_student() -> None:
    """It is evaluated, and what both have trains on in the student; a part left in training mode is evaluated too."""
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8))
    student, teacher = nn.Sequential(shared, nn.Linear(8, 4)), nn.Sequential(shared, nn.Dropout(), nn.Linear(8, 4))
    teacher.eval()
    shared.train()
    modes, seen = Modes(), []
    teacher[1].register_forward_pre_hook(lambda *_: seen.append([m.training for m in teacher.modules()]))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    task = Distillation(Classification(), teacher)
    fit(make_fabric(), student, optimizer, task, Jumping(), LoopConfig(steps=3), hooks=[modes])
    assert seen == [[False] * 6] * 3
    assert modes.seen == {(True,) * 5}
    assert [module.training for module in teacher.modules()] == [False, True, True, True, False, False]
