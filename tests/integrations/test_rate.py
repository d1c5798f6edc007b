"""The learning rate is scaled within a step, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.integrations.cycling import StepRate


def optimizer(rate: float | torch.Tensor = 0.1) -> torch.optim.SGD:
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    return torch.optim.SGD([parameter], rate)  # type: ignore[arg-type]


def value(of: torch.optim.Optimizer) -> float:
    return float(of.param_groups[0]["params"][0].detach())


def test_scales_the_step_and_puts_the_exact_rate_back() -> None:
    sgd = optimizer(0.1)
    StepRate([sgd], lambda: 0.3)
    sgd.step()
    assert value(sgd) == pytest.approx(1 - 0.03)
    assert sgd.param_groups[0]["lr"] == 0.1
    assert set(sgd.state_dict()["param_groups"][0]) == set(optimizer().state_dict()["param_groups"][0])


def test_two_multiply_and_still_put_the_rate_back() -> None:
    sgd = optimizer()
    StepRate([sgd], lambda: 0.5)
    StepRate([sgd], lambda: 0.2)
    sgd.step()
    assert value(sgd) == pytest.approx(1 - 0.01)
    assert sgd.param_groups[0]["lr"] == 0.1


def test_tensor_rates_keep_their_identity() -> None:
    rate = torch.tensor(0.1)
    sgd = optimizer(rate)
    StepRate([sgd], lambda: 0.5)
    sgd.step()
    assert value(sgd) == pytest.approx(0.95)
    assert sgd.param_groups[0]["lr"] is rate
    assert torch.equal(rate, torch.tensor(0.1))


def test_multiplicative_scheduler_does_not_see_the_factor() -> None:
    sgd = optimizer(1.0)
    StepRate([sgd], lambda: 0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.5)
    for _ in range(3):
        sgd.step()
        scheduler.step()
    assert sgd.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("again", [True, False])
def test_a_step_that_raises_leaves_no_scaled_rate_for_long(again: bool) -> None:
    sgd = optimizer()
    rate = StepRate([sgd], lambda: 0.5)

    def fail() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sgd.step(fail)
    if again:
        StepRate([sgd], lambda: 1.0)
    else:
        rate.detach()
    assert sgd.param_groups[0]["lr"] == 0.1


def test_detached_it_scales_no_more() -> None:
    sgd = optimizer()
    StepRate([sgd], lambda: 0.5).detach()
    sgd.step()
    assert value(sgd) == pytest.approx(0.9)


def test_refuses_what_is_no_torch_optimizer() -> None:
    with pytest.raises(BitdialError, match=r"must have a torch optimizer.*got object.*adjust_lr_with_bits=False"):
        StepRate([object()], lambda: 1.0)
