"""Classification and distillation against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bitdial.training import Classification, Distillation, Task


def fixed(logits: torch.Tensor) -> nn.Module:
    """Return a network that says `logits` whatever it is shown."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(logits.clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits

    return Fixed()


LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]])
X = torch.zeros(2, 1)


def test_hard_labels_by_hand() -> None:
    out = Classification().loss(fixed(LOGITS), (X, torch.tensor([0, 2])))
    first = -2.0 + math.log(math.exp(2.0) + 1.0 + math.exp(-1.0))
    second = -0.0 + math.log(math.exp(0.5) + math.exp(1.5) + 1.0)
    assert out.loss.item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert (out.examples, out.metrics["accuracy"].item()) == (2, 0.5)


def test_one_hot_probabilities_are_hard_labels() -> None:
    hard = torch.tensor([0, 2])
    soft = torch.nn.functional.one_hot(hard, 3).float()
    for smoothing in (0.0, 0.2):
        task = Classification(smoothing)
        one, other = task.loss(fixed(LOGITS), (X, hard)), task.loss(fixed(LOGITS), (X, soft))
        torch.testing.assert_close(one.loss, other.loss)
        assert one.metrics["accuracy"] == other.metrics["accuracy"]


def test_a_mixed_label_is_the_mix_of_the_losses() -> None:
    """CutMix and MixUp: cross-entropy is linear in the label."""
    task, share = Classification(), 0.3
    both = [task.loss(fixed(LOGITS), (X, torch.tensor(labels))).loss for labels in ([0, 1], [2, 2])]
    mixed = torch.tensor([[1 - share, 0, share], [0, 1 - share, share]])
    torch.testing.assert_close(task.loss(fixed(LOGITS), (X, mixed)).loss, (1 - share) * both[0] + share * both[1])


def test_a_score_is_plain_cross_entropy_summed() -> None:
    smoothed, plain = Classification(0.2), Classification()
    sums, count = smoothed.score(fixed(LOGITS), (X, torch.tensor([0, 2])))
    mean = plain.loss(fixed(LOGITS), (X, torch.tensor([0, 2]))).loss
    torch.testing.assert_close(sums["loss"], 2 * mean.detach())
    assert (int(sums["accuracy"]), count) == (1, 2)
    assert not sums["loss"].requires_grad


def test_records_with_logits_are_understood() -> None:
    class Record:
        logits = LOGITS

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> Record:
            return Record()

    assert torch.equal(Classification().logits(Model(), (X, X)), LOGITS)


def test_distillation_by_hand() -> None:
    """alpha T^2 KL(teacher || student) + (1 - alpha) CE, the sums written out."""
    teacher_logits, alpha, temperature = torch.tensor([[1.0, 1.0, 0.0], [0.0, 3.0, 1.0]]), 0.7, 3.0
    labels = torch.tensor([0, 2])
    task = Distillation(Classification(), fixed(teacher_logits), alpha, temperature)
    divergence = 0.0
    for s, t in zip(LOGITS.tolist(), teacher_logits.tolist(), strict=True):
        ps = [math.exp(v / temperature) for v in s]
        pt = [math.exp(v / temperature) for v in t]
        ps, pt = [v / sum(ps) for v in ps], [v / sum(pt) for v in pt]
        divergence += sum(q * math.log(q / p) for p, q in zip(ps, pt, strict=True)) / 2
    plain = Classification().loss(fixed(LOGITS), (X, labels)).loss.item()
    out = task.loss(fixed(LOGITS), (X, labels))
    assert out.loss.item() == pytest.approx(alpha * temperature**2 * divergence + (1 - alpha) * plain, rel=1e-5)
    assert out.metrics["task_loss"].item() == pytest.approx(plain)
    assert out.metrics["accuracy"].item() == 0.5


def test_the_teacher_is_only_watched() -> None:
    """No gradients, eval mode, and a teacher that draws random numbers leaves the student's stream alone."""

    class Random(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.rand(2, 3)

    teacher = nn.Sequential(nn.Dropout(0.5), Random(1, 3)).train()
    student = nn.Linear(1, 3)
    before = torch.get_rng_state()
    Distillation(Classification(), teacher, 0.5).loss(student, (torch.ones(2, 1), torch.tensor([0, 2]))).loss.backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert teacher.training, "left as it was: it may share modules with the student"
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert student.weight.grad is not None


def test_a_perfect_student_has_nothing_to_learn() -> None:
    student = fixed(LOGITS)
    out = Distillation(Classification(), fixed(LOGITS), alpha=1.0).loss(student, (X, torch.tensor([0, 2])))
    out.loss.backward()
    assert out.loss.item() == pytest.approx(0.0, abs=1e-6)
    assert student.logits.grad.abs().max() < 1e-6


def test_both_are_tasks() -> None:
    assert isinstance(Classification(), Task)
    assert isinstance(Distillation(Classification(), nn.ReLU()), Task)
