"""The quadratic program's weights: by hand, both forms, parallel gradients, steps that are not finite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitdial.compression import QuadraticBalance, quadratic_weights
from tests.compression.balance.toys import bowls, noisy_losses, noisy_network, written_and_read


def products(*gradients: list[float]) -> Tensor:
    v = torch.tensor(gradients, dtype=torch.float64)
    return v @ v.T


@pytest.mark.parametrize("simplex", [True, False])
def test_a_step_by_hand(simplex: bool) -> None:
    weights, losses = bowls()
    optimizer = QuadraticBalance(torch.optim.SGD([weights], lr=1.0), simplex=simplex, ridge=1e-14, max_norm=None)
    assert optimizer.step(losses).tolist() == [1, 2.125]
    torch.testing.assert_close(optimizer.w.tolist(), [0.4473342002600781, 0.552665799739922], rtol=1e-12, atol=0)
    torch.testing.assert_close(optimizer.p.tolist(), [0.6323529411764706, 0.3676470588235294], rtol=1e-12, atol=0)
    direction = torch.tensor([1, -0.5], dtype=torch.float64) - weights.detach()
    torch.testing.assert_close(direction.tolist(), [0.8382352941, -1.0808823529], rtol=1e-9, atol=0)


def test_the_simplex_keeps_weights_from_0_up() -> None:
    q = products([1, 0], [3, 0.5])
    torch.testing.assert_close(quadratic_weights(q, simplex=False).tolist(), [1.4705882353, -0.4705882353])
    assert quadratic_weights(q).tolist() == [1, 0]


def test_parallel_gradients_have_weights_too() -> None:
    for simplex in (True, False):
        same = quadratic_weights(products([1, 2], [1, 2]), simplex=simplex)
        torch.testing.assert_close(same.tolist(), [0.5, 0.5], rtol=1e-6, atol=0)
        assert bool(quadratic_weights(torch.zeros(2, 2, dtype=torch.float64), simplex=simplex).isfinite().all())
    assert quadratic_weights(products([1, 2], [2, 4])).tolist() == [1, 0]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4), st.integers(0, 10**6))
def test_on_the_simplex_no_other_weights_are_better_and_no_loss_rises(tasks: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    v = torch.randn(tasks, 3, generator=draw, dtype=torch.float64) + 0.5
    w = quadratic_weights(v @ v.T)
    assert float(w.sum()) == pytest.approx(1)
    others = torch.rand(200, tasks, generator=draw, dtype=torch.float64) ** 3
    others = others / others.sum(1, keepdim=True)
    least = float((w @ v).square().sum())
    assert least <= float((others @ v).square().sum(1).min()) + 1e-7
    assert bool((v @ (w @ v) >= -1e-6).all())  # along the direction every loss falls, or stays


def test_a_published_weight_that_is_no_average_skips_the_step() -> None:
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = QuadraticBalance(torch.optim.SGD([weights], lr=0.1), simplex=False)
    # w = (1.47, -.47), but p = w / L has a negative sum where the second loss is much smaller
    optimizer.step(lambda: torch.stack([10 + 10 * weights[0], 0.1 + 0.3 * weights[0] + 0.05 * weights[1]]))
    assert (optimizer.steps, optimizer.skipped_steps, weights.tolist()) == (0, 1, [0, 0])


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(where: str) -> None:
    weights, losses = bowls()
    optimizer = QuadraticBalance(torch.optim.Adam([weights], lr=0.1))
    optimizer.step(losses)
    before, inner = weights.detach().clone(), str(optimizer.optimizer.state_dict())
    nan = torch.tensor([1.0, float("nan")])
    optimizer.step(lambda: losses() * nan if where == "loss" else losses() + (0 * weights).sum().sqrt())
    assert torch.equal(weights, before)
    assert str(optimizer.optimizer.state_dict()) == inner
    assert (optimizer.steps, optimizer.skipped_steps) == (1, 1)


def test_weights_that_one_loss_does_not_depend_on_and_clipping() -> None:
    first, second = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = QuadraticBalance(torch.optim.SGD([first, second], lr=1.0))
    with torch.no_grad():  # whatever the caller's mode
        optimizer.step(lambda: torch.stack([100 * first.sum(), 200 * second.sum()]))
    # v is (1/2, 1/2, 0, 0) and (0, 0, 1/2, 1/2), w a half each, p (2/3, 1/3): the direction is alike everywhere
    torch.testing.assert_close(1 - torch.cat([first, second]).detach(), torch.full((4,), 0.5))


def test_resume_is_exact() -> None:
    model, other = noisy_network(), noisy_network()
    optimizer, again = (
        QuadraticBalance(torch.optim.AdamW(each.parameters(), lr=0.01), num_tasks=3) for each in (model, other)
    )
    for step in range(2):
        optimizer.step(noisy_losses(model, step))
    saved = written_and_read([model.state_dict(), optimizer.state_dict()])
    other.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for pair in ((model, optimizer), (other, again)):
        torch.manual_seed(5)
        pair[1].step(noisy_losses(pair[0], 2))
    assert torch.equal(model[0].weight, other[0].weight)
    assert again.steps == 3
