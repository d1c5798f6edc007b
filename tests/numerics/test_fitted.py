"""QuEST, binary weights and ranges of tokens, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from bitdial.numerics import binary_weight, get_activation_quantizer, levels, quest_values, snap_symmetric
from bitdial.numerics.fitted import GAUSSIAN_ENDS, gaussian_end, hadamard_block, quest_step, rotated


def bits(width: float) -> Tensor:
    return torch.tensor(width)


def error_slope(end: float, count: int) -> float:
    """Half the slope, by `end`, of the mean squared error of a standard normal variable on the grid from -end to end.

    Only the values v of the grid move it, by the integral of (v - x) times the density over the cell of each: the
    borders of cells, being half-way, change the error to second order. In a cell that is symmetric about v the integral
    is that of 2 t sinh(v t) exp(-t^2 / 2) times the density at v, which loses no digits however narrow the cell is.
    (The error itself is too flat at its smallest for its place to be found by comparing values.)
    """
    values = np.linspace(-end, end, count)
    half = end / (count - 1)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    t = half * (nodes + 1) / 2
    inner = values[1:-1, None]
    cells = (half / 2 * weights * 2 * t * np.sinh(inner * t) * np.exp(-(t**2) / 2)).sum(1) * norm.pdf(values[1:-1])
    outer = end * norm.sf(end - half) - norm.pdf(end - half)  # of both ends: from the last border on, without end
    return math.fsum([*(values[1:-1] / end * cells), 2 * outer])


@pytest.mark.parametrize("width", GAUSSIAN_ENDS)
def test_the_ends_have_the_smallest_error_for_normal_values(width: float) -> None:
    count = max(2, round(2**width))
    best = brentq(error_slope, 0.3, 8.0, args=(count,), xtol=1e-12)
    assert gaussian_end(width) == pytest.approx(best, abs=2e-6)


@pytest.mark.parametrize(
    ("width", "published"), [(1.0, 0.79788), (1.585, 1.22401), (2.0, 1.49353), (3.0, 2.05107), (4.0, 2.51393)]
)
def test_the_ends_are_those_that_are_published(width: float, published: float) -> None:
    assert gaussian_end(width) == pytest.approx(published, abs=2e-4)


@pytest.mark.parametrize("width", [1.0, 1.2, 1.585, 2.0, 2.7, 3.0, 6.5, 8.0, 9.0, 13.0, 16.0, 20.0])
def test_a_tensor_gives_the_same_end_as_a_number(width: float) -> None:
    found = gaussian_end(torch.tensor(width))
    expected = gaussian_end(min(width, 16.0)) if width > 16 else gaussian_end(width)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_quest_on_weights_made_by_hand() -> None:
    """Root mean squares 2 and 1: at 2 bits the grid is -1, -1/3, 1/3 and 1 times 1.49353 of them."""
    w = torch.tensor([[2.0, -2.0, 2.0, -2.0], [1.2, -0.8, 0.4, 1.3266499]])
    end = 1.49353 * torch.tensor([[2.0], [1.0]])
    expected = torch.tensor([[1, -1, 1, -1], [1, -1 / 3, 1 / 3, 1]]) * end
    torch.testing.assert_close(quest_values(w, bits(2.0)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quest_step(w, bits(2.0)), (end * 2 / 3).view(-1), rtol=1e-4, atol=1e-4)


def test_quest_trusts_what_is_at_most_half_a_step_from_its_value() -> None:
    w = torch.cat([torch.linspace(-1, 1, 30), torch.tensor([1.9, 4.0, -6.0])])[None].requires_grad_()
    values = quest_values(w, bits(3.0))
    values.backward(torch.ones_like(w))
    step = quest_step(w.detach(), bits(3.0))
    assert torch.equal(w.grad[0], ((values - w).abs() <= step / 2 * (1 + 1e-5))[0].float())
    assert w.grad[0, -1] == 0
    assert w.grad[0, 0] == 1


def test_quest_is_the_symmetric_grid_of_what_is_clipped() -> None:
    w = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    for width in (1.0, 1.585, 2.3, 4.0, 8.0):
        end = w.square().mean(1, keepdim=True).sqrt() * gaussian_end(width)
        torch.testing.assert_close(quest_values(w, bits(width)), snap_symmetric(w.clamp(-end, end), end, bits(width)))
        assert len(quest_values(w, bits(width))[0].unique()) <= int(levels(bits(width)))


def test_quest_of_activations_has_a_grid_for_each_token() -> None:
    make = get_activation_quantizer("quest").make_for
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10, 100])[:, None]
    values = make(widths=None, feature_dims=1)(x, bits(2.0))
    assert torch.equal(values, quest_values(x.view(6, 8), bits(2.0)).view(2, 3, 8))
    image = torch.randn(2, 3, 4, 4) * torch.tensor([1.0, 50.0]).view(2, 1, 1, 1)
    found = make(widths=None, feature_dims=3)(image, bits(2.0))
    assert torch.equal(found, quest_values(image.view(2, -1), bits(2.0)).view_as(image))


def test_the_range_of_a_token_is_its_own() -> None:
    module = get_activation_quantizer("token").make_for(widths=None, feature_dims=1)
    x = torch.tensor([[0.0, 1.0, 2.0, 3.1], [-10.0, 0.0, 4.0, 20.0]]).requires_grad_()
    values = module(x, bits(2.0))
    step = torch.tensor([[3.1 / 3], [10.0]])
    low = torch.tensor([[0.0], [-10.0]])
    torch.testing.assert_close(values, ((x - low) / step).round() * step + low)
    values.backward(torch.full((2, 4), 3.0))
    assert torch.equal(x.grad, torch.full((2, 4), 3.0))
    assert torch.equal(module(x, bits(32.0)), x)


def test_binary_weights_are_the_mean_magnitude_with_its_sign() -> None:
    w = torch.tensor([[1.0, -3.0, 0.0], [2.0, 2.0, -5.0]]).requires_grad_()
    expected = torch.tensor([[1.0, -1, 1], [1, 1, -1]]) * torch.tensor([[4 / 3], [3.0]])
    for width in (1.0, 2.0, 8.0):
        torch.testing.assert_close(binary_weight(w, bits(width)), expected)
    torch.testing.assert_close(binary_weight(w, bits(1.0), per_channel=False).abs(), torch.full((2, 3), 13 / 6))
    binary_weight(w, bits(1.0)).backward(torch.ones(2, 3))
    assert torch.equal(w.grad, torch.ones(2, 3))
    assert torch.equal(binary_weight(w, bits(32.0)), w)
    with torch.no_grad():
        assert binary_weight(torch.full((2, 3), 3e38), bits(1.0)).isfinite().all()
        assert binary_weight(torch.tensor([[math.nan, 1.0]]), bits(1.0)).isnan().any()


@pytest.mark.parametrize(("features", "block"), [(1, 1), (3, 1), (6, 2), (64, 64), (128, 128), (768, 128), (96, 32)])
def test_features_are_rotated_in_blocks_of_a_power_of_two(features: int, block: int) -> None:
    assert hadamard_block(features) == block
    x = torch.randn(3, features, 5, dtype=torch.float64)
    once = rotated(x, 1, block)
    torch.testing.assert_close(once.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(rotated(once, 1, block), x)
    if block == 2:
        torch.testing.assert_close(once[:, 0], (x[:, 0] + x[:, 1]) / math.sqrt(2))
