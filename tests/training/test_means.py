"""A mean over batches, steps and processes is one over all that was counted in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitdial
from bitdial.evaluation.range_test import PrecisionRangeTest
from bitdial.evaluation.sweep import evaluate
from bitdial.training import Classification, CsvLog, Distillation, LoopConfig, MetricsLog, fit, make_fabric
from bitdial.training.mixed_precision import MixedPrecisionConfig, train_with_mixed_precision
from bitdial.training.recorder import StepRecorder

RIGHT, WRONG, OUT = 0, 1, -100


class Certain(nn.Module):
    """Says class 0 whatever it sees; its weight, at a rate of 0, moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0], [0.0], [0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


def batch(*labels: int) -> tuple[Tensor, Tensor]:
    return torch.ones(len(labels), 1), torch.tensor(labels)


UNEQUAL = [batch(*[RIGHT] * 8), batch(WRONG, WRONG)]
LEFT_OUT = [batch(*[RIGHT] * 4, OUT, OUT), batch(WRONG, OUT, OUT, OUT, OUT, OUT), batch(OUT, OUT, OUT)]
SCORES = [(UNEQUAL, 0.8), (LEFT_OUT, 0.8)]


def loss_of(share: float) -> float:
    """Cross-entropy where that share of the labels is right."""
    total = math.log(math.e + 2)
    return share * (total - 1) + (1 - share) * total


def still(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.0)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("batches", "right"), SCORES)
def test_an_epoch(tmp_path: Path, batches: list[Any], right: float, accumulation: int) -> None:
    model = Certain()
    config = LoopConfig(epochs=2, gradient_accumulation_steps=accumulation, log_interval=50)
    with MetricsLog(tmp_path, tensorboard=False) as log:
        fit(make_fabric(accelerator="cpu"), model, still(model), Classification(), batches, config, log=log)
    rows = CsvLog(tmp_path / "metrics.csv").rows()
    assert len(rows) == 2
    for row in rows:
        for name in ("train_accuracy", "train_accuracy_epoch"):
            assert float(row[name]) == pytest.approx(right)
        assert float(row["train_loss_epoch"]) == pytest.approx(loss_of(right))


def test_parts_of_a_distillation(tmp_path: Path) -> None:
    """The distance to the teacher, too: 0 at labels that are left out, and in no mean."""
    torch.manual_seed(0)
    inputs, teacher, model = torch.randn(6, 1), nn.Linear(1, 3), Certain()
    labels = torch.tensor([0, 1, OUT, 2, OUT, 0])
    task, counted = Distillation(Classification(), teacher, 0.5, 1.0), labels != OUT
    whole = task.loss(model, (inputs[counted], labels[counted]))
    batches = [(inputs[:4], labels[:4]), (inputs[4:], labels[4:])]
    with MetricsLog(tmp_path, tensorboard=False) as log:
        fit(make_fabric(accelerator="cpu"), model, still(model), task, batches, LoopConfig(epochs=1), log=log)
    (row,) = CsvLog(tmp_path / "metrics.csv").rows()
    for name in ("distillation_loss", "task_loss"):
        assert float(row[f"train_{name}_epoch"]) == pytest.approx(float(whole.metrics[name]), rel=1e-5)


@pytest.mark.parametrize(("batches", "right"), SCORES)
def test_an_evaluation(batches: list[Any], right: float) -> None:
    scores = evaluate(Certain(), batches)
    assert scores == pytest.approx({"loss": loss_of(right), "accuracy": right})


@pytest.mark.parametrize(("batches", "right"), SCORES)
def test_a_training_in_one_call(batches: list[Any], right: float) -> None:
    model = Certain()
    for criterion in (nn.CrossEntropyLoss(), nn.functional.cross_entropy):
        config = MixedPrecisionConfig(enabled=False)
        result = train_with_mixed_precision(model, batches, still(model), criterion, 1, config)
        assert result["final_loss"] == pytest.approx(loss_of(right))


@pytest.mark.parametrize(("batches", "right"), SCORES)
def test_a_range_test(batches: list[Any], right: float) -> None:
    """Its rows are means over quarters of the iterations, here of one round through the loader each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 3))
    bitdial.quantize(model, weights=8, activations=8, skip=())
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    iterations = 4 * len(batches)
    test = PrecisionRangeTest(model, batches, still(model), bits=(8,), iterations=iterations)
    (row,) = test.run().rows
    assert row.accuracy == pytest.approx(right)
    assert row.first_loss == pytest.approx(loss_of(right))


class Two:
    """What the recorder asks of Fabric; the other process has 8 right ones of 8 in each step, and a norm of 6."""

    world_size = 2

    def all_reduce(self, mine: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        return mine + torch.tensor([[8.0 * 1.0, 6.0] * 2, [8.0, 1.0] * 2])


def test_several_processes() -> None:
    """Weighted by what each counted; one with nothing to count may have no number. The norm is everybody's alike."""
    recorder = StepRecorder()
    for step, (accuracy, count) in enumerate([(0.0, 2), (torch.nan, torch.tensor(0))], 1):
        recorder.add(step, 0.1, {}, {"accuracy": torch.tensor(accuracy), "gradient_norm": torch.tensor(8.0)}, count)
    recorder.flush(Two())
    assert [row["accuracy"] for row in recorder.window] == [(pytest.approx(0.8), 10.0), (1.0, 8.0)]
    assert [row["gradient_norm"] for row in recorder.window] == [(7.0, 2.0)] * 2
    assert recorder.take_window()["accuracy"] == pytest.approx(16 / 18)


def test_a_checkpoint_from_before_there_were_counts() -> None:
    recorder = StepRecorder()
    state = {"history": {"step": torch.tensor([1.0])}, "window": [{"loss": 2.0}], "epoch": {"loss": [6.0, 2]}}
    recorder.load_state_dict(state)
    assert recorder.take_window() == {"loss": 2.0}
    assert recorder.take_epoch() == {"loss": pytest.approx(8 / 3)}
    recorder.load_state_dict(StepRecorder().state_dict())
