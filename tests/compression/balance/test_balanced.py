"""Balanced steps: by hand, over a resume, over steps that are not finite, and what the second forward leaves alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from bitdial.compression import BalancedOptimizer, TaskWeights
from bitdial.training.recorder import TrainingDiverged
from tests.compression.balance.toys import balanced, bowls, noisy_losses, noisy_network, written_and_read

PLAIN = [
    ([1.0, 2.125], 0.6097560971326591, [0.9048780485663296, -0.3975609757168352], 0.0249999833306677),
    (
        [0.915755503081789, 1.8190749545440432],
        0.6073762561534946,
        [0.8292825127946059, -0.3246265234227157],
        0.0500303944765438,
    ),
    (
        [0.8960544768432939, 1.603483638485915],
        0.6027977316599258,
        [0.7680959392940981, -0.2731788583276933],
        0.0750935225871729,
    ),
]
CLIPPED = [
    ([0.9319549386185774, -0.4267207033692788], 0.0249999755873657),
    ([0.8625141265521004, -0.3547626870631317], 0.0499381418981061),
    ([0.7976976789051684, -0.2932077516750419], 0.0749249081556852),
]


def by_sgd(weights: Tensor, **options: Any) -> BalancedOptimizer:
    return BalancedOptimizer(torch.optim.SGD([weights], lr=0.1), **options)


class TestByHand:
    def test_three_steps(self) -> None:
        weights, losses = bowls()
        optimizer = by_sgd(weights, max_norm=None)
        for before, p, after, w in PLAIN:
            torch.testing.assert_close(optimizer.step(losses).tolist(), before, rtol=1e-13, atol=0)
            torch.testing.assert_close(optimizer.p.tolist(), [p, 1 - p], rtol=1e-13, atol=0)
            torch.testing.assert_close(weights.tolist(), after, rtol=1e-13, atol=0)
            torch.testing.assert_close(optimizer.w.tolist(), [w, -w], rtol=1e-12, atol=0)

    def test_three_clipped_steps(self) -> None:
        weights, losses = bowls()
        optimizer = by_sgd(weights)
        for after, w in CLIPPED:
            optimizer.step(losses)
            torch.testing.assert_close(weights.tolist(), after, rtol=1e-13, atol=0)
            torch.testing.assert_close(optimizer.w.tolist(), [w, -w], rtol=1e-12, atol=0)

    def test_a_step_with_lower_bounds_of_zero_moves_w_the_other_way(self) -> None:
        weights, losses = bowls()
        optimizer = by_sgd(weights, max_norm=None, min_losses=[0, 0])
        optimizer.step(losses)
        assert float(optimizer.p[0]) == pytest.approx(0.679999998848, rel=1e-12)
        torch.testing.assert_close(optimizer.w.tolist(), [-0.0249999876, 0.0249999876], rtol=1e-9, atol=0)


def three(weights: Tensor) -> Tensor:
    a, b = weights
    return torch.stack([(a - 2) ** 2, (b + 1) ** 2 + a, torch.exp(a * b)])


def test_three_tasks_follow_the_published_loss() -> None:
    """The reference is written as the paper has it: a loss of logarithms, divided by a constant; J by autograd."""
    gamma, bounds, rate = [0.1, 0.2, 0.4], torch.tensor([-1.0, -2.0, 0.0], dtype=torch.float64), 0.1
    weights, reference = (torch.tensor([1.0, -0.5], dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = by_sgd(weights, num_tasks=3, gamma=gamma, min_losses=bounds.tolist(), max_norm=None, w_lr=0.05)
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.05)
    for _ in range(4):
        optimizer.step(lambda: three(weights))
        above = three(reference) - bounds + 1e-8
        z = torch.softmax(w, 0).detach()
        loss = (z * above.log()).sum() / (z / above).sum().detach()
        (gradient,) = torch.autograd.grad(loss, reference)
        with torch.no_grad():
            reference -= rate * gradient
            delta = above.log() - (three(reference) - bounds + 1e-8).log()
        (w.grad,) = torch.autograd.grad(torch.softmax(w, 0), w, grad_outputs=delta.detach())
        w.grad += torch.tensor(gamma, dtype=torch.float64) * w.detach()
        adam.step()
        torch.testing.assert_close(weights, reference, rtol=1e-12, atol=0)
        torch.testing.assert_close(optimizer.w, w.detach(), rtol=1e-10, atol=0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 1e6)), min_size=2, max_size=6))
def test_weights_sum_to_one(tasks: list[tuple[float, float]]) -> None:
    weights = TaskWeights(len(tasks))
    weights.w.copy_(torch.tensor([w for w, _ in tasks]))
    p = weights.p(torch.tensor([loss for _, loss in tasks], dtype=torch.float64))
    assert float(p.sum()) == pytest.approx(1)
    assert bool((p >= 0).all())


def large(weights: Tensor, scale: float) -> Tensor:
    """Two losses that pull apart, far above 1 all along; `scale` is what lambda is to a codec."""
    return torch.stack([scale * (1e5 + 1e4 * (weights - 2).square().sum()), 1e5 + 1e4 * (weights + 2).square().sum()])


class TestWarmUp:
    def test_it_is_the_plain_sum_and_w_rests(self) -> None:
        (weights, losses), (reference, same) = bowls(), bowls()
        calls: list[None] = []
        optimizer, plain = by_sgd(weights, warmup_steps=2, max_norm=None), torch.optim.SGD([reference], lr=0.1)
        for _ in range(2):
            optimizer.step(lambda: calls.append(None) or losses())  # type: ignore[func-returns-value]
            plain.zero_grad()
            same().sum().backward()
            plain.step()
        assert torch.equal(weights, reference)
        assert (len(calls), optimizer.w.tolist(), optimizer.p.tolist()) == (2, [0, 0], [1, 1])
        optimizer.step(losses)
        assert optimizer.w.tolist() != [0, 0]
        assert float(optimizer.p.sum()) == pytest.approx(1)

    def test_losses_below_their_bound_are_no_matter_yet(self) -> None:
        weights, losses = bowls()
        by_sgd(weights, warmup_steps=1).step(lambda: losses() - 100)

    @pytest.mark.parametrize(("warmup_steps", "apart"), [(0, False), (40, True)])
    def test_lambda_acts_only_with_it_where_losses_are_large(self, warmup_steps: int, apart: bool) -> None:
        ends = []
        for scale in (1.0, 100.0):
            weights = torch.tensor([0.5, 0.5], dtype=torch.float64, requires_grad=True)
            optimizer = BalancedOptimizer(torch.optim.Adam([weights], lr=0.05), warmup_steps=warmup_steps)
            for _ in range(60):
                optimizer.step(lambda w=weights, s=scale: large(w, s))
            ends.append(weights.detach())
        assert (float((ends[0] - ends[1]).abs().max()) > 0.5) is apart
        if not apart:
            torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-3)


class TestSecondForward:
    def draws(self, **options: Any) -> tuple[list[tuple[float, float, float]], tuple[float, float, float]]:
        """What the forward passes of one step draw, and what comes after it."""
        weights, losses = bowls()
        drawn: list[tuple[float, float, float]] = []

        def draw() -> tuple[float, float, float]:
            return float(torch.rand(())), random.random(), float(np.random.rand())

        def noisy() -> Tensor:
            drawn.append(draw())
            return losses()

        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        by_sgd(weights, **options).step(noisy)
        return drawn, draw()

    def test_it_has_the_noise_of_the_first_and_leaves_no_trace_in_the_generators(self) -> None:
        drawn, after = self.draws()
        assert drawn[0] == drawn[1]
        single, after_one_forward = self.draws(warmup_steps=1)
        assert (len(single), single[0]) == (1, drawn[0])
        assert after == after_one_forward

    def test_what_is_drawn_between_the_forwards_is_not_drawn_again(self) -> None:
        weights, losses = bowls()
        optimizer = by_sgd(weights)
        drawn: list[float] = []
        optimizer.optimizer.register_step_pre_hook(lambda *_: drawn.append(float(torch.rand(()))))
        torch.manual_seed(0)
        for _ in range(2):
            optimizer.step(lambda: losses() + 0 * torch.rand(()))
        torch.manual_seed(0)
        _, first, _, second = torch.rand(()), torch.rand(()), torch.rand(()), torch.rand(())
        assert drawn == [first, second]

    def test_fresh_noise_is_an_option(self) -> None:
        drawn, _ = self.draws(same_noise=False)
        assert all(first != second for first, second in zip(*drawn, strict=True))

    def test_the_generators_are_put_back_after_an_error_too(self) -> None:
        weights, losses = bowls()
        calls: list[None] = []

        def failing() -> Tensor:
            torch.rand(())
            calls.append(None)
            if len(calls) == 2:
                raise KeyError("second")
            return losses()

        torch.manual_seed(0)
        with pytest.raises(KeyError):
            by_sgd(weights).step(failing)
        after = torch.rand(())
        torch.manual_seed(0)
        torch.rand(())
        assert after == torch.rand(())

    def test_every_third_step(self) -> None:
        weights, losses = bowls()
        optimizer = by_sgd(weights, second_forward_every=3, warmup_steps=1)
        calls, moved = 0, []

        def counted() -> Tensor:
            nonlocal calls
            calls += 1
            return losses()

        for _ in range(7):
            before = optimizer.w.clone()
            optimizer.step(counted)
            moved.append(not torch.equal(before, optimizer.w))
        assert moved == [False, False, False, True, False, False, True]
        assert (calls, optimizer.second_forwards) == (9, 2)

    def test_it_has_no_graph(self) -> None:
        weights, losses = bowls()
        modes: list[bool] = []
        with torch.no_grad():  # whatever the caller's mode
            by_sgd(weights).step(lambda: modes.append(torch.is_grad_enabled()) or losses())  # type: ignore[func-returns-value]
        assert modes == [True, False]

    def test_buffers_see_each_batch_once_where_the_model_is_given(self) -> None:
        model, single = noisy_network(), noisy_network()
        balanced(model, model=model).step(noisy_losses(model, 0))
        single(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(dict(model.named_buffers()), dict(single.named_buffers()))
        assert int(model[1].num_batches_tracked) == 1

        twice = noisy_network()
        balanced(twice).step(noisy_losses(twice, 0))
        assert int(twice[1].num_batches_tracked) == 2


class TestResume:
    STEPS = 6

    def run(self, model: nn.Module, optimizer: BalancedOptimizer, start: int, end: int) -> Tensor:
        for step in range(start, end):
            optimizer.gamma = 0.003 * (step + 1)
            last = optimizer.step(noisy_losses(model, step))
        return last

    @pytest.mark.parametrize("stop", range(1, STEPS))
    def test_exact_at_any_step(self, stop: int) -> None:
        options = {"warmup_steps": 2, "second_forward_every": 2}
        model = noisy_network()
        optimizer = balanced(model, **options)
        torch.manual_seed(1)
        self.run(model, optimizer, 0, stop)
        saved = written_and_read({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        last = self.run(model, optimizer, stop, self.STEPS)

        resumed = noisy_network()
        again = balanced(resumed, **options)
        random.seed(99)
        torch.manual_seed(99)  # as another process would begin
        resumed.load_state_dict(saved["model"])
        again.load_state_dict(saved["optimizer"])
        assert again.gamma == 0.003 * stop
        assert torch.equal(self.run(resumed, again, stop, self.STEPS), last)
        for mine, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(again.w, optimizer.w)
        assert str(again.state_dict()) == str(optimizer.state_dict())
        assert again.steps == self.STEPS

    def test_another_rate_of_w_is_that_of_the_new_object(self) -> None:
        model = noisy_network()
        first, second = balanced(model, w_lr=0.01), balanced(model, w_lr=0.2)
        first.step(noisy_losses(model, 0))
        second.load_state_dict(written_and_read(first.state_dict()))
        before = second.w.clone()
        second.step(noisy_losses(model, 1))
        assert float((second.w - before).abs().max()) > 0.1


def not_a_number(losses: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: losses() * torch.tensor([1.0, float("nan")])


def endless_gradient(weights: Tensor, losses: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: losses() + (0 * weights).sum().sqrt()  # the loss is finite, its gradient is not


class TestNotFinite:
    @pytest.mark.parametrize("kind", ["loss", "gradient"])
    def test_a_step_is_skipped_and_counted_and_nothing_has_moved(self, kind: str) -> None:
        weights, losses = bowls()
        optimizer = BalancedOptimizer(torch.optim.Adam([weights], lr=0.1))
        optimizer.step(losses)
        before, inner = weights.detach().clone(), copy.deepcopy(optimizer.optimizer.state_dict())
        w, balance = optimizer.w.clone(), copy.deepcopy(optimizer.task_weights.state_dict())
        bad = not_a_number(losses) if kind == "loss" else endless_gradient(weights, losses)
        optimizer.step(bad)
        assert torch.equal(weights, before)
        assert str(optimizer.optimizer.state_dict()) == str(inner)
        assert str(optimizer.task_weights.state_dict()) == str(balance)
        assert torch.equal(optimizer.w, w)
        assert weights.grad is None
        assert (optimizer.steps, optimizer.skipped_steps, optimizer.second_forwards) == (1, 1, 1)
        optimizer.step(losses)
        assert (optimizer.steps, optimizer.skipped_in_a_row) == (2, 0)

    def test_a_skipped_batch_leaves_no_trace_in_buffers_where_the_model_is_given(self) -> None:
        model = noisy_network()
        optimizer, before = balanced(model, model=model), copy.deepcopy(dict(model.named_buffers()))
        optimizer.step(lambda: model(torch.full((6, 4), float("nan"))).mean(0))
        assert optimizer.skipped_steps == 1
        torch.testing.assert_close(dict(model.named_buffers()), before)

    def test_a_loss_that_is_lost_after_the_step_leaves_w_alone(self) -> None:
        weights, losses = bowls()
        optimizer = by_sgd(weights)
        optimizer.step(lambda: losses() if torch.is_grad_enabled() else losses() * float("inf"))
        assert (optimizer.steps, optimizer.skipped_steps, optimizer.skipped_updates) == (1, 0, 1)
        assert optimizer.w.tolist() == [0, 0]

    def test_too_many_in_a_row_end_training(self) -> None:
        weights, losses = bowls()
        optimizer = by_sgd(weights)
        optimizer.step(losses)
        for _ in range(24):
            optimizer.step(not_a_number(losses))
        with pytest.raises(TrainingDiverged, match="a loss was not a finite number in 25 steps in a row, the last aft"):
            optimizer.step(not_a_number(losses))


class TestSchedulers:
    def test_the_learning_rate_of_the_wrapped_optimizer_follows_a_schedule_of_either(self) -> None:
        weights, losses = bowls()
        optimizer = by_sgd(weights)
        for each in (optimizer, optimizer.optimizer):
            schedule = LambdaLR(each, lambda step: 0.5**step)
            optimizer.step(losses)
            schedule.step()
            assert optimizer.optimizer.param_groups[0]["lr"] == 0.05
        ReduceLROnPlateau(optimizer, factor=0.1, patience=0).step(1.0)

    def test_they_share_groups_after_loading_too(self) -> None:
        weights, _ = bowls()
        optimizer = by_sgd(weights)
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.param_groups[0]["lr"] = 7
        assert optimizer.optimizer.param_groups[0]["lr"] == 7
