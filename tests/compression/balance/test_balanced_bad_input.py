"""Every mistake with an optimizer of several losses is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.compression import BalancedOptimizer, CautiousAdam, QuadraticBalance, TaskWeights
from bitdial.errors import BitdialError
from tests.compression.balance.toys import bowls

WEIGHTS, LOSSES = bowls()
SGD = torch.optim.SGD([WEIGHTS], lr=0.1)
CASES: list[tuple[Callable[[], Any], str]] = [
    (lambda: BalancedOptimizer([WEIGHTS]), "optimizer must be a torch optimizer, got list; pass for example"),
    (lambda: BalancedOptimizer(torch.optim.LBFGS([WEIGHTS])), "must step on one gradient, got LBFGS, whose step eval"),
    (lambda: BalancedOptimizer(BalancedOptimizer(SGD)), "must step on one gradient, got BalancedOptimizer"),
    (lambda: BalancedOptimizer(SGD, num_tasks=1), "num_tasks must be a whole number of at least 2, got 1"),
    (lambda: BalancedOptimizer(SGD, gamma=-0.1), "gamma must be a finite number of at least 0, got -0.1"),
    (lambda: BalancedOptimizer(SGD, gamma="big"), "gamma must be a finite number of at least 0, got 'big'"),
    (lambda: BalancedOptimizer(SGD, gamma=[0.1] * 3), "gamma must be one for each of the 2 tasks, got 3"),
    (lambda: BalancedOptimizer(SGD, gamma=[0.1, -1]), r"gamma\[1\] must be a finite number of at least 0, got -1"),
    (lambda: BalancedOptimizer(SGD, w_lr=0), "w_lr must be above 0, got 0; .025 is usual"),
    (lambda: BalancedOptimizer(SGD, min_losses=[0]), "min_losses must be one for each of the 2 tasks, got 1"),
    (lambda: BalancedOptimizer(SGD, min_losses=0), r"min_losses must be a list, got 0; write \[-1.0, -1.0\]"),
    (lambda: BalancedOptimizer(SGD, max_norm=0), "max_norm must be above 0, got 0; None is for no clipping"),
    (lambda: BalancedOptimizer(SGD, max_norm=-1), "max_norm must be a finite number of at least 0, got -1"),
    (lambda: BalancedOptimizer(SGD, warmup_steps=-1), "warmup_steps must be a whole number of at least 0, got -1"),
    (lambda: BalancedOptimizer(SGD, second_forward_every=0), "second_forward_every must be a whole number of at least"),
    (lambda: BalancedOptimizer(SGD).step(LOSSES()), "step takes a function that returns the losses, got Tensor"),
    (lambda: BalancedOptimizer(SGD).step(lambda: LOSSES().sum()), r"shape \[2\], got torch.float64 of shape \[\]"),
    (lambda: BalancedOptimizer(SGD).step(lambda: list(LOSSES())), r"of shape \[2\], got list; torch.stack them"),
    (lambda: BalancedOptimizer(SGD).step(lambda: torch.tensor([1, 2])), r"got torch.int64 of shape \[2\]"),
    (lambda: BalancedOptimizer(SGD).step(lambda: LOSSES().detach()), "must depend on the model's weights, got some wi"),
    (lambda: BalancedOptimizer(SGD).step(lambda: nn.Linear(2, 2)(torch.ones(2)) + 9), "no parameter of the optimizer"),
    (
        lambda: BalancedOptimizer(SGD).step(lambda: LOSSES() - torch.tensor([0, 9.5])),
        "every loss must be above its min",
    ),
    (
        lambda: BalancedOptimizer(SGD).load_state_dict(SGD.state_dict()),
        "expected the state of BalancedOptimizer, got o",
    ),
    (lambda: QuadraticBalance(SGD, 9), "num_tasks must be at most 8 here, got 9; take BalancedOptimizer"),
    (lambda: QuadraticBalance(SGD, ridge=0), "ridge must be above 0, got 0; 1e-8 is enough"),
    (lambda: QuadraticBalance(SGD).step(lambda: LOSSES() - 2), "every loss must be above 0 here, got"),
    (lambda: CautiousAdam([WEIGHTS], lr=-1), "lr must be a finite number of at least 0, got -1"),
    (lambda: CautiousAdam([WEIGHTS], betas=(0.9, 1.0)), r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
    (lambda: CautiousAdam([WEIGHTS], betas=0.9), "betas must be a list, got 0.9"),
]


@pytest.mark.parametrize(("mistake", "sentence"), CASES)
def test_one_sentence(mistake: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(BitdialError, match=sentence) as error:
        mistake()
    assert "\n" not in str(error.value)


def test_the_sentence_of_a_loss_below_its_bound_says_which() -> None:
    with pytest.raises(BitdialError) as error:
        TaskWeights(3).p(torch.tensor([1.0, 2.0, -1.5], dtype=torch.float64))
    assert str(error.value) == (
        "every loss must be above its min_losses, got loss -1.5 of task 2 with min_losses -1; give a lower bound that "
        "the loss cannot reach"
    )


def test_a_loss_that_falls_below_its_bound_by_the_step_is_refused_too() -> None:
    weights, losses = bowls()
    optimizer = BalancedOptimizer(torch.optim.SGD([weights], lr=0.1))
    with pytest.raises(BitdialError, match="every loss must be above its min_losses"):
        optimizer.step(lambda: losses() if torch.is_grad_enabled() else losses() - 9)


def test_states_that_do_not_fit() -> None:
    weights, losses = bowls()
    two = BalancedOptimizer(torch.optim.Adam([weights], lr=0.1))
    two.step(losses)
    three = BalancedOptimizer(torch.optim.Adam([weights], lr=0.1), num_tasks=3)
    with pytest.raises(BitdialError, match="expected the weights of 3 tasks, got those of 2; resume with the losses"):
        three.load_state_dict(two.state_dict())
    other = BalancedOptimizer(torch.optim.Adam([weights, torch.zeros(1, requires_grad=True)], lr=0.1))
    with pytest.raises(BitdialError, match="parameter group"):
        other.load_state_dict(two.state_dict())
