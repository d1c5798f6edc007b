"""Schedulers of gamma: values, borders, the plateau, resume, one gamma for each scale."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bitdial.compression import AdaptiveGammaScheduler, BalancedOptimizer, HPCMGammaScheduler
from bitdial.errors import BitdialError
from tests.compression.balance.toys import bowls, written_and_read


def optimizer(num_tasks: int = 2) -> BalancedOptimizer:
    return BalancedOptimizer(torch.optim.SGD([bowls()[0]], lr=0.1), num_tasks)


GOLDEN: dict[str, dict[int, float]] = {
    "linear": {0: 0.006, 750: 0.00475, 2250: 0.00225, 3000: 0.001},
    "cosine": {1: 0.00599999862922, 750: 0.00526776695297, 1500: 0.0035, 2250: 0.00173223304703, 3000: 0.001},
    "step": {0: 0.006, 999: 0.006, 1000: 0.003, 2000: 0.0015, 3000: 0.0015},
    "hpcm": {
        0: 0.006, 150: 0.0066, 299: 0.007196, 300: 0.0072, 1150: 0.0054, 1999: 0.00360211764706,
        2000: 0.0042, 2500: 0.00357, 2999: 0.00294126, 3000: 0.00294,
    },
}  # fmt: skip


@pytest.mark.parametrize("strategy", GOLDEN)
def test_values_by_hand(strategy: str) -> None:
    balanced = optimizer()
    scheduler = AdaptiveGammaScheduler(balanced, strategy)
    assert balanced.gamma == 0.006  # from the start, before any step
    for epoch, gamma in GOLDEN[strategy].items():
        assert scheduler.step(epoch) == balanced.gamma == pytest.approx(gamma, rel=1e-11)


def test_hpcm_has_a_scheduler_of_its_own() -> None:
    balanced = optimizer()
    scheduler = HPCMGammaScheduler(balanced, 3000, 0.006)
    for epoch, gamma in GOLDEN["hpcm"].items():
        assert scheduler.step(epoch, current_loss=1.0) == balanced.gamma == pytest.approx(gamma, rel=1e-11)


def test_each_scale_may_have_its_own_gamma() -> None:
    balanced = optimizer(num_tasks=4)
    first = {"distortion": 0.006, "s1": 0.008, "s2": 0.006, "s3": 0.004}
    scheduler = HPCMGammaScheduler(balanced, 300, first)
    assert balanced.gamma == (0.006, 0.008, 0.006, 0.004)
    assert scheduler.step(30) == {name: pytest.approx(1.2 * gamma) for name, gamma in first.items()}
    assert balanced.gamma == pytest.approx([1.2 * gamma for gamma in first.values()])
    with pytest.raises(BitdialError, match="gamma must be one for each of the 2 tasks, got 4"):
        HPCMGammaScheduler(optimizer(), 300, first)


def test_options_of_a_strategy_count() -> None:
    steps = AdaptiveGammaScheduler(optimizer(), "step", 1.0, step_epochs=[5, 6], gamma_decay=0.1, total_epochs=9)
    assert [steps.step(epoch) for epoch in (4, 5, 6)] == pytest.approx([1, 0.1, 0.01])
    smooth = AdaptiveGammaScheduler(optimizer(), "hpcm", 1.0, total_epochs=30, continuous=True)
    assert smooth.step(20) == HPCMGammaScheduler(optimizer(), 30, 1.0, continuous=True).step(20) == pytest.approx(0.6)
    assert AdaptiveGammaScheduler(optimizer(), "step", 1.0, total_epochs=30).step(10) == 0.5  # a third of the run


class TestPlateau:
    def decays(self, losses: list[float], **options: Any) -> list[int]:
        """After which losses gamma falls, and that each time it goes half the way to its end."""
        balanced = optimizer()
        scheduler = AdaptiveGammaScheduler(balanced, "adaptive", 1.0, 0.2, len(losses), **options)
        found, before = [], 1.0
        for index, loss in enumerate(losses):
            gamma = scheduler.step(index, loss)
            assert gamma == balanced.gamma
            if gamma != before:
                assert gamma == pytest.approx(0.2 + (before - 0.2) * 0.5)
                found.append(index)
            before = gamma
        return found

    def test_a_flat_loss_decays_whenever_a_new_window_is_full(self) -> None:
        assert self.decays([1.0] * 160) == [49, 99, 149]

    def test_a_loss_that_falls_fast_enough_never_does(self) -> None:
        assert self.decays([0.999**step for step in range(300)]) == []  # 2.5% from half to half

    def test_the_threshold_is_where_it_decays(self) -> None:
        for improvement, decays in ((0.0099, [49]), (0.0101, [])):
            assert self.decays([1.0] * 25 + [1.0 - improvement] * 25) == decays

    def test_it_decays_as_soon_as_the_fall_has_ended(self) -> None:
        losses = [10.0 - 0.5 * step for step in range(10)] + [5.0] * 10
        # a window of 4: two pairs; that after loss 12 is (5, 5, 5, 5), the one before it (5.5, 5, 5, 5), 4.8% better
        assert self.decays(losses, window_size=4) == [13, 17]

    def test_a_rising_loss_decays_and_an_odd_window_has_its_longer_half_behind(self) -> None:
        assert self.decays([1.0, 2.0, 3.0, 4.0], window_size=3) == [2]
        assert self.decays([3.0, 1.0, 3.0, 3.0], window_size=3) == [3]  # (3 | 1, 3) is better, (1 | 3, 3) is not

    def test_losses_below_and_at_zero(self) -> None:
        assert self.decays([-1.0, -1.0, -2.0, -2.0], window_size=4) == []
        assert self.decays([0.0] * 4, window_size=4) == [3]

    def test_a_loss_that_is_not_finite_is_not_looked_at(self) -> None:
        assert self.decays([1.0, float("nan"), 1.0, float("inf"), 1.0, 1.0, 0.5], window_size=4) == [5]

    def test_it_survives_a_resume_at_any_epoch(self) -> None:
        draw = random.Random(0)
        losses = [1.0 + draw.gauss(0, 0.02) - 0.002 * step for step in range(60)]
        whole_optimizer = optimizer()
        whole = AdaptiveGammaScheduler(whole_optimizer, "adaptive", total_epochs=60, window_size=6)
        states = []
        gammas = []
        for epoch, loss in enumerate(losses):
            states.append(written_and_read(whole.state_dict()))
            gammas.append(whole.step(epoch, loss))
        assert len(set(gammas)) > 3
        for start in range(1, 60):
            resumed = AdaptiveGammaScheduler(optimizer(), "adaptive", total_epochs=60, window_size=6)
            resumed.load_state_dict(states[start])
            assert resumed.optimizer.gamma == gammas[start - 1]
            assert [resumed.step(epoch, losses[epoch]) for epoch in range(start, 60)] == gammas[start:]


@pytest.mark.parametrize("make", [AdaptiveGammaScheduler, HPCMGammaScheduler])
def test_a_resumed_schedule_stands_where_it_stood(make: Callable[[Any], Any]) -> None:
    first, second = make(optimizer()), make(optimizer())
    gamma = first.step(1234)
    second.load_state_dict(written_and_read(first.state_dict()))
    assert second.optimizer.gamma == gamma == first.gamma
    assert second.epoch == 1234


CASES: list[tuple[Callable[[], Any], str]] = [
    (lambda: AdaptiveGammaScheduler(optimizer()).step(-1), r"epoch must be a whole number in 0..3000 .* got -1"),
    (lambda: AdaptiveGammaScheduler(optimizer()).step(3001), r"in 0..3000 \(total_epochs\), got 3001; count from 0"),
    (lambda: AdaptiveGammaScheduler(optimizer()).step(1.5), "got 1.5"),  # type: ignore[arg-type]
    (lambda: HPCMGammaScheduler(optimizer(), 10).step(11), r"in 0..10 \(total_epochs\), got 11"),
    (lambda: AdaptiveGammaScheduler(optimizer(), "cosin"), "strategy must be one of .* got 'cosin'; did you mean 'cos"),
    (lambda: AdaptiveGammaScheduler(optimizer(), step_epochs=[1]), "options of strategy cosine are none, got 'step_ep"),
    (lambda: AdaptiveGammaScheduler(optimizer(), "adaptive", window=5), "are window_size, threshold, gamma_decay, got"),
    (
        lambda: AdaptiveGammaScheduler(optimizer(), initial_gamma=-1),
        "initial_gamma must be a finite number of at least",
    ),
    (lambda: AdaptiveGammaScheduler(optimizer(), total_epochs=0), "total_epochs must be a whole number of at least 1"),
    (
        lambda: AdaptiveGammaScheduler(optimizer(), "step", total_epochs=300, step_epochs=[1000, 2000]),
        r"step_epochs must be within the run's 300 epochs, got \[1000, 2000\]; lower them",
    ),
    (
        lambda: AdaptiveGammaScheduler(optimizer(), "adaptive", window_size=1),
        "window_size must be .* at least 2, got 1",
    ),
    (lambda: AdaptiveGammaScheduler(optimizer(), "adaptive").step(1), "adaptive needs the loss, got none; call step"),
    (
        lambda: AdaptiveGammaScheduler(SimpleNamespace()),
        "must have a gamma to set, got SimpleNamespace without; pass Ba",
    ),
    (lambda: HPCMGammaScheduler(optimizer(), 10, {"s1": 0.1, "s2": None}), "gamma of s2 must be a finite number"),  # type: ignore[dict-item]
    (
        lambda: AdaptiveGammaScheduler(optimizer()).load_state_dict(HPCMGammaScheduler(optimizer()).state_dict()),
        "expected the state of a gamma scheduler with strategy 'cosine', got that of 'hpcm'",
    ),
]


@pytest.mark.parametrize(("mistake", "sentence"), CASES)
def test_mistakes_are_one_sentence(mistake: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(BitdialError, match=sentence):
        mistake()
