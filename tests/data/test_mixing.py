"""CutMix and MixUp: how often, which of the two, and what the loss makes of their labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from bitdial.data import MixOneOf
from bitdial.data.randomness import generator_for
from bitdial.data.strong import cutmix, mixup
from bitdial.training.tasks import Classification

BATCHES = 3000


def which(images: Tensor, labels: Tensor) -> str:
    """What was done to a batch of which image i is all 2**i and of class i."""
    if bool((labels.amax(1) == 1).all()) and torch.equal(images[:, 0, 0, 0], POWERS):
        return "none"
    return "cutmix" if bool(torch.isin(images, POWERS).all()) else "mixup"


POWERS = 2.0 ** torch.arange(4)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.5, 0.0), {"cutmix": 0.5, "mixup": 0.0, "none": 0.5}),
        ((0.0, 0.5), {"cutmix": 0.0, "mixup": 0.5, "none": 0.5}),
        ((0.5, 0.5), {"cutmix": 0.375, "mixup": 0.375, "none": 0.25}),
        ((1.0, 1.0), {"cutmix": 0.5, "mixup": 0.5, "none": 0.0}),
        ((0.8, 0.3), {"cutmix": 0.8 * 0.85, "mixup": 0.3 * 0.6, "none": 0.2 * 0.7}),
    ],
)
def test_shares_of_batches_are_the_documented_ones(
    probabilities: tuple[float, float], expected: dict[str, float]
) -> None:
    names: list[str] = []

    def noted(name: str):  # type: ignore[no-untyped-def]
        def transform(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            names.append(name)
            return images, labels

        return transform

    mixer = MixOneOf((noted("cutmix"), noted("mixup")), probabilities, 4)
    images, labels = torch.zeros(4, 1, 2, 2), torch.arange(4)
    for batch in range(BATCHES):
        mixer(images, labels, generator_for(7, batch))
    for name in ("cutmix", "mixup"):
        share = expected[name]
        bound = 4 * (share * (1 - share) / BATCHES) ** 0.5  # four standard errors; none at all for 0 and for 1
        assert abs(names.count(name) / BATCHES - share) <= bound, name
    assert abs(1 - len(names) / BATCHES - expected["none"]) <= 0.035


def test_the_pixels_are_those_of_the_drawn_transform() -> None:
    mixer = MixOneOf((cutmix(4), mixup(4)), (0.5, 0.5), 4)
    images, labels = POWERS[:, None, None, None].expand(-1, 1, 8, 8).contiguous(), torch.arange(4)
    seen = [which(*mixer(images, labels, generator_for(batch))) for batch in range(200)]
    assert all(40 <= seen.count(name) <= 110 for name in ("cutmix", "mixup", "none")), seen


def test_shares_that_came_in_are_mixed_on() -> None:
    shares = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    _, mixed = MixOneOf((mixup(2),), (1.0,), 2)(torch.zeros(2, 1, 2, 2), shares, generator_for(0))
    share = float((mixed[0, 0] - 0.2) / 0.7)
    assert 0 <= share <= 1
    assert torch.allclose(mixed, shares * share + shares.roll(1, 0) * (1 - share))


class Fixed(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_label_smoothing_smooths_the_mixed_label(smoothing: float, dtype: torch.dtype) -> None:
    """Mixing labels that were smoothed, and smoothing labels that were mixed, are the same: both are linear."""
    images, classes = (
        torch.arange(4.0)[:, None, None, None].expand(-1, 1, 8, 8).contiguous(),
        torch.tensor([0, 2, 1, 2]),
    )
    mixed, labels = MixOneOf((cutmix(3),), (1.0,), 3)(images, classes, generator_for(4))
    own = float((mixed[1] == images[1]).float().mean())
    assert 0.1 < own < 0.9  # a batch that is really mixed
    logits = torch.randn(4, 3, generator=generator_for(0)).to(dtype)
    hard = torch.eye(3)[classes]
    smooth = hard * (1 - smoothing) + smoothing / 3
    expected = -((own * smooth + (1 - own) * smooth.roll(1, 0)) * log_softmax(logits.float(), 1)).sum(1).mean()
    loss = Classification(smoothing).loss(Fixed(logits), (mixed, labels)).loss
    assert torch.allclose(loss.float(), expected, rtol=1e-5 if dtype is torch.float32 else 2e-2)


def test_scores_are_not_smoothed_and_take_the_largest_share() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    labels = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.6, 0.4]])
    sums, count = Classification(0.2).score(Fixed(logits), (torch.zeros(2, 1), labels))
    assert torch.allclose(sums["loss"], -(labels * log_softmax(logits, 1)).sum())
    assert (int(sums["accuracy"]), count) == (1, 2)
