"""HPCM's order of coding is the published one, and no element is coded twice or never."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitdial.compression.models.steps import PATTERNS, TO_SCALE_1, TO_SCALE_2, at_scale, places, put, take

# For each of eight groups of channels: the rows of a 4x4 cell; a digit is the step, a = 10, b = 11. Where it says 1 or
# 2, it does in cells whose row and column are even together; in the others they are swapped.
DIGITS = (
    "1859/a6b7/4938/b7a6",
    "a6b7/8195/b7a6/9483",
    "8591/6a7b/9384/7b6a",
    "6a7b/5819/7b6a/3948",
    "4938/b7a6/2859/a6b7",
    "b7a6/9483/a6b7/8295",
    "9384/7b6a/8592/6a7b",
    "7b6a/3948/6a7b/5829",
)


def full(packed: Tensor, step: int) -> Tensor:
    """The packed elements of a step at their places in the latents."""
    found = PATTERNS[step - 1].unpack(packed)
    for phases in (TO_SCALE_1, TO_SCALE_2)[PATTERNS[step - 1].scale - 1 :]:
        found = put(found, phases)
    return found


def packed(y: Tensor, step: int) -> Tensor:
    return PATTERNS[step - 1].pack(at_scale(y, PATTERNS[step - 1].scale))


def order(channels: int, height: int, width: int) -> Tensor:
    """`[channels, height, width]`: the step of every element, the sum of several where it is coded several times."""
    y = torch.ones(1, channels, height, width)
    return sum((step * full(packed(y, step), step) for step in range(1, 12)), torch.zeros_like(y))[0]


@pytest.mark.parametrize("per_group", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12), (20, 16)])
def test_the_order_is_the_published_one(height: int, width: int, per_group: int) -> None:
    expected = torch.zeros(8 * per_group, height, width)
    for group, rows in enumerate(DIGITS):
        cell = [[int(digit, 12) for digit in row] for row in rows.split("/")]
        for i in range(height):
            for j in range(width):
                step = cell[i % 4][j % 4]
                swapped = step < 3 and (i // 4 + j // 4) % 2
                expected[group * per_group : (group + 1) * per_group, i, j] = 3 - step if swapped else step
    assert torch.equal(order(8 * per_group, height, width), expected)


def test_the_share_of_each_step() -> None:
    y = torch.ones(1, 16, 8, 8)
    shares = [packed(y, step).numel() / y.numel() for step in range(1, 12)]
    assert shares == [1 / 32] * 2 + [1 / 16] * 3 + [1 / 8] * 6


@pytest.mark.parametrize("step", range(1, 12))
def test_a_step_packs_its_elements_and_puts_them_back(step: int) -> None:
    y = torch.randn(2, 16, 8, 12)
    dense = packed(y, step)
    pattern = PATTERNS[step - 1]
    assert dense.shape == (2, 16 // pattern.groups, 8 * 2**pattern.scale // 8, 12 * 2**pattern.scale // 8)
    assert torch.equal(full(dense, step), torch.where(order(16, 8, 12) == step, y, 0))


@pytest.mark.parametrize("phases", [TO_SCALE_1, TO_SCALE_2])
def test_what_is_taken_goes_back_to_its_places(phases: tuple[tuple[int, int], ...]) -> None:
    y = torch.randn(2, 8, 4, 6)
    assert torch.equal(put(take(y, phases), phases), torch.where(places(y, phases), y, 0))
    assert places(y, phases).sum() == 8 * 4 * 6 / 4
