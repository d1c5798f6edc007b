"""Cautious Adam against steps by hand, and against Adam where it has nothing to be cautious of."""

from __future__ import annotations

import pytest
import torch

from bitdial.compression import CautiousAdam
from bitdial.errors import BitdialError
from tests.compression.balance.toys import written_and_read


def test_steps_by_hand() -> None:
    gradients = [[1.0, 1.0, 1.0, -1.0], [1.0, -0.01, -2.0, -1.0]]
    weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = CautiousAdam([weights], lr=0.1, betas=(0.5, 0.75), eps=0.0)
    moved = []
    for gradient in gradients:
        before = weights.detach().clone()
        weights.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        moved.append((weights.detach() - before).tolist())
    assert moved[0] == pytest.approx([-0.1, -0.1, -0.1, 0.1])  # first step: momentum is the gradient
    # Momentum after two: (.75, .245, -.75, -.75) / .75; its signs against the gradients': all agree but the second.
    # Mean squares: (.4375, ., 1.1875, .4375) / .4375. Three of four are left, so that each is 4/3 as large.
    expected = [-0.1 * 4 / 3, 0.0, 0.1 * 4 / 3 / (1.1875 / 0.4375) ** 0.5, 0.1 * 4 / 3]
    assert moved[1] == pytest.approx(expected)


def test_the_factor_on_what_is_left_is_at_most_10() -> None:
    weights = torch.zeros(100, dtype=torch.float64, requires_grad=True)
    optimizer = CautiousAdam([weights], lr=0.1, betas=(0.5, 0.5), eps=0.0)
    weights.grad = torch.ones(100, dtype=torch.float64)
    optimizer.step()
    before = weights.detach().clone()
    weights.grad = torch.full((100,), -0.5, dtype=torch.float64)  # momentum stays above 0 ...
    weights.grad[7] = 1.0  # ... and agrees in one place alone
    optimizer.step()
    moved = weights.detach() - before
    assert moved.count_nonzero() == 1
    assert float(moved[7]) == pytest.approx(-0.1 * 10)


def test_nothing_moves_where_all_disagree() -> None:
    weights = torch.zeros(3, requires_grad=True)
    optimizer = CautiousAdam([weights], lr=0.1)
    for gradient in (1.0, -0.1):
        before = weights.detach().clone()
        weights.grad = torch.full((3,), gradient)
        optimizer.step()
    assert torch.equal(weights, before)


def test_it_is_adamw_while_all_agree() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(2, 5, 3)
    pair = [start.clone().requires_grad_() for _ in range(2)]
    options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    cautious, adamw = CautiousAdam([pair[0]], **options), torch.optim.AdamW([pair[1]], **options)
    for step in range(5):
        for weights, optimizer in zip(pair, (cautious, adamw), strict=True):
            weights.grad = gradient * (1 + step)
            optimizer.step()
    torch.testing.assert_close(pair[0], pair[1], rtol=1e-6, atol=1e-7)


def test_resume_is_exact() -> None:
    torch.manual_seed(0)
    first, second = (torch.zeros(9, requires_grad=True) for _ in range(2))
    one, other = CautiousAdam([first]), CautiousAdam([second])
    for _ in range(3):
        first.grad = torch.randn(9)
        one.step()
    second.data.copy_(first.data)
    other.load_state_dict(written_and_read(one.state_dict()))
    first.grad = second.grad = torch.randn(9)
    assert one.step(lambda: 7) == 7
    other.step()
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("gradient", "what"),
    [(torch.eye(2).to_sparse(), "a sparse gradient"), (torch.eye(2, dtype=torch.complex64), "complex weights")],
)
def test_what_it_cannot_do_is_said(gradient: torch.Tensor, what: str) -> None:
    weights = torch.zeros(2, 2, dtype=gradient.dtype, requires_grad=True)
    weights.grad = gradient
    with pytest.raises(BitdialError, match=f"dense gradients of real weights, got {what}; take torch.optim.Adam"):
        CautiousAdam([weights]).step()
