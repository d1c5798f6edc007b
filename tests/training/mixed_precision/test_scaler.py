"""The loss scale at its floor, and the look at gradients that every step takes."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bitdial.training import TrainingDiverged
from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer
from bitdial.training.step.scaler import any_not_finite, not_finite
from tests.training.mixed_precision.by_hand import batches, small_net
from tests.training.mixed_precision.faults import Scaled

CRITERION = nn.CrossEntropyLoss()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


class TestTheScaleAndItsFloor:
    @pytest.mark.parametrize("least", [0.1, 0.3, 1e-3, 1e-30])
    def test_a_floor_that_float32_rounds_up_still_stops_the_run(self, least: float) -> None:
        model = small_net()
        trainer = MixedPrecisionTrainer(
            MixedPrecisionConfig(init_scale=least * 1.5, min_scale=least, overflow_patience=3)
        )
        optimizer = sgd(model)

        def many() -> None:
            for _ in range(20):
                trainer.train_step(model, optimizer, NotFinite(), *batches(1)[0])

        with pytest.raises(TrainingDiverged, match="a gradient was not a finite number in 3 steps in a row"):
            many()
        assert trainer.control.scaler.scale == torch.tensor(least).item()

    def test_a_floor_that_is_nothing_in_float32_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="min_scale"):
            MixedPrecisionConfig(min_scale=1e-50, init_scale=1e-44)

    def test_the_advice_fits_a_scale_that_is_held_too_high(self) -> None:
        model = small_net()
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(use_dynamic_loss_scaling=False, overflow_patience=2))
        optimizer = sgd(model)

        def many() -> None:
            for x, y in batches(4):
                trainer.train_step(model, optimizer, Scaled(1e4), x, y)

        with pytest.raises(TrainingDiverged, match="take a wider format, in which the same step is finite"):
            many()


class NotFinite:
    """A finite loss whose gradient is not."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return CRITERION(output, target) + (output.float().square().sum() * 0.0).sqrt()


class TestTheCheck:
    """The fast kernel and the plain form agree."""

    @pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("where", [0, 3])
    def test_they_agree(self, where: int, bad: float | None) -> None:
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.empty(shape)) for shape in ((3, 4), (5,), (), (2, 1, 3), (0,))]
        for weight in weights:
            weight.grad = torch.randn_like(weight) * 1e30
        if bad is not None:
            weights[where].grad.view(-1)[-1] = bad  # type: ignore[union-attr]
        before = [weight.grad.clone() for weight in weights]  # type: ignore[union-attr]
        optimizer = torch.optim.SGD([*weights, nn.Parameter(torch.ones(2))], lr=0.1)
        fast, plain = not_finite(optimizer), any_not_finite(before)
        assert (float(fast) > 0) is (float(plain) > 0) is (bad is not None)
        for weight, kept in zip(weights, before, strict=True):
            assert torch.equal(weight.grad.nan_to_num(7.0), kept.nan_to_num(7.0))  # type: ignore[union-attr]

    def test_nothing_but_weights_without_elements(self) -> None:
        assert float(any_not_finite([torch.empty(0), torch.empty(0, 3)])) == 0.0
