"""The generalised normal distribution: values known from elsewhere, gradients, tails and half precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bitdial.compression.likelihood import MIN_LIKELIHOOD, MIN_SCALE, cdf, likelihood, lower_bound
from bitdial.errors import BitdialError


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (0.5, (0.775182471984, 0.111290030154, 0.00111649279408)),
        (1.0, (0.483498658477, 0.215818627627, 0.0382420277523)),
        (4.0, (0.136052201774, 0.121891445342, 0.0972438615325)),
    ],
)
def test_probabilities_of_whole_numbers(scale: float, expected: tuple[float, ...]) -> None:
    got = likelihood(double(0, 1, 2), double(scale))
    assert got.tolist() == pytest.approx(expected, rel=1e-11)
    assert torch.equal(likelihood(-double(0, 1, 2), double(scale)), got)


@pytest.mark.parametrize("scale", [MIN_SCALE, 0.05, 0.0, -3.0])
def test_scales_below_the_bound_count_as_the_bound(scale: float) -> None:
    got = likelihood(double(0, 1), double(scale))
    # Published for exactly .12; ours is that in float32, 2e-8 less.
    assert got.tolist() == pytest.approx([0.999929278984, 3.53605079827e-05], rel=1e-6)
    assert -math.log2(got[0].item()) == pytest.approx(0.00010203, rel=1e-4)


def test_gradients_of_a_value_and_a_scale() -> None:
    value, scale = double(0.3).requires_grad_(), double(0.7).requires_grad_()
    got = likelihood(value, scale)
    got.sum().backward()
    assert got.item() == pytest.approx(0.5627549325604453, rel=1e-14)
    assert value.grad is not None
    assert scale.grad is not None
    assert value.grad.item() == pytest.approx(-0.4459888562540468, rel=1e-13)
    assert scale.grad.item() == pytest.approx(-0.4605468387481776, rel=1e-13)


def test_derivatives_agree_with_differences() -> None:
    values = torch.linspace(-6.3, 6.1, 9, dtype=torch.float64, requires_grad=True)
    scales = torch.tensor([[0.4], [1.0], [7.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cdf, (values,))
    assert torch.autograd.gradgradcheck(cdf, (values,))
    assert torch.autograd.gradcheck(likelihood, (values, scales))


def test_distribution_function_rises_from_0_to_1_and_is_odd_around_one_half() -> None:
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    got = cdf(x)
    assert bool((got.diff() >= 0).all())
    assert got[0] < 1e-60
    assert got[-1] == 1
    assert torch.allclose(got + got.flip(0), torch.ones_like(got), rtol=0, atol=1e-15)


@pytest.mark.parametrize("scale", [0.12, 1.0, 20.0])
def test_bins_add_up_to_one(scale: float) -> None:
    values = torch.arange(-400, 401, dtype=torch.float64)
    excess = len(values) * MIN_LIKELIHOOD
    assert likelihood(values, double(scale)).sum().item() == pytest.approx(1, abs=excess)


def test_tails_in_single_precision_have_the_digits_of_double_precision() -> None:
    values = torch.arange(0, 300, dtype=torch.float64)
    for scale in (0.5, 3.0, 40.0):
        exact = likelihood(values, double(scale))
        single = likelihood(values.float(), torch.tensor([scale]))
        assert single.dtype == torch.float32
        kept = exact > MIN_LIKELIHOOD
        assert torch.allclose(single.double()[kept], exact[kept], rtol=2e-3, atol=0)  # 1 - (1 - 1e-8) has none left
        assert bool((single >= MIN_LIKELIHOOD * (1 - 1e-6)).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_precision(dtype: torch.dtype) -> None:
    values, scale = torch.tensor([0.0, 1, 2, 30], dtype=dtype), torch.tensor([0.5], dtype=dtype, requires_grad=True)
    got = likelihood(values, scale)
    assert got.dtype == torch.float32
    assert torch.equal(got, likelihood(values.float(), scale.float()))
    got.log2().sum().backward()
    assert scale.grad is not None
    assert scale.grad.dtype == dtype
    assert bool(scale.grad.isfinite().all())
    assert likelihood(values, double(0.5)).dtype == torch.float64


def test_the_bound_lets_a_gradient_pass_that_pushes_up() -> None:
    for sign, expected in ((-1.0, [-1.0, -1.0, -1.0]), (1.0, [0.0, 1.0, 1.0])):
        x = double(-2, 1, 3).requires_grad_()
        bounded = lower_bound(x, 1)
        assert bounded.tolist() == [1, 1, 3]
        (sign * bounded).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == expected


def test_an_impossible_value_still_has_a_gradient_towards_what_is_possible() -> None:
    value, scale = double(90).requires_grad_(), double(2).requires_grad_()
    rate = -likelihood(value, scale).log2()
    assert rate.item() == pytest.approx(-math.log2(MIN_LIKELIHOOD))
    nearby = double(12).requires_grad_()
    (-likelihood(nearby, scale).log2()).sum().backward()
    assert nearby.grad is not None
    assert nearby.grad.item() > 0
    assert scale.grad is not None
    assert scale.grad.item() < 0


def test_nan_is_not_hidden() -> None:
    assert likelihood(double(math.nan, 0), double(1)).isnan().tolist() == [True, False]
    assert likelihood(double(0), double(math.nan)).isnan().all()


@pytest.mark.parametrize("shape", [(0,), (), (2, 0, 3)])
def test_empty_and_scalar_shapes(shape: tuple[int, ...]) -> None:
    assert likelihood(torch.zeros(shape), torch.ones(())).shape == shape


@pytest.mark.parametrize(
    ("values", "scale", "text"),
    [
        ([0.0], torch.ones(1), "values must be a tensor of floating-point numbers, got list"),
        (None, torch.ones(1), "values must be .* got NoneType"),
        (1.0, torch.ones(1), "values must be .* got float"),
        ("0", torch.ones(1), "values must be .* got str"),
        (torch.zeros(1, dtype=torch.int32), torch.ones(1), r"values must be .* got torch.int32; convert"),
        (torch.zeros(1, dtype=torch.bool), torch.ones(1), "values must be .* got torch.bool"),
        (torch.zeros(1, dtype=torch.complex64), torch.ones(1), "values must be .* got torch.complex64"),
        (torch.zeros(1), 1.0, "scale must be .* got float"),
        (torch.zeros(1), torch.ones(1, dtype=torch.int64), "scale must be .* got torch.int64"),
        (torch.zeros(2), torch.ones(3), r"must broadcast, got shapes \(2,\) and \(3,\)"),
        (torch.zeros(2, 3), torch.ones(2), r"must broadcast, got shapes \(2, 3\) and \(2,\)"),
        (torch.zeros(1).to(torch.float8_e4m3fn), torch.ones(1), "values must be .* got torch.float8_e4m3fn"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(values: Any, scale: Any, text: str) -> None:
    with pytest.raises(BitdialError, match=text):
        likelihood(values, scale)


@pytest.mark.parametrize("bound", [None, "0", math.nan, True, torch.zeros(1)])
def test_a_bound_must_be_a_number(bound: Any) -> None:
    with pytest.raises(BitdialError, match="bound must be a number"):
        lower_bound(torch.zeros(1), bound)
